"""Checks every frame with its mask; each file is decoded once."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import joblib
import numpy as np

from nerveseg.arrays import Frame, Mask
from nerveseg.console import progress
from nerveseg.data import masks, quarantine, subjects
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.decoding import DecodedFrame, DecodedMask
from nerveseg.data.findings import Finding, count, errors
from nerveseg.data.frame_store import hashes
from nerveseg.data.layouts.dataset import Dataset, Record

MIN_SIDE = 32  # pixels; anything smaller is a thumbnail or not an ultrasound frame

MAX_AREA = 0.5  # share of a frame; a brachial plexus covers at most 7 %, an inverted mask usually 95 %
MANY_PIECES = 20  # of a mask; a nerve is one piece, a plexus or the fascicles of a nerve are a few

_DIGEST_BYTES = 16
_VALUES_SHOWN = 20  # of masks, in a finding
_AHEAD = 2  # frames for each thread that are decoded ahead of writing, up to 32 MB each with their mask


@dataclass(frozen=True)
class Pair:
    """A frame that could be decoded, and its mask.

    Attributes:
        record: what the layout says of both.
        frame: uint8 (height, width).
        mask: uint8 0/1 (height, width).
        area: of the mask in pixels.
        hashes: of the frame, as `frame_store.hashes`.
    """

    record: Record
    frame: Frame
    mask: Mask
    area: int
    hashes: tuple[str, str]


@dataclass
class _Checked:
    """What the checks found of one frame."""

    record: Record
    pair: Pair | None = None  # None: the frame or its mask could not be decoded
    mask_values: tuple[str, ...] = ()  # in the mask's files, besides the background
    mask_digest: bytes = b""  # differs between masks of one size
    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, detail: str) -> None:
        self.findings.append(Finding("error", kind, self.record.image, detail))

    def warn(self, kind: str, detail: str) -> None:
        self.findings.append(Finding("warning", kind, self.record.image, detail))


def check(
    archive: Archive, dataset: Dataset, keep: Callable[[Pair], None], *, keep_empty: bool, set_aside: bool
) -> dict[str, Any]:
    """Checks all frames of a dataset and hands the valid ones to `keep`, in the order of the records.

    Args:
        archive: the zip.
        dataset: its frames, and the findings from listing them.
        keep: takes each; what it kept is unusable if there are errors, unless `quarantine.refusal` accepts them.
        keep_empty: whether to hand over frames whose mask is empty.
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
    for checked in _decoded(archive, dataset.records):
        findings += checked.findings
        if set_aside and (checked.record.image in faulty or errors(checked.findings)):
            continue
        kept.append(checked.record)
        values.add(checked)
        if checked.pair is None:
            continue
        findings += duplicates.compare(checked.pair, checked.mask_digest)
        has_mask = checked.pair.area > 0
        with_mask += has_mask
        if has_mask or keep_empty:
            keep(checked.pair)
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


def _decoded(archive: Archive, records: Sequence[Record]) -> Iterator[_Checked]:
    # Whatever takes time is done in the threads, each of which takes up to 0.4 GB for a frame of the largest size.
    threads = joblib.cpu_count()
    with progress("frames") as bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("Checking", total=len(records))
        ahead: deque[Future[_Checked]] = deque()
        left = iter(records)
        while True:
            ahead += [pool.submit(_decode, archive, record) for record in islice(left, _AHEAD * threads - len(ahead))]
            if not ahead:
                return
            yield ahead.popleft().result()
            bar.advance(task)


def _decode(archive: Archive, record: Record) -> _Checked:
    checked = _Checked(record)
    with _unfit_is_an_error(checked):
        frame = record.frame.read(archive)
        for kind, detail in frame.doubts:
            checked.warn(kind, detail)
        _check_frame(checked, frame.pixels)
        if record.mask is not None:
            mask = record.mask.read(archive, frame.pixels)
            _check_both(checked, frame, mask)
    return checked


@contextmanager
def _unfit_is_an_error(checked: _Checked) -> Iterator[None]:
    try:
        yield
    except UnfitImageError as error:
        checked.error(error.kind, str(error))
        if isinstance(error, masks.MaskValuesError):
            checked.mask_values = error.values


def _check_frame(checked: _Checked, frame: Frame) -> None:
    if min(frame.shape) < MIN_SIDE:
        checked.error("frame too small", f"is {_size(frame)}; the minimum is {MIN_SIDE} pixels per side")
    if frame.min() == frame.max():
        checked.warn("blank frame", f"all pixels are {frame.min()}")


def _check_both(checked: _Checked, frame: DecodedFrame, mask: DecodedMask) -> None:
    where = masks.box(mask.pixels)
    nerve = mask.pixels[where]  # looking at the rest again and again would cost most of the time
    area = int(np.count_nonzero(nerve))
    if area and frame.turned != (mask.turned or 1):
        checked.warn("orientation", _turned(checked.record, frame.turned, mask.turned))
    if frame.pixels.shape != mask.pixels.shape:
        sizes = f"the frame is {_size(frame.pixels)}, its mask {_size(mask.pixels)} (width x height)"
        raise UnfitImageError("size mismatch", sizes)
    checked.mask_values = mask.values
    if area:
        _check_mask(checked, nerve, area / mask.pixels.size)
    checked.pair = Pair(checked.record, frame.pixels, mask.pixels, area, hashes(frame.pixels))
    checked.mask_digest = hashlib.blake2b(
        f"{where}".encode() + np.packbits(nerve).tobytes(), digest_size=_DIGEST_BYTES
    ).digest()


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


def _check_mask(checked: _Checked, nerve: Mask, share: float) -> None:
    if share > MAX_AREA:
        checked.error(
            "mask over half the frame",
            f"the nerve covers {share:.0%} of the frame; if the mask is inverted, swap its values, otherwise correct "
            "it or leave the frame out",
        )
    number = masks.pieces(nerve)
    if number > MANY_PIECES:
        checked.warn("many pieces", f"the mask consists of {number} pieces; check that it is not noise")


class _MaskValues:
    """What the masks' files hold besides the background: one value, or those that `data.classes` chooses."""

    def __init__(self) -> None:
        self._images: defaultdict[str, list[str]] = defaultdict(list)  # by value
        self._first = ""
        self._accepted: set[str] = set()  # values of the masks that are fit
        self._refused = 0  # masks, for several values

    def add(self, checked: _Checked) -> None:
        self._first = self._first or checked.record.image
        for value in checked.mask_values:
            self._images[value].append(checked.record.image)
        if checked.pair is not None:
            self._accepted |= {*checked.mask_values}
        elif checked.mask_values:
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

    def compare(self, pair: Pair, mask_digest: bytes) -> list[Finding]:
        record = pair.record
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


def _size(pixels: Frame) -> str:
    height, width = pixels.shape
    return f"{width}x{height}"
