"""Finds the images of a dataset zip by the names that a table or a JSON file gives them."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from nerveseg.data.archive import MAX_NAME
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, has_suffix

_LONGEST_END = 8  # parts of a path
_SHOWN = 5
_UPLOADED = re.compile("^[0-9a-f]{8}-")  # what Label Studio puts before the names of files that are uploaded


class Images:
    """The images of a zip.

    Attributes:
        names: their names in the zip.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self.names = [name for name in members if has_suffix(name, IMAGE_SUFFIXES)]
        self._by_end = defaultdict(list)  # of their paths: the file name and so many folders before it
        times = Counter(PurePosixPath(name).name for name in self.names)
        for name in self.names:
            parts = name.split("/")
            longest = min(len(parts), _LONGEST_END) if times[parts[-1]] > 1 else 1
            for length in range(1, longest + 1):
                self._by_end["/".join(parts[-length:])].append(name)

    def find(self, path: str, near: str) -> list[str]:
        """The images that a path may mean: none, the one, or several between which nothing decides.

        They have its file name, or else what is left of it without Label Studio's prefix. Of several, it means those
        that share most of the folders right before it; of these, the one in the folder of the file that names it, or in
        a folder called like what that file is about: `train`, if it is `instances_train.json`.

        Args:
            path: with either kind of slash, in any form of Unicode.
            near: the name in the zip of the file that has the path.
        """
        parts = parts_of(path)
        ends = ["/".join(parts[start:]) for start in range(max(0, len(parts) - _LONGEST_END), len(parts))]
        ends.append(_UPLOADED.sub("", parts[-1]))
        found = next((self._by_end[end] for end in ends if end in self._by_end), [])
        if len(found) < 2:
            return found
        folder = near.rpartition("/")[0]
        beside = [name for name in found if name.rpartition("/")[0] == folder]
        subset = PurePosixPath(near).stem.rpartition("_")[2]
        of_subset = [name for name in found if f"/{subset}/" in f"/{name}"]
        return next((few for few in (found, beside, of_subset) if len(few) == 1), found)

    def others(self, used: Iterable[str]) -> list[str]:
        """The images that are not in `used`."""
        known = set(used)
        return [name for name in self.names if name not in known]


def parts_of(path: str) -> list[str]:
    """The folders in a path and its file name, in the form of `Archive.names`; the slashes may be of either kind."""
    parts = re.split(r"[/\\]", unicodedata.normalize("NFC", path[-MAX_NAME:]))  # no name in a zip is longer
    return [part for part in parts if part not in ("", ".")] or [""]


def shown(names: Collection[str]) -> str:
    """The first of some names, in a sentence."""
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def short_names(members: Iterable[str]) -> dict[str, str]:
    """A unique name for each of these members: its file name, or the whole where others have the same file name."""
    names = {member: PurePosixPath(member).name for member in members}
    times = Counter(names.values())
    return {member: name if times[name] == 1 else member for member, name in names.items()}
