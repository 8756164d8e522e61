"""Checks every frame with its mask and stores it; each file is decoded once."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from nerveseg.arrays import Frame, Mask
from nerveseg.console import progress
from nerveseg.data import masks, subjects
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.findings import Finding, count
from nerveseg.data.frame_store import Writer, pixel_digest
from nerveseg.data.layouts.dataset import Dataset, Record

MIN_SIDE = 32  # pixels; anything smaller is a thumbnail or not an ultrasound frame

MAX_AREA = 0.5  # share of a frame; a brachial plexus covers at most 7 %, an inverted mask usually 95 %
MANY_PIECES = 20  # of a mask; a nerve is one piece, a plexus or the fascicles of a nerve are a few

_THREADS = 4  # each takes up to 0.4 GB for a frame of the largest size
_AHEAD = 8  # frames decoded ahead of writing, up to 32 MB each with their mask


@dataclass
class _Pair:
    """A decoded frame and its mask, None where it could not be decoded."""

    record: Record
    frame: Frame | None = None
    mask: Mask | None = None
    mask_value: str | None = None  # that means nerve in the mask's file
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
    values = defaultdict(list)  # what means nerve in the masks' files -> their frames
    with_mask = used = 0
    for pair in _decoded(archive, dataset.records):
        findings += pair.findings
        if pair.frame is None or pair.mask is None:
            continue
        if pair.mask_value is not None:
            values[pair.mask_value].append(pair.record.image)
        findings += duplicates.compare(pair.record, pair.frame, pair.mask)
        has_mask = bool(pair.mask.any())
        with_mask += has_mask
        if has_mask or keep_empty:
            record = pair.record
            writer.append(
                record.image, record.group, record.fold, pair.frame, pair.mask, record.site, record.spacing_mm
            )
            used += 1
    findings += _several_values(values)
    return {
        "layout": dataset.layout,
        "frames": len(dataset.records),
        "subjects": len({record.group for record in dataset.records}),
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
    with progress("frames") as bar, ThreadPoolExecutor(_THREADS) as pool:
        task = bar.add_task("Checking and storing", total=len(records))
        ahead: deque[Future[_Pair]] = deque()
        left = iter(records)
        while True:
            ahead += [pool.submit(_decode, archive, record) for record in islice(left, _AHEAD - len(ahead))]
            if not ahead:
                return
            yield ahead.popleft().result()
            bar.advance(task)


def _decode(archive: Archive, record: Record) -> _Pair:
    pair = _Pair(record)
    turned = 1
    with _unfit_is_an_error(pair):
        frame = record.frame.read(archive)
        pair.frame, turned = frame.pixels, frame.turned
        for kind, detail in frame.doubts:
            pair.warn(kind, detail)
        _check_frame(pair, frame.pixels)
    if pair.frame is None or record.mask is None:
        return pair
    with _unfit_is_an_error(pair):
        mask = record.mask.read(archive, pair.frame)
        pair.mask, pair.mask_value = mask.pixels, mask.value
        if turned != (mask.turned or 1) and mask.pixels.any():
            pair.warn("orientation", _turned(record, turned, mask.turned))
        if pair.frame.shape != mask.pixels.shape:
            pair.mask = None
            sizes = f"the frame is {_size(pair.frame)}, its mask {_size(mask.pixels)} (width x height)"
            raise UnfitImageError("size mismatch", sizes)
        _check_mask(pair, mask.pixels)
    return pair


@contextmanager
def _unfit_is_an_error(pair: _Pair) -> Iterator[None]:
    try:
        yield
    except UnfitImageError as error:
        pair.error(error.kind, str(error))


def _check_frame(pair: _Pair, frame: Frame) -> None:
    if min(frame.shape) < MIN_SIDE:
        pair.error("frame too small", f"is {_size(frame)}; the minimum is {MIN_SIDE} pixels per side")
    if frame.min() == frame.max():
        pair.warn("blank frame", f"all pixels are {frame.min()}")


def _turned(record: Record, turned: int, mask_turned: int | None) -> str:
    if mask_turned is None:
        return (
            f"{record.frame.member} was turned as its orientation ({turned}) says, and its mask was read as drawn on "
            "the turned frame; if it was drawn on the pixels as stored, save the frame without the orientation"
        )
    return (
        f"{record.frame.member} has the orientation {turned}, its mask {mask_turned}; each was turned as its own says. "
        "If they do not fit, save both without one"
    )


def _check_mask(pair: _Pair, mask: Mask) -> None:
    share = mask.mean()
    if share > MAX_AREA:
        pair.error(
            "mask over half the frame",
            f"the nerve covers {share:.0%} of the frame; if the mask is inverted, swap its values, otherwise correct "
            "it or leave the frame out",
        )
    number = masks.pieces(mask)
    if number > MANY_PIECES:
        pair.warn("many pieces", f"the mask consists of {number} pieces; check that it is no noise")


def _several_values(values: Mapping[str, list[str]]) -> list[Finding]:
    """An error if not all masks write the nerve in the same way: an artery in another colour would become nerve."""
    if len(values) < 2:
        return []
    common, *others = sorted(values, key=lambda value: -len(values[value]))
    detail = "; ".join(
        f"{value} in {len(values[value])} masks, such as that of {values[value][0]}" for value in [common, *others[:4]]
    )
    detail = f"the nerve has {len(values)} values in the masks: {detail}. Leave out other classes, or save all masks "
    return [Finding("error", "several mask values", values[others[0]][0], f"{detail}with one value")]


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
