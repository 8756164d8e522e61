"""Checks every frame with its mask and stores it; each file is decoded once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nerveseg.arrays import Frame, Mask
from nerveseg.console import progress
from nerveseg.data import rle, subjects
from nerveseg.data.archive import Archive, UnfitImageError, decode_grey
from nerveseg.data.findings import Finding, count
from nerveseg.data.frame_store import Writer, pixel_digest
from nerveseg.data.layouts import Dataset, Record

MIN_SIDE = 32  # pixels; anything smaller is a thumbnail or not an ultrasound frame

_AHEAD = 64  # frames decoded ahead of writing: bounds memory


@dataclass
class _Pair:
    """A decoded frame and its mask, None where it could not be decoded."""

    record: Record
    frame: Frame | None = None
    mask: Mask | None = None
    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, detail: str) -> None:
        self.findings.append(Finding("error", kind, self.record.image, detail))

    def warn(self, kind: str, detail: str) -> None:
        self.findings.append(Finding("warning", kind, self.record.image, detail))


def pack(archive: Archive, dataset: Dataset, writer: Writer, keep_empty: bool) -> dict[str, Any]:
    """Checks all frames of a dataset and appends the valid ones, in the order of the records.

    Args:
        archive: the zip.
        dataset: its frames, and the findings from listing them.
        writer: the store to fill; unusable if there are errors.
        keep_empty: whether to append frames whose mask is empty.

    Returns:
        The content of findings.json: layout, frames, subjects, subjects_known, subjects_read, subject_rule,
        frames_with_mask, frames_used, errors, warnings and findings (a list of all `Finding`s: errors do not stop the
        checks).
    """
    findings = list(dataset.findings)
    duplicates = _Duplicates()
    with_mask = used = 0
    for pair in _decoded(archive, dataset.records):
        findings += pair.findings
        if pair.frame is None or pair.mask is None:
            continue
        findings += duplicates.compare(pair.record, pair.frame, pair.mask)
        has_mask = bool(pair.mask.any())
        with_mask += has_mask
        if has_mask or keep_empty:
            record = pair.record
            who = record.subject or record.image  # a frame of an unknown subject is a group of its own
            writer.append(record.image, who, record.fold, pair.frame, pair.mask, record.site)
            used += 1
    return {
        "layout": dataset.layout,
        "frames": len(dataset.records),
        "subjects": len({record.subject or record.image for record in dataset.records}),
        "subjects_known": all(record.subject for record in dataset.records),
        "subjects_read": subjects.described(dataset),
        "subject_rule": dataset.subject_rule,
        "frames_with_mask": with_mask,
        "frames_used": used,
        "errors": count(findings, "error"),
        "warnings": count(findings, "warning"),
        "findings": findings,
    }


def _decoded(archive: Archive, records: Sequence[Record]) -> Iterator[_Pair]:
    with progress("frames") as bar, ThreadPoolExecutor() as pool:
        task = bar.add_task("Checking and storing", total=len(records))
        for first in range(0, len(records), _AHEAD):
            for pair in pool.map(lambda record: _decode(archive, record), records[first : first + _AHEAD]):
                yield pair
                bar.advance(task)


def _decode(archive: Archive, record: Record) -> _Pair:
    pair = _Pair(record)
    pair.frame = _image(archive, pair, record.member)
    if pair.frame is not None:
        _check_frame(pair, pair.frame)
    if record.mask_member is not None:
        pair.mask = _mask_from_image(archive, pair, record.mask_member)
    elif pair.frame is not None:
        pair.mask = _mask_from_runs(pair, pair.frame.shape)
    if pair.frame is not None and pair.mask is not None and pair.frame.shape != pair.mask.shape:
        pair.error("size mismatch", f"the frame is {_size(pair.frame)}, its mask {_size(pair.mask)} (width x height)")
        pair.mask = None
    return pair


def _image(archive: Archive, pair: _Pair, member: str) -> Frame | None:
    try:
        pixels, is_coloured = decode_grey(archive.read(member))
    except UnfitImageError as error:
        pair.error(error.kind, f"{member} {error}")
        return None
    except ValueError as error:
        pair.error("unreadable", f"{member} is {error}")
        return None
    if is_coloured:
        pair.warn("colour", f"{member} has colours; they were converted to greyscale by luma")
    return pixels


def _check_frame(pair: _Pair, frame: Frame) -> None:
    if min(frame.shape) < MIN_SIDE:
        pair.error("frame too small", f"is {_size(frame)}; the minimum is {MIN_SIDE} pixels per side")
    if frame.min() == frame.max():
        pair.warn("blank frame", f"all pixels are {frame.min()}")


def _mask_from_image(archive: Archive, pair: _Pair, member: str) -> Mask | None:
    pixels = _image(archive, pair, member)
    if pixels is None:
        return None
    if ((pixels != 0) & (pixels != pixels.max())).any():
        values = np.unique(pixels).tolist()
        shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        pair.error("mask values", f"{member} has the {len(values)} values {shown}; a mask has 0 and one other")
        return None
    return (pixels > 0).astype(np.uint8)


def _mask_from_runs(pair: _Pair, shape: tuple[int, ...]) -> Mask | None:
    height, width = shape
    mask = np.zeros((height, width), np.uint8)
    try:
        for text in pair.record.runs:
            mask |= rle.decode(text, height, width)
    except ValueError as error:
        pair.error("run lengths", str(error))
        return None
    return mask


class _Duplicates:
    """Finds frames with the same pixels: they leak between splits, or their masks contradict each other."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, tuple[str, str]]] = {}  # pixels -> subject -> first image, its mask

    def compare(self, record: Record, frame: Frame, mask: Mask) -> list[Finding]:
        earlier = self._seen.setdefault(pixel_digest(frame), {})
        mask_digest = pixel_digest(mask)
        kind = detail = None
        if record.subject in earlier:
            image, other_mask = earlier[record.subject]
            kind = "duplicate frame" if mask_digest == other_mask else "contradictory masks"
            detail = f"has the same pixels as {image}" + (", but a different mask" if mask_digest != other_mask else "")
        elif earlier:
            subject, (image, _) = next(iter(earlier.items()))
            kind = "duplicate frame across subjects"
            detail = f"has the same pixels as {image} of {f'subject {subject}' if subject else 'an unknown subject'}"
        earlier.setdefault(record.subject, (record.image, mask_digest))
        return [Finding("warning", kind, record.image, detail)] if kind and detail else []


def _size(pixels: Frame) -> str:
    height, width = pixels.shape
    return f"{width}x{height}"
