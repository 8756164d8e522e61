"""Frames with masks as image files, side by side or in two folders.

The name of a mask's file is that of its frame, with a suffix (`data.mask_suffixes`), and in a folder of masks also
without one: `x.png` and `x_mask.png`, or `images/x.png` and `masks/x.png`. What the name has besides says which of
several masks it is: `x_mask.png` and `x_mask_1.png` are one, as in BUSI (Al-Dhabyani et al. 2020, Dataset of breast
ultrasound images), but `x_mask_nerve.png`, `x_nerve_mask.png`, `masks/x_nerve.png` and `masks/nerve/x.png` are those of
a class. Without any masks, Kaggle's table `train_masks.csv` has them.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.data.decoding import ImageFile, MaskFile, MaskSource, RunLengths, UnitedFiles
from nerveseg.data.layouts import classes, mask_files
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, Choices, Dataset, Record, has_suffix
from nerveseg.data.layouts.mask_files import Listing, MaskName
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

NAME = "pairs"
EXPECTED = (
    "images with masks beside them, such as x.png and x_mask.png (data.mask_suffixes names the suffixes), or in two "
    "folders, such as images/ and masks/"
)

_SAME_TYPES = {".tiff": ".tif", ".jpeg": ".jpg"}
_TABLE = ("subject", "img", "pixels")  # the columns of train_masks.csv


def evidence(archive: Archive, choices: Choices) -> str:
    listing = mask_files.listed(archive.names, choices.mask_suffixes)
    if listing.masks:
        key, masks = next(iter(listing.masks.items()))
        return f"{len(listing.masks)} frames have masks, such as {listing.frames[key][0]} with {masks[0].member}"
    found = tables.with_columns(archive, _TABLE)
    return f"the table {found[0]} has the columns {', '.join(_TABLE)}" if found else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    listing = mask_files.listed(archive.names, choices.mask_suffixes)
    if not listing.masks:
        return _read_table(archive, choices)
    labels: Counter[str | None] = Counter(mask.label for masks in listing.masks.values() for mask in masks)
    wanted = None if choices.classes is None else {str(label).casefold() for label in choices.classes}
    by_name = wanted is not None and (len(labels) > 1 or wanted <= set(labels))
    values = None if by_name or choices.classes is None else tuple(choices.classes)
    dataset = Dataset(NAME, mask_values=values)
    chosen: Collection[str | None] = labels
    if by_name or len(labels) > 1:
        names = None if wanted is None else sorted(wanted)
        chosen = classes.chosen(dataset, archive.path.name, "file name", names, labels)
    first = next(iter(listing.masks.values()))[0].member
    without, numbered = [], []
    for members, masks in _labelled(dataset, listing):
        image, own = PurePosixPath(members[0]).name, [mask.member for mask in masks if mask.label in chosen]
        if len(members) > 1 or len({(mask.label, mask.number) for mask in masks}) < len(masks):
            dataset.error("duplicate name", PurePosixPath(image).stem, _twice(members, masks))
            continue
        if not masks:
            dataset.error("missing mask", image, f"{members[0]} has no mask; others have one, such as {first}")
        elif not own:
            without.append(image)
        numbered += [mask.member for mask in masks if mask.number and mask.label in chosen]
        dataset.records.append(Record(image, "", ImageFile(members[0]), _mask(own, values) if masks else None))
    if without:
        detail = f"{len(without)} frames have masks of other classes only; they were read as frames without a nerve"
        dataset.warn("no mask of the class", without[0], detail)
    if numbered:
        detail = (
            f"{len(numbered)} masks with a number, such as {numbered[0]}, are united with the one without; if they are "
            "of another class, put its name instead, such as x_mask_artery"
        )
        dataset.warn("joined masks", PurePosixPath(numbered[0]).name, detail)
    for member in listing.strays:
        dataset.error("missing frame", PurePosixPath(member).name, f"{member} is a mask without a frame of its name")
    return dataset


def _twice(members: Sequence[str], masks: Sequence[MaskName]) -> str:
    listed = ", ".join(sorted([*members, *(mask.member for mask in masks)]))
    paths = [member.split("/") for member in members[:2]]
    name = PurePosixPath(members[0]).name
    folder = next((first for first, *others in zip(*paths, strict=False) if first not in others), name)
    example = f", such as {folder}_{name}" if folder != name and len(members) > 1 else ""
    return f"is in the zip as {listed}; give each frame its own name{example}"


def _mask(members: Sequence[str], values: tuple[int | str, ...] | None) -> MaskSource:
    if not members:
        return RunLengths()
    files = tuple(MaskFile(member, values) for member in members)
    return files[0] if len(files) == 1 else UnitedFiles(files)


def _labelled(dataset: Dataset, listing: Listing) -> Iterator[tuple[list[str], list[MaskName]]]:
    """The files and masks of each name of a frame in the folders with masks; warns of frames elsewhere."""
    labelled = {folder for folder, _ in listing.masks}
    elsewhere = [name for (folder, _), names in listing.frames.items() if folder not in labelled for name in names]
    if elsewhere:
        dataset.warn_of_unlabelled(elsewhere, "no frame in their folder has a mask")
    types = {_type(names[0]) for key, names in listing.frames.items() if key in listing.masks and len(names) == 1}
    same = defaultdict(list)  # by name, in lower case, as masks are found
    for key, names in listing.frames.items():
        if key[0] not in labelled:
            continue
        for name in names:
            if not types or _type(name) in types:
                same[PurePosixPath(name).stem.casefold()].append((key, name))
            else:
                detail = f"{name} is not a {' or '.join(sorted(types))}, but the frames with masks are"
                dataset.warn("ignored file", PurePosixPath(name).name, detail)
    for files in sorted(same.values(), key=lambda files: natural_key(PurePosixPath(files[0][1]).stem)):
        masks = [mask for key in dict.fromkeys(key for key, _ in files) for mask in listing.masks.get(key, [])]
        yield [name for _, name in files], masks


def _type(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return _SAME_TYPES.get(suffix, suffix)


def _read_table(archive: Archive, choices: Choices) -> Dataset:
    """Frames `<subject>_<img>` and their run lengths in Kaggle's train_masks.csv."""
    found = tables.with_columns(archive, _TABLE)
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
