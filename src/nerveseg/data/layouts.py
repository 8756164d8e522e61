"""The two layouts of a dataset zip, detected from its contents.

kaggle: `<subject>_<frame>.tif` next to `<subject>_<frame>_mask.tif`, in any folder.
hydrogen-torch: a parquet or CSV table with the columns image, rle_mask and optionally fold and class_id (one row per
mask; all rows of an image, of the chosen classes, form one mask), and the images in any folder. It may also have the
column subject or patient_id, and site; without them, `subjects` reads the names of the frames.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath

from nerveseg.data import tables
from nerveseg.data.archive import MAX_NAME, Archive
from nerveseg.data.findings import Finding
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

_TIF_SUFFIXES = (".tif", ".tiff")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *_TIF_SUFFIXES)
SUBJECT_COLUMNS = ("subject", "patient_id")
_REQUIRED = ("image", "rle_mask")
_CLASS = "class_id"
_READ = (*_REQUIRED, "fold", _CLASS, *SUBJECT_COLUMNS, "site")
_MASK_ENDING = "_mask"
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}(\.0*)?")  # 4.0 comes from a column of integers with a null
_WHOLE_FLOAT = re.compile(r"(-?[0-9]+)\.0*")
_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Record:
    """A frame and its mask: a member of the zip, run lengths, or neither (an empty mask).

    Attributes:
        image: file name of the frame, unique in the dataset.
        subject: the person scanned; empty: unknown.
        member: the frame's name in the zip.
        mask_member: the mask's name in the zip.
        runs: run lengths whose union is the mask.
        fold: the dataset's own fold.
        site: where it was scanned; empty: unknown.
    """

    image: str
    subject: str
    member: str
    mask_member: str | None = None
    runs: tuple[str, ...] = ()
    fold: int | None = None
    site: str = ""

    @property
    def group(self) -> str:
        """The subject; a frame of an unknown subject is a group of its own."""
        return self.subject or self.image


@dataclass(frozen=True)
class Dataset:
    """The contents of a zip, according to its file names and its table.

    Attributes:
        layout: "kaggle" or "hydrogen-torch".
        records: sorted naturally by file name.
        table: the name of the table in the zip, and its columns; empty: there is none.
        subject_rule: "column", "none" or the pattern by which the records' subjects were read.
    """

    layout: str
    records: list[Record] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    table: str = ""
    columns: tuple[str, ...] = ()
    subject_rule: str = ""

    @property
    def subject_column(self) -> str:
        """The column of the table that names the subject; empty: there is none."""
        return next((name for name in SUBJECT_COLUMNS if name in self.columns), "")

    def error(self, kind: str, image: str, detail: str) -> None:
        self.findings.append(Finding("error", kind, image, detail))

    def warn(self, kind: str, image: str, detail: str) -> None:
        self.findings.append(Finding("warning", kind, image, detail))


def find(archive: Archive, classes: Sequence[int | str] | None = None) -> Dataset:
    """Detects the layout and lists the frames, without decoding them.

    Args:
        archive: the zip.
        classes: the values of the table's class_id that are nerve; None: there is only one.

    Raises:
        NervesegError: the zip has neither layout, both, or several possible tables; the table is damaged; or it does
            not have the `classes`.
    """
    found = {name: tables.columns(archive, name) for name in archive.names if tables.is_table(name)}
    candidates = [name for name, columns in found.items() if set(_REQUIRED) <= set(columns)]
    masks = [name for name in archive.names if _has_suffix(name, _TIF_SUFFIXES) and _is_mask(name)]
    if candidates and masks:
        raise NervesegError(
            f"{archive.path} has both layouts: the table {candidates[0]} (hydrogen-torch) and {len(masks)} files "
            f"such as {masks[0]} (kaggle). Keep one of them."
        )
    if len(candidates) > 1:
        raise NervesegError(
            f"{archive.path} has {len(candidates)} tables with the columns {' and '.join(_REQUIRED)}: "
            f"{', '.join(candidates)}. Keep one of them."
        )
    if candidates:
        return _hydrogen_torch(archive, candidates[0], found[candidates[0]], classes)
    if masks:
        if classes is not None:
            raise NervesegError(
                f"data.classes chooses values of a table's column {_CLASS}, but {archive.path} has no table: the masks "
                "are files. Set data.classes: null."
            )
        return _kaggle(archive)
    raise NervesegError(
        f"{archive.path} has neither layout. Expected: <subject>_<frame>.tif next to <subject>_<frame>_mask.tif "
        "(kaggle), or images and a parquet or CSV table with the columns image, rle_mask and optionally fold "
        f"(hydrogen-torch). Found: {_inventory(archive.names, found)}."
    )


def _kaggle(archive: Archive) -> Dataset:
    dataset = Dataset("kaggle")
    frames, masks = defaultdict(list), defaultdict(list)  # by folder and stem of the frame
    for name in archive.names:
        if _has_suffix(name, _TIF_SUFFIXES):
            path = PurePosixPath(name)
            if _is_mask(name):
                masks[path.parent, path.stem[: -len(_MASK_ENDING)]].append(name)
            else:
                frames[path.parent, path.stem].append(name)
        elif _has_suffix(name, _IMAGE_SUFFIXES):
            dataset.warn("ignored file", PurePosixPath(name).name, f"{name} is not a TIF, but the masks are")

    labelled = {folder for folder, stem in frames if (folder, stem) in masks}
    unlabelled = [name for (folder, _), names in frames.items() if folder not in labelled for name in names]
    if unlabelled:
        _warn_of_unlabelled(dataset, unlabelled, "no frame in their folder has a mask")

    folders = defaultdict(list)  # with masks, by stem of the frame
    for folder, stem in frames:
        if folder in labelled:
            folders[stem].append(folder)
    for stem in sorted(folders, key=natural_key):
        names = [name for folder in folders[stem] for name in frames[folder, stem]]
        own_masks = [name for folder in folders[stem] for name in masks.get((folder, stem), [])]
        if len(names) > 1 or len(own_masks) > 1:
            dataset.error("duplicate name", stem, f"is in the zip as {', '.join(sorted(names + own_masks))}")
            continue
        path = PurePosixPath(names[0])
        if not own_masks:
            dataset.error("missing mask", path.name, f"has no {stem}{_MASK_ENDING}{path.suffix} in {path.parent}/")
        dataset.records.append(Record(path.name, "", names[0], own_masks[0] if own_masks else None))
    for (folder, stem), names in masks.items():
        if (folder, stem) not in frames:
            dataset.error("missing frame", PurePosixPath(names[0]).name, f"is a mask without {stem}.tif in {folder}/")
    return dataset


def _hydrogen_torch(archive: Archive, table: str, columns: list[str], classes: Sequence[int | str] | None) -> Dataset:
    if set(SUBJECT_COLUMNS) <= set(columns):
        raise NervesegError(
            f"{table} in {archive.path} has the columns {' and '.join(SUBJECT_COLUMNS)}. Keep the one that names the "
            "person scanned."
        )
    dataset = Dataset("hydrogen-torch", table=table, columns=tuple(columns))
    members = defaultdict(list)  # by file name
    for name in archive.names:
        if _has_suffix(name, _IMAGE_SUFFIXES):
            members[PurePosixPath(name).name].append(name)

    rows = defaultdict(list)  # by file name
    nameless = []
    for number, row in enumerate(tables.rows(archive, table, _READ), start=1):
        path, text, fold, label, subject, patient, site = row
        if path is None:
            nameless.append(number)
        else:
            rows[_file_name(path)].append((text, fold, _class(label), subject or patient, site))
    if not rows:
        raise NervesegError(f"{table} in {archive.path} has no rows with an image.")
    if nameless:
        dataset.error("missing frame", table, f"{len(nameless)} rows name no image; the first is row {nameless[0]}")
    chosen = _chosen(dataset, table, classes, [(label, text) for of in rows.values() for text, _, label, *_ in of])

    for image in sorted(rows, key=natural_key):
        names = members.get(image, [])
        folds = [_fold(dataset, image, fold) for _, fold, *_ in rows[image]]
        if len(set(folds)) > 1:
            dataset.error(
                "conflicting folds", image, f"has rows in the folds {', '.join(map(str, dict.fromkeys(folds)))}"
            )
        if not names:
            dataset.error("missing frame", image, f"is listed in {table}, but is not in the zip")
        elif len(names) > 1:
            dataset.error("duplicate name", image, f"is in the zip as {', '.join(sorted(names))}")
        else:
            _, _, _, subjects, sites = zip(*rows[image], strict=True)
            runs = tuple(text for text, _, label, *_ in rows[image] if text is not None and label in chosen)
            subject, site = _single(dataset, image, "subject", subjects), _single(dataset, image, "site", sites)
            dataset.records.append(Record(image, subject, names[0], runs=runs, fold=folds[0], site=site))
    unlabelled = [name for image, names in members.items() if image not in rows for name in names]
    if unlabelled:
        _warn_of_unlabelled(dataset, unlabelled, f"{table} does not list them")
    return dataset


def _file_name(path: str) -> str:
    """The file name in a cell, with either kind of slash, in the form of `Archive.names`; none there is longer."""
    return unicodedata.normalize("NFC", PureWindowsPath(path[-MAX_NAME:]).name)


def _class(text: str | None) -> str | None:
    match = _WHOLE_FLOAT.fullmatch(text) if text else None
    return match.group(1) if match else text


def _chosen(
    dataset: Dataset,
    table: str,
    classes: Sequence[int | str] | None,
    rows: Sequence[tuple[str | None, str | None]],
) -> set[str | None]:
    """The classes that are nerve, of the class and the run lengths of each row.

    Raises:
        NervesegError: `classes` has a value that is in no row.
    """
    masks = Counter({label: 0 for label, _ in rows})
    masks.update(label for label, text in rows if text is not None)
    shown = [
        f"{label[:40]} ({number} masks)" for label, number in masks.most_common(_CLASSES_SHOWN) if label is not None
    ]
    listed = ", ".join(shown) + (", ..." if len(masks) > _CLASSES_SHOWN else "")
    chosen = {label for label, number in masks.items() if number}
    if classes is not None:
        wanted = set(map(str, classes))
        if unknown := sorted(wanted - set(masks)):
            has = f"it has {listed}" if shown else "it has none: set data.classes: null"
            raise NervesegError(f"data.classes has {', '.join(unknown)}, which no {_CLASS} of {table} is; {has}.")
        chosen = {*wanted}
    elif len(chosen - {None}) > 1:
        detail = f"has masks of several {_CLASS}: {listed}. Set data.classes to those that are nerve"
        dataset.error("several classes", table, f"{detail}, such as data.classes: [{masks.most_common(1)[0][0]}]")
    if len(masks) > 1 and masks[None]:
        dataset.error("missing class", table, f"{masks[None]} rows have a mask, but no {_CLASS}; others have one")
    return chosen


def _fold(dataset: Dataset, image: str, text: str | None) -> int | None:
    if text is None:
        return None
    if _WHOLE_NUMBER.fullmatch(text):
        return int(float(text))
    dataset.error("fold", image, f"has the fold {text[:40]!r}, which is not an integer")
    return None


def _single(dataset: Dataset, image: str, column: str, values: Sequence[str | None]) -> str:
    """The value that all rows of an image have; empty: none."""
    different = list(dict.fromkeys(value or "" for value in values))
    if len(different) > 1:
        shown = ", ".join(value or "(empty)" for value in different)
        dataset.error(f"conflicting {column}s", image, f"has rows with the {column}s {shown}")
    return different[0]


def _warn_of_unlabelled(dataset: Dataset, names: list[str], reason: str) -> None:
    folders = sorted({f"{PurePosixPath(name).parent}/" for name in names})
    dataset.warn("unlabelled frames", ", ".join(folders), f"{len(names)} frames are skipped: {reason}")


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _is_mask(name: str) -> bool:
    return PurePosixPath(name).stem.lower().endswith(_MASK_ENDING)


def _inventory(names: list[str], found: dict[str, list[str]]) -> str:
    counts = Counter((f"{(path := PurePosixPath(name)).parent}/", path.suffix or "(no suffix)") for name in names)
    files = [f"{number} {suffix} in {folder}" for (folder, suffix), number in counts.most_common(10)]
    if len(counts) > len(files):
        files.append(f"{len(counts) - len(files)} more folders and suffixes")
    columns = [f"{name} with the columns {', '.join(columns[:20])}" for name, columns in found.items()]
    return "; ".join(files + columns)
