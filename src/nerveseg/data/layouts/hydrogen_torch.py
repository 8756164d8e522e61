"""Hydrogen Torch's layout: images in any folder, and a table with the columns image, rle_mask and optionally more.

The table is parquet or CSV and has one row a mask; all rows of an image, of the chosen classes, form one mask. It may
also have the columns fold, class_id, subject or patient_id, and site. Several tables, such as those for training,
validation and testing, are joined.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.data.decoding import ImageFile, RunLengths
from nerveseg.data.layouts.classes import chosen
from nerveseg.data.layouts.dataset import SUBJECT_COLUMNS, Choices, Dataset, Record, subject_column
from nerveseg.data.layouts.members import Images, parts_of, shown
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

NAME = "hydrogen-torch"
EXPECTED = "images and a parquet or CSV table with the columns image, rle_mask and optionally fold and class_id"

_REQUIRED = ("image", "rle_mask")
_CLASS = "class_id"
_READ = (*_REQUIRED, "fold", _CLASS, *SUBJECT_COLUMNS, "site")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}(\.0*)?")  # 4.0 comes from a column of integers with a null
_WHOLE_FLOAT = re.compile(r"(-?[0-9]+)\.0*")
_SUBMISSION = "submission"  # in the name of a table of placeholders or predictions


def evidence(archive: Archive, choices: Choices) -> str:
    found = tables.with_columns(archive, _REQUIRED)
    return f"the table {found[0]} has the columns {' and '.join(_REQUIRED)}" if found else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    names = tables.with_columns(archive, _REQUIRED)
    by_table = _rows(archive, names)
    masked = [table for table, rows in by_table.items() if any(row.mask is not None for row in rows)]
    joined = masked or list(by_table)  # where there are no masks at all, the frames have empty ones
    listed = ", ".join(joined)
    columns = tuple(dict.fromkeys(name for table in joined for name in tables.columns(archive, table)))
    column = subject_column(columns, f"{listed} in {archive.path}")
    dataset = Dataset(
        NAME,
        table=listed,
        columns=columns,
        subject_from=f"the column {column} of {listed}" if column else "",
        site_from=f"the column site of {listed}" if "site" in columns else "",
    )
    if len(joined) > 1:
        dataset.warn_of_joined(joined)
    for table in sorted({*names} - {*joined}):
        dataset.warn("ignored file", table, "is not read: it has no masks, or is a submission")

    of_image = defaultdict(list)  # by file name
    for table in joined:
        for row in by_table[table]:
            of_image[row.image].append(row)
    nameless = of_image.pop("", [])
    if not of_image:
        raise NervesegError(f"{listed} in {archive.path} has no rows with an image.")
    if nameless:
        number, table = nameless[0].number, nameless[0].table
        dataset.error("missing frame", table, f"{len(nameless)} rows name no image; the first is row {number}")
    masks = Counter({row.label: 0 for rows in of_image.values() for row in rows})
    masks.update(row.label for rows in of_image.values() for row in rows if row.mask is not None)
    nerve = chosen(dataset, listed, _CLASS, choices.classes, masks)

    images = Images(archive.names)
    used: list[str] = []
    for image in sorted(of_image, key=natural_key):
        rows = of_image[image]
        places = dict.fromkeys((row.path, row.table) for row in rows)
        found = list({name for path, table in places for name in images.find(path, table)})
        used += found
        if record := _record(dataset, image, rows, found, nerve):
            dataset.records.append(record)
    if unlabelled := images.others(used):
        dataset.warn_of_unlabelled(unlabelled, f"{listed} does not list them")
    return dataset


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table; `image` is the file name in `path`, empty where there is none."""

    table: str
    number: int
    path: str
    image: str
    mask: str | None
    fold: str | None
    label: str | None
    subject: str | None
    site: str | None


def _rows(archive: Archive, names: Sequence[str]) -> dict[str, list[_Row]]:
    """The rows of each table but submissions, unless there is nothing else."""
    budget = tables.Budget()
    found = {}
    for table in [name for name in names if _SUBMISSION not in PurePosixPath(name).name.lower()] or names:
        found[table] = [
            _Row(
                table, number, path or "", parts_of(path or "")[-1], mask, fold, _class(label), subject or patient, site
            )
            for number, (path, mask, fold, label, subject, patient, site) in enumerate(
                tables.rows(archive, table, _READ, budget), start=1
            )
        ]
    return found


def _record(
    dataset: Dataset, image: str, rows: Sequence[_Row], found: Sequence[str], nerve: Collection[str | None]
) -> Record | None:
    """The frame of an image with these rows; None, with a finding, where not exactly one is `found` in the zip."""
    fold = _fold(dataset, image, [row.fold for row in rows])
    if len(listed := dict.fromkeys(row.table for row in rows)) > 1:
        dataset.error("duplicate name", image, f"is listed in {' and in '.join(listed)}; keep it in one of them")
    if len(paths := dict.fromkeys("/".join(parts_of(row.path)) for row in rows)) > 1:
        dataset.error("duplicate name", image, f"is listed as {shown(paths)}; give each frame its own name")
        return None
    if not found:
        dataset.error("missing frame", image, f"is listed in {rows[0].table}, but is not in the zip")
        return None
    if len(found) > 1:
        dataset.error("duplicate name", image, f"is in the zip as {shown(found)}")
        return None
    subject = _single(dataset, image, "subject", [row.subject for row in rows])
    site = _single(dataset, image, "site", [row.site for row in rows])
    runs = tuple(row.mask for row in rows if row.mask is not None and row.label in nerve)
    return Record(image, subject, ImageFile(found[0]), RunLengths(runs), fold=fold, site=site)


def _class(text: str | None) -> str | None:
    match = _WHOLE_FLOAT.fullmatch(text) if text else None
    return match.group(1) if match else text


def _fold(dataset: Dataset, image: str, texts: Sequence[str | None]) -> int | None:
    """The fold that all rows of an image have."""
    different = dict.fromkeys(texts)
    wrong = [text for text in different if text is not None and not _WHOLE_NUMBER.fullmatch(text)]
    for text in wrong:
        dataset.error("fold", image, f"has the fold {text[:40]!r}, which is not an integer")
    if wrong:
        return None
    folds = list(dict.fromkeys(None if text is None else int(float(text)) for text in different))
    if len(folds) > 1:
        dataset.error("conflicting folds", image, f"has rows in the folds {', '.join(map(str, folds))}")
    return folds[0]


def _single(dataset: Dataset, image: str, column: str, values: Sequence[str | None]) -> str:
    """The value that all rows of an image have; empty: none."""
    different = list(dict.fromkeys(value or "" for value in values))
    if len(different) > 1:
        shown = ", ".join(value or "(empty)" for value in different)
        dataset.error(f"conflicting {column}s", image, f"has rows with the {column}s {shown}")
    return different[0]
