"""Frames with masks as image files, side by side or in two folders.

The name of a mask's file is that of its frame, with a suffix (`data.mask_suffixes`), and in a folder of masks also
without one: `x.png` and `x_mask.png`, or `images/x.png` and `masks/x.png`. What the name has besides says which of
several masks it is: `x_mask.png` and `x_mask_1.png` are one, as in BUSI (Al-Dhabyani et al. 2020, Dataset of breast
ultrasound images), but `x_mask_nerve.png`, `x_nerve_mask.png`, `masks/x_nerve.png` and `masks/nerve/x.png` are those of
a class. Without any masks, Kaggle's table `train_masks.csv` has them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.data.decoding import ImageFile, MaskFile, MaskSource, RunLengths, UnitedFiles
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, Choices, Dataset, Record, has_suffix
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

NAME = "pairs"
EXPECTED = (
    "images with masks beside them, such as x.png and x_mask.png (data.mask_suffixes names the suffixes), or in two "
    "folders, such as images/ and masks/"
)

_FRAME_FOLDERS = ("images", "image", "imgs", "img", "frames")
_MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "segmentations", "segmentation", "annotations"),
    *("groundtruth", "ground_truth", "gt"),
)
_SEPARATORS = "_-. "  # before a suffix, a number or a class in a name
_MOST_WORDS = 4  # of a class in a name
_SAME_TYPES = {".tiff": ".tif", ".jpeg": ".jpg"}
_TABLE = ("subject", "img", "pixels")  # the columns of train_masks.csv
_CLASSES_SHOWN = 20

_Folder = tuple[str, ...]  # in lower case, without the names that say what it has
_Key = tuple[_Folder, str]  # of a frame: its folder, and its name without type, in lower case


@dataclass(frozen=True)
class _Mask:
    """A file with a mask, of a class by its name; several with numbers may be one mask."""

    member: str
    label: str
    number: str = ""


@dataclass
class _Listing:
    """The image files of a zip.

    Attributes:
        frames: those with the same name have different types.
        masks: of each frame.
        strays: masks without a frame.
    """

    frames: defaultdict[_Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    masks: defaultdict[_Key, list[_Mask]] = field(default_factory=lambda: defaultdict(list))
    strays: list[str] = field(default_factory=list)

    def add(self, folder: _Folder, named: "_Named", members: Sequence[str]) -> None:
        self.masks[folder, named.frame] += [_Mask(member, named.label, named.number) for member in members]

    def numbered(self) -> "_Listing":
        """The listing with the numbers as a part of the classes, but for those of a mask that goes on in more files."""
        for key, masks in self.masks.items():
            first = {mask.label for mask in masks if not mask.number}
            self.masks[key] = [
                mask if not mask.number or mask.label in first else _Mask(mask.member, f"{mask.label}_{mask.number}")
                for mask in masks
            ]
        return self


def evidence(archive: Archive, choices: Choices) -> str:
    listing = _listed(archive, choices.mask_suffixes)
    if listing.masks:
        key, masks = next(iter(listing.masks.items()))
        return f"{len(listing.masks)} frames have masks, such as {listing.frames[key][0]} with {masks[0].member}"
    found = _tables(archive)
    return f"the table {found[0]} has the columns {', '.join(_TABLE)}" if found else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    listing = _listed(archive, choices.mask_suffixes)
    if not listing.masks:
        return _read_table(archive, choices)
    labels = Counter(mask.label for masks in listing.masks.values() for mask in masks)
    wanted = None if choices.classes is None else {str(label).casefold() for label in choices.classes}
    by_name = wanted is not None and (len(labels) > 1 or wanted <= set(labels))
    dataset = Dataset(NAME, mask_values=None if by_name else choices.classes)
    chosen = _chosen(archive, dataset, labels, wanted if by_name else None)
    values = tuple(dataset.mask_values) if dataset.mask_values is not None else None
    _add_records(dataset, listing, chosen, values)
    for member in listing.strays:
        dataset.error("missing frame", PurePosixPath(member).name, f"{member} is a mask without a frame of its name")
    return dataset


def _add_records(
    dataset: Dataset, listing: _Listing, chosen: Collection[str], values: tuple[int | str, ...] | None
) -> None:
    others = []  # frames with masks of other classes only
    example = next(iter(listing.masks.values()))[0].member
    for stem, members, masks in _labelled(dataset, listing):
        own = [mask for mask in masks if mask.label in chosen]
        if len(members) > 1 or len({(mask.label, mask.number) for mask in masks}) < len(masks):
            names = sorted([*members, *(mask.member for mask in masks)])
            dataset.error("duplicate name", stem, f"is in the zip as {', '.join(names)}; give each frame its own name")
            continue
        image = PurePosixPath(members[0]).name
        mask: MaskSource | None = None
        if not masks:
            dataset.error("missing mask", image, f"{members[0]} has no mask; others have one, such as {example}")
        elif not own:
            others.append(image)
            mask = RunLengths()
        else:
            files = tuple(MaskFile(each.member, values) for each in own)
            mask = files[0] if len(files) == 1 else UnitedFiles(files)
        dataset.records.append(Record(image, "", ImageFile(members[0]), mask))
    if others:
        detail = f"{len(others)} frames have masks of other classes only; they were read as frames without a nerve"
        dataset.warn("no mask of the class", others[0], detail)


def _labelled(dataset: Dataset, listing: _Listing) -> Iterator[tuple[str, list[str], list[_Mask]]]:
    """Each name of a frame in the folders with masks, sorted, with its files and masks; warns of frames elsewhere."""
    labelled = {folder for folder, _ in listing.masks}
    elsewhere = [name for (folder, _), names in listing.frames.items() if folder not in labelled for name in names]
    if elsewhere:
        dataset.warn_of_unlabelled(elsewhere, "no frame in their folder has a mask")
    types = {_type(names[0]) for key, names in listing.frames.items() if key in listing.masks and len(names) == 1}
    same = defaultdict(list)  # by name
    for key, names in listing.frames.items():
        if key[0] not in labelled:
            continue
        for name in names:
            if not types or _type(name) in types:
                same[PurePosixPath(name).stem].append((key, name))
            else:
                detail = f"{name} is not a {' or '.join(sorted(types))}, but the frames with masks are"
                dataset.warn("ignored file", PurePosixPath(name).name, detail)
    for stem in sorted(same, key=natural_key):
        masks = [mask for key in dict.fromkeys(key for key, _ in same[stem]) for mask in listing.masks.get(key, [])]
        yield stem, [name for _, name in same[stem]], masks


def _type(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return _SAME_TYPES.get(suffix, suffix)


def _chosen(archive: Archive, dataset: Dataset, labels: Counter[str], wanted: set[str] | None) -> set[str]:
    """The classes, by the names of the masks, that are nerve.

    Raises:
        NervesegError: `wanted` has one that is in no name.
    """
    shown = [f"{label} ({number} masks)" for label, number in labels.most_common(_CLASSES_SHOWN)]
    listed = ", ".join(shown) + (", ..." if len(labels) > _CLASSES_SHOWN else "")
    if wanted is None:
        if len(labels) > 1:
            example = labels.most_common(1)[0][0]
            detail = f"the masks are of several classes by their names: {listed}. Set data.classes to those that are"
            dataset.error("several classes", archive.path.name, f"{detail} nerve, such as data.classes: [{example}]")
        return set(labels)
    if unknown := sorted(wanted - set(labels)):
        raise NervesegError(
            f"data.classes has {', '.join(unknown)}, but the masks in {archive.path} are by their names of the classes "
            f"{listed}."
        )
    return wanted


def _listed(archive: Archive, suffixes: Sequence[str]) -> _Listing:
    """Tells frames from masks, and finds the frame of each mask."""
    ending = _ending(suffixes)
    folders: defaultdict[PurePosixPath, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in archive.names:
        if has_suffix(name, IMAGE_SUFFIXES):
            path = PurePosixPath(name)
            folders[path.parent][path.stem.casefold()].append(name)
    listing = _Listing()
    apart = []  # folders of masks
    for folder, names in folders.items():
        place = _place(folder)
        beside = _beside(names, ending)
        if beside:
            place = replace(place, folder=tuple(part.casefold() for part in folder.parts))
        elif place.masks:
            apart.append((place, names))
            continue
        for name, members in names.items():
            if name in beside:
                listing.add(place.folder, beside[name], members)
            elif place.is_of_frames or not _is_plain(name, ending):
                listing.frames[place.folder, name] += members
            else:
                listing.strays += members
    frames = defaultdict(set)
    for folder_key, name in listing.frames:
        frames[folder_key].add(name)
    for place, names in apart:
        for name, members in names.items():
            for folder_key, label in place.counterparts():
                if found := _named(name, ending, frames.get(folder_key, ()), place.masks, label):
                    listing.add(folder_key, found, members)
                    break
            else:
                listing.strays += members
    return listing.numbered()


@dataclass(frozen=True)
class _Named:
    """What the name of a mask says: its frame, its class, and its number."""

    frame: str
    label: str
    number: str = ""


def _ending(suffixes: Sequence[str]) -> re.Pattern[str]:
    """Matches the name of a mask with a suffix: after the frame's name it has the suffix, and a number or a class."""
    either = "|".join(re.escape(suffix.casefold()) for suffix in suffixes)
    separator = f"[{re.escape(_SEPARATORS)}]"
    rest = f"{separator}?(?P<number>[0-9]+)|{separator}(?P<label>.+)"
    return re.compile(f"(?P<frame>.+)(?P<suffix>{either})(?:{rest})?", re.DOTALL)


def _is_plain(name: str, ending: re.Pattern[str]) -> bool:
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
    """What the name of a mask says; None: it has none of these frames.

    Args:
        folder: the name of the folder of masks in which it is, and where it needs no suffix; empty: it is in none.
        label: a class by a folder below that.
    """
    if folder and name in frames:
        return _Named(name, label or folder)
    match = ending.fullmatch(name)
    if not match and not folder:
        return None
    front, number, word = (match["frame"], match["number"] or "", match["label"]) if match else (name, "", None)
    if match and front in frames:
        return _Named(front, "/".join(filter(None, (label, word))) or match["suffix"].strip(_SEPARATORS), number)
    if word:
        return None
    for _ in range(_MOST_WORDS):  # x_nerve_mask, and in a folder of masks x_nerve
        front = front[: max(map(front.rfind, _SEPARATORS), default=0)] if any(c in front for c in _SEPARATORS) else ""
        word = (match["frame"] if match else name)[len(front) + 1 :]
        if front in frames and not word.isdecimal():
            return _Named(front, "/".join(filter(None, (label, word))), number)
    return None


@dataclass(frozen=True)
class _Place:
    """A folder with image files.

    Attributes:
        folder: in lower case, without the last name in it that says what it has.
        masks: that name, if it says masks.
        is_of_frames: whether it says frames.
        below: how many folders are below it.
    """

    folder: _Folder
    masks: str = ""
    is_of_frames: bool = False
    below: int = 0

    def counterparts(self) -> Iterator[tuple[_Folder, str]]:
        """Where the frames of these masks may be, each with the class that the folder then names."""
        yield self.folder, ""
        if self.below:
            at = len(self.folder) - self.below
            yield self.folder[:at] + self.folder[at + 1 :], self.folder[at]
            yield self.folder[:-1], self.folder[-1]


def _place(folder: PurePosixPath) -> _Place:
    parts = tuple(part.casefold() for part in folder.parts)
    for at in reversed(range(len(parts))):
        if parts[at] in _MASK_FOLDERS or parts[at] in _FRAME_FOLDERS:
            rest = parts[:at] + parts[at + 1 :]
            is_of_frames = parts[at] in _FRAME_FOLDERS
            return _Place(rest, "" if is_of_frames else parts[at], is_of_frames, len(parts) - at - 1)
    return _Place(parts)


def _tables(archive: Archive) -> list[str]:
    names = [name for name in archive.names if tables.is_table(name)]
    return [name for name in names if set(_TABLE) <= set(tables.columns(archive, name))]


def _read_table(archive: Archive, choices: Choices) -> Dataset:
    """Frames `<subject>_<img>` and their run lengths in Kaggle's train_masks.csv."""
    found = _tables(archive)
    if len(found) > 1:
        raise NervesegError(
            f"{archive.path} has {len(found)} tables with the columns {', '.join(_TABLE)}: {', '.join(found)}. Keep "
            "one of them."
        )
    table = found[0]
    if choices.classes is not None:
        raise NervesegError(f"data.classes chooses among classes, but {table} has none. Set data.classes: null.")
    frames = defaultdict(list)
    for name in archive.names:
        if has_suffix(name, IMAGE_SUFFIXES):
            frames[PurePosixPath(name).stem].append(name)
    dataset = Dataset(NAME, table=table, columns=_TABLE, subject_from=f"the column subject of {table}")
    rows = defaultdict(list)
    for subject, img, runs in tables.rows(archive, table, _TABLE):
        rows[f"{subject}_{img}"].append((subject or "", runs))
    for stem in sorted(rows, key=natural_key):
        names, (subject, runs) = frames.pop(stem, []), rows[stem][0]
        if not names:
            dataset.error("missing frame", stem, f"is listed in {table}, but is not in the zip")
        elif len(names) > 1 or len(rows[stem]) > 1:
            detail = f"has {len(rows[stem])} rows in {table}, and is in the zip as {', '.join(names)}"
            dataset.error("duplicate name", stem, detail)
        else:
            mask = RunLengths((runs,) if runs else ())
            dataset.records.append(Record(PurePosixPath(names[0]).name, subject, ImageFile(names[0]), mask))
    if unlisted := [name for names in frames.values() for name in names]:
        dataset.warn_of_unlabelled(unlisted, f"{table} does not list them")
    return dataset
