"""Tells the files of masks from those of frames by their names, and finds the frame of each mask.

The name of a mask's file is that of its frame with a suffix, and in a folder of masks also without one. What else it
has is a number or a class; a folder below that of masks is a class, too.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, has_suffix

_FRAME_FOLDERS = ("images", "image", "imgs", "img", "frames")
_MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "segmentations", "segmentation", "annotations"),
    *("groundtruth", "ground_truth", "gt"),
)
_SEPARATORS = "_-. "  # before a suffix, a number or a class
_SEPARATOR = re.compile(f"[{re.escape(_SEPARATORS)}]")
_MOST_WORDS = 4  # of a class that stands before the suffix

Folder = tuple[str, ...]  # its path in lower case, where frames and masks lie apart without the names that say so
Key = tuple[Folder, str]  # of a frame: its folder, and its name without type, in lower case
_Matches = Mapping[str, re.Match[str] | None]  # of `_ending` with each name in a folder


@dataclass(frozen=True)
class MaskName:
    """A file of a mask.

    Attributes:
        member: its name in the zip.
        label: its class; where the name has none, the suffix or the folder that says that it is a mask.
        number: of several files of one mask; empty: it has none.
    """

    member: str
    label: str
    number: str = ""


@dataclass
class Listing:
    """The image files of a zip.

    Attributes:
        frames: several have one name if their types differ.
        masks: those of each frame.
        strays: masks without a frame.
    """

    frames: defaultdict[Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    masks: defaultdict[Key, list[MaskName]] = field(default_factory=lambda: defaultdict(list))
    strays: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Named:
    """What the name of a mask says: its frame, its class, its number, and the suffix or folder that says it is one."""

    frame: Key
    label: str = ""
    number: str = ""
    sign: str = ""


@dataclass(frozen=True)
class _Place:
    """A folder with image files.

    Attributes:
        folder: in lower case, without the last name in it that says what it has.
        masks: that name, if it says masks.
        is_of_frames: whether it says frames.
        below: how many folders are below it.
    """

    folder: Folder
    masks: str = ""
    is_of_frames: bool = False
    below: int = 0

    def counterparts(self) -> Iterator[tuple[Folder, str]]:
        """Where the frames of a folder of masks may be, each with the class that the folder then names."""
        if self.masks:
            yield self.folder, ""
        if self.masks and self.below:
            at = len(self.folder) - self.below
            yield self.folder[:at] + self.folder[at + 1 :], self.folder[at]
            yield self.folder[:-1], self.folder[-1]


def listed(names: Sequence[str], suffixes: Sequence[str]) -> Listing:
    """Lists the image files among the members of a zip.

    Args:
        names: the members.
        suffixes: `data.mask_suffixes`.
    """
    ending, listing = _ending(suffixes), Listing()
    frames: defaultdict[Folder, set[str]] = defaultdict(set)
    folders = [(_place(path), files) for path, files in _folders(names).items()]
    folders.sort(key=lambda each: bool(each[0].masks))  # frames before the masks that are apart from them
    for place, files in folders:
        matches = {name: ending.fullmatch(name) for name in files}
        elsewhere = [(folder, label) for folder, label in place.counterparts() if folder in frames]
        found = _apart(matches, place.masks, elsewhere, frames) if elsewhere else _beside(matches, place.folder)
        has_frames = not place.masks or (found and not elsewhere)
        for name, members in files.items():
            if name in found:
                named = found[name]
                label = named.label or named.sign
                listing.masks[named.frame] += [MaskName(member, label, named.number) for member in members]
            elif has_frames and (place.is_of_frames or not _ends(matches[name])):
                listing.frames[place.folder, name] += members
                frames[place.folder].add(name)
            else:
                listing.strays += members
    for key, masks in listing.masks.items():
        listing.masks[key] = _united(masks)
    return listing


def _folders(names: Sequence[str]) -> dict[str, defaultdict[str, list[str]]]:
    """The image files of each folder, by name without type, in lower case."""
    folders: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if has_suffix(name, IMAGE_SUFFIXES):
            folder, _, file = name.rpartition("/")
            folders[folder][file.rpartition(".")[0].casefold()].append(name)
    return folders


def _parts(path: str) -> Folder:
    return tuple(part for part in path.casefold().split("/") if part)


def _place(path: str) -> _Place:
    parts = _parts(path)
    for at in reversed(range(len(parts))):
        is_of_frames = parts[at] in _FRAME_FOLDERS
        if is_of_frames or parts[at] in _MASK_FOLDERS:
            masks = "" if is_of_frames else parts[at]
            return _Place(parts[:at] + parts[at + 1 :], masks, is_of_frames, len(parts) - at - 1)
    return _Place(parts)


def _united(masks: Sequence[MaskName]) -> list[MaskName]:
    """The masks of a frame; those with numbers are of a class each, unless one without a number begins them.

    x_mask.png and x_mask_1.png are one mask, but x_mask_1.png and x_mask_2.png may be nerve and artery.
    """
    begun = {mask.label for mask in masks if not mask.number}
    return [
        mask if not mask.number or mask.label in begun else MaskName(mask.member, f"{mask.label}_{mask.number}")
        for mask in masks
    ]


def _ending(suffixes: Sequence[str]) -> re.Pattern[str]:
    """Matches the name of a mask with a suffix, and what is behind that."""
    either = "|".join(re.escape(suffix.casefold()) for suffix in suffixes) or "(?!)"  # none: matches nothing
    rest = f"{_SEPARATOR.pattern}?(?P<number>[0-9]+)|{_SEPARATOR.pattern}(?P<label>.+)"
    return re.compile(f"(?P<frame>.+)(?P<suffix>{either})(?:{rest})?", re.DOTALL)


def _ends(match: re.Match[str] | None) -> bool:
    """Whether a name ends in a suffix."""
    return match is not None and not match["number"] and not match["label"]


def _beside(matches: _Matches, folder: Folder) -> dict[str, _Named]:
    """The masks of frames in the same folder, by name."""
    frames = {name for name, match in matches.items() if not (match and match["frame"] in matches)}
    named = {name: _suffixed(match, folder, frames) for name, match in matches.items() if match}
    return {name: found for name, found in named.items() if found}


def _apart(
    matches: _Matches, masks: str, elsewhere: Sequence[tuple[Folder, str]], frames: Mapping[Folder, Collection[str]]
) -> dict[str, _Named]:
    """The masks of frames in other folders, by name.

    Args:
        masks: what the folder is called.
        elsewhere: the other folders, each with the class that the folder of masks then has.
        frames: the names in each.
    """
    named = {}
    for name, match in matches.items():
        for folder, label in elsewhere:
            found = (
                _Named((folder, name), sign=masks)
                if name in frames[folder]
                else (match and _suffixed(match, folder, frames[folder])) or _before_class(name, folder, frames[folder])
            )
            if found:
                named[name] = replace(found, label="/".join(filter(None, (label, found.label))))
                break
    return named


def _suffixed(match: re.Match[str], folder: Folder, frames: Collection[str]) -> _Named | None:
    """What a name with a suffix says: x_mask, x_mask_1, x_mask_nerve or x_nerve_mask."""
    number = match["number"] or ""
    if match["frame"] in frames:
        return _Named((folder, match["frame"]), match["label"] or "", number, match["suffix"].strip(_SEPARATORS))
    found = None if match["label"] else _before_class(match["frame"], folder, frames)
    return found and replace(found, number=number)


def _before_class(name: str, folder: Folder, frames: Collection[str]) -> _Named | None:
    """What a name such as x_nerve says."""
    for match in reversed([*_SEPARATOR.finditer(name)][-_MOST_WORDS:]):
        frame, label = name[: match.start()], name[match.end() :]
        if frame in frames and label and not label.isdecimal():
            return _Named((folder, frame), label)
    return None
