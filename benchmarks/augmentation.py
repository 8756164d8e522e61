"""What each level of train.augmentation costs and does, on frames of the phantom.

Usage: python -m benchmarks.augmentation [PICTURE]

Prints CPU milliseconds per frame at two sizes and their ratio to those of `card`, and how far, on average, grey levels
and outlines are from the original's. With the name of a picture, it shows what seeds from 1 make of one frame.
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np

from nerveseg.arrays import Frame, Mask
from nerveseg.data.augment import Augmentation
from nerveseg.params import LEVELS, PhantomParams
from nerveseg.phantom.sweep import sweep

SIZES = ((192, 256), (448, 448))
FRAMES = 200  # augmented for each figure
SHOWN = 6  # frames of a level
CELL = (200, 150)  # width and height of a frame in the picture, pixels
YELLOW = (0, 220, 255)


def phantom() -> tuple[Frame, Mask]:
    """The frame of a sweep with the largest nerve, and its mask."""
    params = PhantomParams(
        subjects=3, frames_per_subject=12, empty_share=0.2, height=420, width=580, layout="kaggle", seed=70
    )
    return max(sweep(1, params), key=lambda pair: int(pair[1].sum()))


def resized(frame: Frame, mask: Mask, height: int, width: int) -> tuple[Frame, Mask]:
    size = (width, height)
    small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8), small.astype(np.uint8)


def milliseconds(level: str, frame: Frame, mask: Mask) -> float:
    """CPU time for one frame."""
    augmentation = Augmentation(level)
    augmentation(frame, mask, 0)
    begun = time.process_time()
    for seed in range(FRAMES):
        augmentation(frame, mask, seed)
    return (time.process_time() - begun) / FRAMES * 1000


def changes(level: str, frame: Frame, mask: Mask) -> tuple[float, float]:
    """Mean difference in grey levels, and the mean Dice of the outline with the original's; flips left out."""
    augmentation = Augmentation(level)
    for transform in augmentation.pipeline.transforms[: len(augmentation.flips)]:
        transform.p = 0
    grey, dice = [], []
    for seed in range(FRAMES):
        other, moved = augmentation(frame, mask, seed)
        grey.append(np.abs(other.astype(float) - frame).mean())
        dice.append(2 * (moved & mask).sum() / (moved.sum() + mask.sum()))
    return float(np.mean(grey)), float(np.mean(dice))


def cell(frame: Frame, mask: Mask) -> Frame:
    """A frame with its outline, BGR uint8."""
    shown = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, YELLOW, 1)
    return shown.astype(np.uint8)


def picture(frame: Frame, mask: Mask) -> Frame:
    """A row for each level, with its name: BGR uint8."""
    rows = []
    for level in LEVELS:
        augmentation = Augmentation(level)
        shown = [augmentation(frame, mask, seed) for seed in range(1, SHOWN + 1)]
        row = np.hstack([cell(*pair) for pair in shown])
        cv2.putText(row, level, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(row)
    return np.vstack(rows)


def main(path: Path | None) -> None:
    cv2.setNumThreads(1)
    frame, mask = phantom()
    given = {size: resized(frame, mask, *size) for size in SIZES}
    card = {size: milliseconds("card", *pair) for size, pair in given.items()}
    print("CPU ms per frame and ratio to card; mean difference in grey levels and Dice with the original, not flipped")
    for level in LEVELS:
        costs = {size: milliseconds(level, *pair) for size, pair in given.items()}
        told = "  ".join(f"{h}x{w} {costs[h, w]:5.2f} ms ({costs[h, w] / card[h, w]:4.1f} x)" for h, w in SIZES)
        grey, dice = changes(level, *given[SIZES[0]])
        print(f"{level:8}{told}  grey {grey:4.1f}  Dice {dice:.3f}")
    if path:
        small = resized(frame, mask, CELL[1], CELL[0])
        path.write_bytes(cv2.imencode(".jpg", picture(*small), [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
