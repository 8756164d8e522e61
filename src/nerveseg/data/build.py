"""`nerveseg dataset build`: a folder in any layout becomes a dataset zip in Hydrogen Torch's.

Frames are 8-bit greyscale PNGs of the pixels as the layout reads them, decoded and upright; masks are run lengths in a
table, so that nobody writes them by hand.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from nerveseg.console import console
from nerveseg.data import checks, findings, rle, subjects, zips
from nerveseg.data.archive import Folder
from nerveseg.data.layouts import detect, options
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, Record, has_suffix
from nerveseg.errors import NervesegError
from nerveseg.files import replacing

TABLE = "train.parquet"


def build(folder: Path, out: Path, layout: str, subject: str | None, classes: str | None) -> None:
    """Writes the zip `out` of the dataset in `folder`, whole or not at all; the same dataset gives the same bytes.

    Args:
        layout: the name of a layout, or "auto".
        subject, classes: as for `options.read`.

    Raises:
        NervesegError: the folder cannot be read, has no layout or several, or has errors, which the split stage would
            refuse; two frames would have one name; or `out` lies in the folder, or is something else than a zip.
    """
    _require_free(out, folder)
    rule, choices = options.read(subject, classes)
    with Folder(folder) as archive, replacing(out) as beside, ZipFile(beside, "w") as zipped:
        dataset = subjects.assign(detect.find(archive, layout, choices), rule, required=True)
        frames = _Frames(zipped, dataset.records)
        report = checks.check(archive, dataset, frames.add, keep_empty=True, set_aside=False)
        findings.show(report["findings"], None)
        if report["errors"]:
            raise NervesegError(
                f"{folder} has {findings.counted(report['findings'], 'error')}; nothing was written. Change what a "
                f"finding names, or mend the dataset; `nerveseg dataset inspect {folder}` shows its frames."
            )
        frames.write_table()
    console.print(
        f"{out} has {report['frames']} frames, {report['frames_with_mask']} of them with a nerve. "
        f"{report['subjects_read']} Point data.uri at it.",
        soft_wrap=True,
    )
    if spaced := sum(record.spacing_mm is not None for record in dataset.records):
        console.print(
            f"The pixel spacing of {spaced} frames is left out: for metrics in mm, point data.uri at {folder} instead.",
            soft_wrap=True,
        )


class _Frames:
    """Writes each frame into the zip, and in the end the table of all of them."""

    def __init__(self, zipped: ZipFile, records: Sequence[Record]) -> None:
        self._zip = zipped
        self._names = _names(records)
        self._rows: list[tuple[str, str, int | None, str | None, str | None]] = []

    def add(self, pair: checks.Pair) -> None:
        record = pair.record
        name = self._names[record.image]
        zips.store(self._zip, f"images/{name}", cv2.imencode(".png", pair.frame)[1].tobytes())
        self._rows.append((name, rle.encode(pair.mask), record.fold, record.subject or None, record.site or None))

    def write_table(self) -> None:
        """Writes the table; a column of which nothing is known is left out."""
        kinds = {"image": pa.string(), "rle_mask": pa.string(), "fold": pa.int64()}
        kinds |= {"subject": pa.string(), "site": pa.string()}
        columns = zip(kinds.items(), zip(*self._rows, strict=True), strict=True)
        known = {name: pa.array(values, kind) for (name, kind), values in columns if set(values) != {None}}
        content = io.BytesIO()
        pq.write_table(pa.table(known), content)
        zips.store(self._zip, TABLE, content.getvalue())


def _names(records: Sequence[Record]) -> dict[str, str]:
    """The name of each frame's PNG, by that of the frame. Raises NervesegError if two have one."""
    owners: dict[str, str] = {}
    for record in records:
        flat = record.image.replace("/", "_")
        name = f"{flat.rpartition('.')[0] if has_suffix(flat, IMAGE_SUFFIXES) else flat}.png"
        if name in owners:
            raise NervesegError(f"{owners[name]} and {record.image} would both be {name} in the zip: rename one.")
        owners[name] = record.image
    return {image: name for name, image in owners.items()}


def _require_free(out: Path, folder: Path) -> None:
    if out.exists() and not is_zipfile(out):
        raise NervesegError(f"{out} is there and is no zip: name another file to write.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise NervesegError(f"{out} lies in {folder}, of which it would become a part: write it elsewhere.")
