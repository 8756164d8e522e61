"""Tells the files of masks from those of frames by their names, and finds the frame of each mask.

The name of a mask's file is that of its frame with a suffix, and in a folder of masks also without one. What else it
has is a number or a class; a folder below that of masks is a class, too.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

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
    """What the name of a mask says: its frame, its class and its number."""

    frame: str
    label: str
    number: str = ""


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
        """Where the frames of these masks may be, each with the class that the folder then names."""
        yield self.folder, ""
        if self.below:
            at = len(self.folder) - self.below
            yield self.folder[:at] + self.folder[at + 1 :], self.folder[at]
            yield self.folder[:-1], self.folder[-1]


def listed(names: Sequence[str], suffixes: Sequence[str]) -> Listing:
    """Lists the image files among the members of a zip.

    Args:
        names: the members.
        suffixes: `data.mask_suffixes`.
    """
    ending = _ending(suffixes)
    listing, apart = Listing(), []
    for folder, files in _folders(names).items():
        place, beside = _place(folder), _beside(files, ending)
        if beside:
            place = _Place(tuple(part.casefold() for part in folder.parts), is_of_frames=place.is_of_frames)
        elif place.masks:
            apart.append((place, files))
            continue
        for name, members in files.items():
            if name in beside:
                _add(listing, place.folder, beside[name], members)
            elif place.is_of_frames or not _ends(name, ending):
                listing.frames[place.folder, name] += members
            else:
                listing.strays += members
    frames = defaultdict(set)
    for key_folder, name in listing.frames:
        frames[key_folder].add(name)
    for place, files in apart:
        for name, members in files.items():
            for key_folder, label in place.counterparts():
                if found := _named(name, ending, frames.get(key_folder, ()), place.masks, label):
                    _add(listing, key_folder, found, members)
                    break
            else:
                listing.strays += members
    for key, masks in listing.masks.items():
        listing.masks[key] = _united(masks)
    return listing


def _folders(names: Sequence[str]) -> dict[PurePosixPath, defaultdict[str, list[str]]]:
    """The image files of each folder, by name without type, in lower case."""
    folders: defaultdict[PurePosixPath, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if has_suffix(name, IMAGE_SUFFIXES):
            path = PurePosixPath(name)
            folders[path.parent][path.stem.casefold()].append(name)
    return folders


def _place(folder: PurePosixPath) -> _Place:
    parts = tuple(part.casefold() for part in folder.parts)
    for at in reversed(range(len(parts))):
        is_of_frames = parts[at] in _FRAME_FOLDERS
        if is_of_frames or parts[at] in _MASK_FOLDERS:
            masks = "" if is_of_frames else parts[at]
            return _Place(parts[:at] + parts[at + 1 :], masks, is_of_frames, len(parts) - at - 1)
    return _Place(parts)


def _add(listing: Listing, folder: Folder, named: _Named, members: Sequence[str]) -> None:
    listing.masks[folder, named.frame] += [MaskName(member, named.label, named.number) for member in members]


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
    either = "|".join(re.escape(suffix.casefold()) for suffix in suffixes)
    rest = f"{_SEPARATOR.pattern}?(?P<number>[0-9]+)|{_SEPARATOR.pattern}(?P<label>.+)"
    return re.compile(f"(?P<frame>.+)(?P<suffix>{either})(?:{rest})?", re.DOTALL)


def _ends(name: str, ending: re.Pattern[str]) -> bool:
    """Whether it ends in a suffix."""
    match = ending.fullmatch(name)
    return match is not None and not match["number"] and not match["label"]


def _beside(names: Collection[str], ending: re.Pattern[str]) -> dict[str, _Named]:
    """The masks of frames in the same folder."""
    masks = {name for name in names if (match := ending.fullmatch(name)) and match["frame"] in names}
    frames = {name for name in names if name not in masks}
    return {name: found for name in names if (found := _named(name, ending, frames))}


def _named(
    name: str, ending: re.Pattern[str], frames: Collection[str], folder: str = "", label: str = ""
) -> _Named | None:
    """What the name of a mask says; None: it is that of none of these frames.

    Args:
        folder: the name of the folder of masks in which it is, and where it needs no suffix; empty: it is in none.
        label: the class that a folder below that names.
    """
    if folder and name in frames:
        return _Named(name, label or folder)
    match = ending.fullmatch(name)
    if match and match["frame"] in frames:
        word = "/".join(filter(None, (label, match["label"]))) or match["suffix"].strip(_SEPARATORS)
        return _Named(match["frame"], word, match["number"] or "")
    if match and not match["label"]:  # x_nerve_mask
        found = _before_class(match["frame"], frames)
    else:  # in a folder of masks, x_nerve
        found = _before_class(name, frames) if folder else None
    if not found:
        return None
    word = "/".join(filter(None, (label, found.label)))
    return replace(found, label=word, number=(match["number"] if match else None) or "")


def _before_class(name: str, frames: Collection[str]) -> _Named | None:
    """The frame and the class in a name such as x_nerve."""
    for match in reversed([*_SEPARATOR.finditer(name)][-_MOST_WORDS:]):
        frame, label = name[: match.start()], name[match.end() :]
        if frame in frames and label and not label.isdecimal():
            return _Named(frame, label)
    return None
