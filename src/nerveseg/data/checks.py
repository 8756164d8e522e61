"""Checks every frame with its mask and stores it; each file is decoded once."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import joblib
import numpy as np

from nerveseg.arrays import Frame, Mask
from nerveseg.console import progress
from nerveseg.data import masks, quarantine, subjects
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.findings import Finding, count, errors
from nerveseg.data.frame_store import hashes
from nerveseg.data.layouts.dataset import Dataset, Record

MIN_SIDE = 32  # pixels; anything smaller is a thumbnail or not an ultrasound frame

MAX_AREA = 0.5  # share of a frame; a brachial plexus covers at most 7 %, an inverted mask usually 95 %
MANY_PIECES = 20  # of a mask; a nerve is one piece, a plexus or the fascicles of a nerve are a few

_VALUES_SHOWN = 20  # of masks, in a finding
_AHEAD = 2  # frames for each thread that are decoded ahead of writing, up to 32 MB each with their mask


@dataclass
class _Pair:
    """A decoded frame and its mask, None where it could not be decoded, and what is computed of both."""

    record: Record
    frame: Frame | None = None
    mask: Mask | None = None
    mask_values: tuple[str, ...] = ()  # in the mask's files, besides the background
    hashes: tuple[str, str] = ("", "")  # of the frame
    mask_digest: bytes = b""
    area: int = 0  # of the mask in pixels
    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, detail: str) -> None:
        self.findings.append(Finding("error", kind, self.record.image, detail))

    def warn(self, kind: str, detail: str) -> None:
        self.findings.append(Finding("warning", kind, self.record.image, detail))


class Store(Protocol):
    """What the frames go into: `frame_store.Writer`, or one that keeps less of them."""

    def append(
        self,
        image: str,
        subject: str,
        fold: int | None,
        frame: Frame,
        mask: Mask,
        site: str = "",
        spacing_mm: tuple[float, float] | None = None,
        *,
        hashed: tuple[str, str],
    ) -> None:
        """As that of `frame_store.Writer`."""


def pack(archive: Archive, dataset: Dataset, writer: Store, *, keep_empty: bool, set_aside: bool) -> dict[str, Any]:
    """Checks all frames of a dataset and appends the valid ones, in the order of the records.

    Args:
        archive: the zip.
        dataset: its frames, and the findings from listing them.
        writer: the store to fill; unusable if there are errors, unless `quarantine.refusal` accepts them.
        keep_empty: whether to append frames whose mask is empty.
        set_aside: whether frames with errors are left out of all but the findings.

    Returns:
        The content of findings.json: layout, frames, subjects, subjects_known, subjects_read, subject_rule,
        frames_with_mask, frames_used, errors, warnings and findings (a list of all `Finding`s: errors do not stop the
        checks); with `set_aside`, what `quarantine.described` returns.
    """
    findings = list(dataset.findings)
    if not dataset.records and not errors(findings):
        findings.append(Finding("error", "missing frame", dataset.table, "the dataset has no frame with a mask"))
    duplicates = _Duplicates()
    values = _MaskValues()
    faulty = quarantine.of_frames(dataset.findings, dataset.records) if set_aside else {}
    kept: list[Record] = []
    with_mask = used = 0
    for pair in _decoded(archive, dataset.records):
        findings += pair.findings
        if set_aside and (pair.record.image in faulty or errors(pair.findings)):
            continue
        kept.append(pair.record)
        values.add(pair)
        if pair.frame is None or pair.mask is None:
            continue
        findings += duplicates.compare(pair)
        has_mask = pair.area > 0
        with_mask += has_mask
        if has_mask or keep_empty:
            record = pair.record
            writer.append(
                record.image,
                record.group,
                record.fold,
                pair.frame,
                pair.mask,
                record.site,
                record.spacing_mm,
                hashed=pair.hashes,
            )
            used += 1
    findings += values.findings(dataset.mask_values)
    return {
        "layout": dataset.layout,
        "frames": len(dataset.records),
        "subjects": len({record.group for record in kept}),
        "subjects_known": all(record.subject for record in kept),
        "subjects_read": subjects.described(replace(dataset, records=kept)),
        "subject_rule": dataset.subject_rule,
        "frames_with_mask": with_mask,
        "frames_used": used,
        "errors": count(findings, "error"),
        "warnings": count(findings, "warning"),
        "findings": findings,
        **(quarantine.described(findings, dataset.records) if set_aside else {}),
    }


def _decoded(archive: Archive, records: Sequence[Record]) -> Iterator[_Pair]:
    # Whatever takes time is done in the threads, each of which takes up to 0.4 GB for a frame of the largest size.
    threads = joblib.cpu_count()
    with progress("frames") as bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("Checking", total=len(records))
        ahead: deque[Future[_Pair]] = deque()
        left = iter(records)
        while True:
            ahead += [pool.submit(_decode, archive, record) for record in islice(left, _AHEAD * threads - len(ahead))]
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
        if turned != (mask.turned or 1) and mask.pixels.any():
            pair.warn("orientation", _turned(record, turned, mask.turned))
        if pair.frame.shape != mask.pixels.shape:
            sizes = f"the frame is {_size(pair.frame)}, its mask {_size(mask.pixels)} (width x height)"
            raise UnfitImageError("size mismatch", sizes)
        pair.mask, pair.mask_values = mask.pixels, mask.values
        pair.area = int(np.count_nonzero(mask.pixels))
        _check_mask(pair, mask.pixels)
        pair.hashes, pair.mask_digest = hashes(pair.frame), _digest(mask.pixels)
    return pair


@contextmanager
def _unfit_is_an_error(pair: _Pair) -> Iterator[None]:
    try:
        yield
    except UnfitImageError as error:
        pair.error(error.kind, str(error))
        if isinstance(error, masks.MaskValuesError):
            pair.mask_values = error.values


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
        f"{record.frame.member} has the orientation {turned}, its mask {mask_turned}; each was turned by its own. "
        "If the two no longer match, save both without an orientation"
    )


def _check_mask(pair: _Pair, mask: Mask) -> None:
    share = pair.area / mask.size
    if share > MAX_AREA:
        pair.error(
            "mask over half the frame",
            f"the nerve covers {share:.0%} of the frame; if the mask is inverted, swap its values, otherwise correct "
            "it or leave the frame out",
        )
    number = masks.pieces(mask)
    if number > MANY_PIECES:
        pair.warn("many pieces", f"the mask consists of {number} pieces; check that it is not noise")


class _MaskValues:
    """What the masks' files hold besides the background: one value, or those that `data.classes` chooses."""

    def __init__(self) -> None:
        self._images: defaultdict[str, list[str]] = defaultdict(list)  # by value
        self._first = ""
        self._accepted: set[str] = set()  # values of the masks that are fit
        self._refused = 0  # masks, for several values

    def add(self, pair: _Pair) -> None:
        self._first = self._first or pair.record.image
        for value in pair.mask_values:
            self._images[value].append(pair.record.image)
        if pair.mask is not None:
            self._accepted |= {*pair.mask_values}
        elif pair.mask_values:
            self._refused += 1

    def findings(self, chosen: Sequence[int | str] | None) -> list[Finding]:
        return self._unclear() if chosen is None else [*self._unknown(chosen), *self._left_out(chosen)]

    def _unclear(self) -> list[Finding]:
        """An error if not all masks write the nerve in the same way: an artery in another colour would become nerve."""
        if len(self._accepted) < 2 and self._refused < 2:  # a single one that is refused has a finding of its own
            return []
        common, other, *_ = self._ranked(self._images)
        detail = (
            f"the nerve has {len(self._images)} values in the masks: {self._counted(self._images)}. If they are "
            f"classes, choose those that are nerve, such as data.classes: [{masks.choice(common)}]; otherwise save all "
            "masks with one value"
        )
        return [Finding("error", "several mask values", self._images[other][0], detail)]

    def _unknown(self, chosen: Sequence[int | str]) -> list[Finding]:
        unknown = [str(value) for value in chosen if not masks.spellings(value) & set(self._images)]
        have = self._counted(self._images) or "only a background"
        detail = f"data.classes has {', '.join(unknown)}, which no mask has as a value; they have {have}"
        return [Finding("error", "unknown class", self._first, detail)] if unknown else []

    def _left_out(self, chosen: Sequence[int | str]) -> list[Finding]:
        taken = set().union(*map(masks.spellings, chosen))
        others = [value for value in self._images if value not in taken]
        detail = f"values of the masks that are not in data.classes are background: {self._counted(others)}"
        return [Finding("warning", "other classes", self._first, detail)] if others else []

    def _ranked(self, values: Iterable[str]) -> list[str]:
        return sorted(values, key=lambda value: -len(self._images[value]))

    def _counted(self, values: Iterable[str]) -> str:
        shown = [
            f"{value} in {len(self._images[value])} masks, such as that of {self._images[value][0]}"
            for value in self._ranked(values)
        ]
        return "; ".join(shown[:_VALUES_SHOWN]) + ("; ..." if len(shown) > _VALUES_SHOWN else "")


class _Duplicates:
    """Finds frames with the same pixels: they leak between splits, or their masks contradict each other."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, tuple[str, bytes]]] = {}  # pixels -> subject -> first image, its mask

    def compare(self, pair: _Pair) -> list[Finding]:
        record, mask_digest = pair.record, pair.mask_digest
        earlier = self._seen.setdefault(pair.hashes[0], {})
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


def _digest(mask: Mask) -> bytes:
    """16 bytes that differ between masks of one size."""
    where = masks.box(mask)
    return hashlib.blake2b(f"{where}".encode() + np.packbits(mask[where]).tobytes(), digest_size=16).digest()


def _size(pixels: Frame) -> str:
    height, width = pixels.shape
    return f"{width}x{height}"
