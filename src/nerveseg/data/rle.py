"""Masks as run lengths in Kaggle's format: "start length start length ...", counted from 1 in column-major order.

Source: https://www.kaggle.com/competitions/ultrasound-nerve-segmentation/overview/evaluation
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Bools, Ints, Mask

_INTEGER = re.compile(r"-?[0-9]{1,18}")  # 18 digits fit into int64
_INTEGERS = re.compile(rf"\s*(?:{_INTEGER.pattern}(?:\s+|$))*")


def encode(mask: npt.NDArray[Any]) -> str:
    """The run lengths of a mask.

    Args:
        mask: (height, width), any dtype; everything above 0 is foreground.

    Returns:
        Runs in ascending order with gaps between them; an empty string for an empty mask.
    """
    foreground = np.concatenate([[0], (mask > 0).T.ravel(), [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(foreground)) + 1  # start, end, start, end ... from 1, ends exclusive
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges))


def decode(text: str, height: int, width: int) -> Mask:
    """Decodes run lengths. Runs may be in any order and may touch, but not overlap.

    Returns:
        uint8 0/1, (height, width); all 0 for an empty string.

    Raises:
        ValueError: a number is missing or is not an integer, a start or length is below 1, a run leaves the frame, or
            two runs overlap (which often reveals a row-major mask, or one for another frame size).
    """
    return union([text], height, width)


def union(texts: Sequence[str], height: int, width: int) -> Mask:
    """The union of several masks of one frame. As `decode`; texts may overlap."""
    mask = np.zeros((height, width), np.uint8)
    runs = [each for text in texts if len((each := _runs(text, height, width))[0])]
    if not runs:
        return mask
    # A nerve lies in few columns: the others need no more than zeros.
    first = (min(starts[0] for starts, _ in runs) - 1) // height
    after = max(-(-(ends[-1] - 1) // height) for _, ends in runs)
    columns = np.zeros((after - first, height), np.uint8)
    pixels, before = columns.reshape(-1), first * height + 1
    for starts, ends in runs:
        for start, end in zip((starts - before).tolist(), (ends - before).tolist(), strict=True):
            pixels[start:end] = 1
    mask[:, first:after] = columns.T
    return mask


def _runs(text: str, height: int, width: int) -> tuple[Ints, Ints]:
    """Starts and ends (exclusive) of the runs, from 1, in ascending order."""
    words = text.split()
    # All words in one match take a fifth of the time.
    wrong = None if _INTEGERS.fullmatch(text) else next((word for word in words if not _INTEGER.fullmatch(word)), None)
    if wrong is not None:
        raise ValueError(f"run lengths contain {wrong[:40]!r}, which is not an integer")
    if words == ["-1"]:
        raise ValueError("run lengths are -1; if that means no nerve, leave the cell empty")
    if len(words) % 2:
        raise ValueError(f"run lengths come in pairs, but there are {len(words)} numbers")
    runs = np.array(words, dtype=np.int64).reshape(-1, 2)
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    starts, lengths = runs[:, 0], runs[:, 1]
    ends = starts + lengths
    size = height * width
    _refuse(runs, starts < 1, "starts below 1, the first pixel; if the table counts from 0, add 1 to every start")
    _refuse(runs, lengths < 1, "has a length below 1")
    _refuse(runs, ends - 1 > size, f"ends beyond the {size} pixels of a {width}x{height} frame")
    _refuse(runs[1:], starts[1:] < ends[:-1], "overlaps the run before it")
    return starts, ends


def _refuse(runs: Ints, wrong: Bools, reason: str) -> None:
    if wrong.any():
        start, length = runs[np.argmax(wrong)]
        raise ValueError(f"run '{start} {length}' {reason}")
