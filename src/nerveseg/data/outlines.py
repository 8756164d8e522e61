"""Draws what COCO's masks consist of: polygons, and run lengths as numbers or compressed into text.

pycocotools draws them, but it trusts its input: coordinates far away take any amount of memory, and run lengths that
are cut off or too long may reach beyond it. So both are checked here before.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nerveseg.arrays import Floats, Ints, Mask
from nerveseg.data.archive import UnfitImageError

MAX_OUTLINE = 2**20  # pixels along a polygon, which takes about 80 bytes for each to draw; a nerve takes a thousand
MAX_RUNS = 2**20  # of one mask; a nerve takes a few hundred, a chequered 1024 x 1024 frame as many

_MIN_NUMBERS = 6  # of a polygon: three points
_OUTSIDE = 0.1  # of a side: how far beyond the frame points may lie; they are drawn as far as the frame reaches
_CODE_START, _VALUE_BITS = 48, 5  # of compressed run lengths: what "0" stands for, and the bits of a number in each
_CONTINUES, _IS_NEGATIVE = 0x20, 0x10


@dataclass(frozen=True, eq=False)
class Polygon:
    """A polygon.

    Attributes:
        points: x, y, x, y ..., float64, in pixels, as COCO counts them: the frame's left edge is at 0.
    """

    points: Floats

    def draw(self, height: int, width: int) -> Mask:
        """The pixels inside, uint8 0/1 (height, width), exactly as pycocotools' `COCO.annToMask`.

        Raises:
            UnfitImageError: it is none, lies outside the frame, is in shares of it, or is longer than 2^20 pixels.
        """
        self._require_sound(height, width)
        return _drawn([self.points.tolist()], height, width)

    def _require_sound(self, height: int, width: int) -> None:
        if self.points.size < _MIN_NUMBERS or self.points.size % 2:
            raise UnfitImageError(
                "outline", f"has a polygon of {self.points.size} numbers; it takes an x and a y for at least 3 points"
            )
        points = self.points.reshape(-1, 2)
        margin = _OUTSIDE * max(height, width)
        inside = (points >= -margin) & (points <= np.array([width, height]) + margin)
        if not inside.all():
            x, y = points[np.argmin(inside.all(axis=1))]
            raise UnfitImageError(
                "outline",
                f"has a polygon with the point {x:g}, {y:g}, far outside the {width}x{height} frame; check that it was "
                "drawn on this frame at this size, in pixels",
            )
        if points.min() >= 0 and points.max() <= 1:  # would cover no pixel, or one
            raise UnfitImageError(
                "outline", "has a polygon with all points between 0 and 1: if they are shares of the frame, give pixels"
            )
        length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() + len(points)
        if length > MAX_OUTLINE:
            raise UnfitImageError(
                "outline",
                f"has a polygon that is {length:.0f} pixels long; the limit is {MAX_OUTLINE}: this is no nerve",
            )


@dataclass(frozen=True, eq=False)
class CocoRuns:
    """Run lengths in COCO's format: of background and mask in turn, in column-major order, beginning with background.

    Attributes:
        size: height and width of their frame.
        counts: the lengths, int64, or all of them compressed into text.
    """

    size: tuple[int, int]
    counts: str | Ints

    def draw(self, height: int, width: int) -> Mask:
        """Their pixels, uint8 0/1 (height, width), exactly as pycocotools' `COCO.annToMask`.

        Raises:
            UnfitImageError: they are those of another size, or do not add up to the pixels of the frame.
        """
        if self.size != (height, width):
            raise UnfitImageError(
                "run lengths",
                f"are of a {self.size[1]}x{self.size[0]} frame, but this one is {width}x{height} (width x height)",
            )
        if len(self.counts) > MAX_RUNS:
            raise UnfitImageError(
                "run lengths", f"have {len(self.counts)} parts; the limit is {MAX_RUNS}: this is no nerve"
            )
        counts = _unpacked(self.counts) if isinstance(self.counts, str) else self.counts.tolist()
        if min(counts, default=0) < 0:
            raise UnfitImageError("run lengths", f"have the length {min(counts)}")
        if sum(counts) != height * width:
            raise UnfitImageError(
                "run lengths", f"add up to {sum(counts)} pixels; the frame has {height * width} ({width}x{height})"
            )
        return _drawn([{"size": self.size, "counts": counts}], height, width)


def _drawn(shapes: list[Any], height: int, width: int) -> Mask:
    from pycocotools import mask as coco  # loaded only where it is needed

    mask: Mask = coco.decode(coco.frPyObjects(shapes, height, width))[..., 0]
    return mask


def _unpacked(text: str) -> list[int]:
    """Compressed run lengths as numbers.

    Each takes one or more characters, 5 bits in each, the lowest first. From the fourth on, it is the difference to the
    last but one. Source: `rleFrString` in https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
    """
    counts: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - _CODE_START
        if not 0 <= code < 2 * _CONTINUES or bits > 2 * 32:
            raise UnfitImageError("run lengths", f"are no compressed run lengths of COCO: {text[:40]!r}")
        value |= (code & (_CONTINUES - 1)) << bits
        bits += _VALUE_BITS
        if code & _CONTINUES:
            continue
        if code & _IS_NEGATIVE:
            value -= 1 << bits
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = bits = 0
    if bits:
        raise UnfitImageError("run lengths", "are cut off: compressed run lengths end within a number")
    return counts
