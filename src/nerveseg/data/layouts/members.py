"""Finds the images of a dataset zip by the names that a table or a JSON file gives them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import PurePosixPath, PureWindowsPath

from nerveseg.data.archive import MAX_NAME
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, has_suffix

_UPLOADED = re.compile("^[0-9a-f]{8}-")  # what Label Studio puts before the names of files that are uploaded


class Images:
    """The images of a zip.

    Attributes:
        names: their names in the zip.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self.names = [name for name in members if has_suffix(name, IMAGE_SUFFIXES)]
        self._by_file_name = defaultdict(list)
        for name in self.names:
            self._by_file_name[PurePosixPath(name).name].append(name)

    def find(self, path: str, near: str) -> list[str]:
        """The images that a path may mean: none, the one, or several between which nothing decides.

        They have its file name, or else what is left of it without Label Studio's prefix. Of several, it means those
        that share most of the folders right before it; of these, the one in the folder of the file that names it, or in
        a folder called like what that file is about: `train`, if it is `instances_train.json`.

        Args:
            path: with either kind of slash, in any form of Unicode.
            near: the name in the zip of the file that has the path.
        """
        parts = unicodedata.normalize("NFC", PureWindowsPath(path[-MAX_NAME:]).as_posix()).split("/")
        found = self._by_file_name.get(parts[-1]) or self._by_file_name.get(_UPLOADED.sub("", parts[-1]), [])
        if len(found) < 2:
            return found
        shared = {name: _shared(name.split("/"), parts) for name in found}
        found = [name for name in found if shared[name] == max(shared.values())]
        source = PurePosixPath(near)
        beside = [name for name in found if PurePosixPath(name).parent == source.parent]
        subset = source.stem.rpartition("_")[2]
        of_subset = [name for name in found if subset in PurePosixPath(name).parts[:-1]]
        return next((few for few in (found, beside, of_subset) if len(few) == 1), found)

    def others(self, used: Iterable[str]) -> list[str]:
        """The images that are not in `used`."""
        known = set(used)
        return [name for name in self.names if name not in known]


def short_names(members: Iterable[str]) -> dict[str, str]:
    """A unique name for each of these members: its file name, or the whole where others have the same file name."""
    members = list(members)
    times: defaultdict[str, int] = defaultdict(int)
    for member in members:
        times[PurePosixPath(member).name] += 1
    return {member: name if times[name := PurePosixPath(member).name] == 1 else member for member in members}


def _shared(one: list[str], other: list[str]) -> int:
    """How many parts two paths share at their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
