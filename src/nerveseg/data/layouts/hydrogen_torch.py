"""Hydrogen Torch's layout: images in any folder, and a table with the columns image, rle_mask and optionally more.

The table is parquet or CSV and has one row a mask; all rows of an image, of the chosen classes, form one mask. It may
also have the columns fold, class_id, subject or patient_id, and site.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

from nerveseg.data import tables
from nerveseg.data.archive import MAX_NAME, Archive
from nerveseg.data.decoding import ImageFile, RunLengths
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, SUBJECT_COLUMNS, Choices, Dataset, Record, has_suffix
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

NAME = "hydrogen-torch"
EXPECTED = "images and a parquet or CSV table with the columns image, rle_mask and optionally fold and class_id"

_REQUIRED = ("image", "rle_mask")
_CLASS = "class_id"
_READ = (*_REQUIRED, "fold", _CLASS, *SUBJECT_COLUMNS, "site")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}(\.0*)?")  # 4.0 comes from a column of integers with a null
_WHOLE_FLOAT = re.compile(r"(-?[0-9]+)\.0*")
_CLASSES_SHOWN = 20


def evidence(archive: Archive, choices: Choices) -> str:
    found = tables.with_columns(archive, _REQUIRED)
    return f"the table {found[0]} has the columns {' and '.join(_REQUIRED)}" if found else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    found = tables.with_columns(archive, _REQUIRED)
    if len(found) > 1:
        raise NervesegError(
            f"{archive.path} has {len(found)} tables with the columns {' and '.join(_REQUIRED)}: {', '.join(found)}. "
            "Keep one of them."
        )
    table, columns = found[0], tables.columns(archive, found[0])
    if set(SUBJECT_COLUMNS) <= set(columns):
        raise NervesegError(
            f"{table} in {archive.path} has the columns {' and '.join(SUBJECT_COLUMNS)}. Keep the one that names the "
            "person scanned."
        )
    column = next((name for name in SUBJECT_COLUMNS if name in columns), "")
    dataset = Dataset(
        NAME,
        table=table,
        columns=tuple(columns),
        subject_from=f"the column {column} of {table}" if column else "",
        site_from=f"the column site of {table}" if "site" in columns else "",
    )
    members = defaultdict(list)  # by file name
    for name in archive.names:
        if has_suffix(name, IMAGE_SUFFIXES):
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
    chosen = _chosen(
        dataset, table, choices.classes, [(label, text) for of in rows.values() for text, _, label, *_ in of]
    )

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
            mask = RunLengths(runs)
            dataset.records.append(Record(image, subject, ImageFile(names[0]), mask, fold=folds[0], site=site))
    unlabelled = [name for image, names in members.items() if image not in rows for name in names]
    if unlabelled:
        dataset.warn_of_unlabelled(unlabelled, f"{table} does not list them")
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
