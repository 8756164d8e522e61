"""A small frame store, and models that predict its true masks, moved."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from nerveseg.data.frame_store import FINDINGS, FrameStore, Writer
from nerveseg.evaluation import paired
from nerveseg.files import write_json
from nerveseg.params import EvaluateParams

SUBJECTS, FRAMES = 6, 4  # of a subject
HEIGHT, WIDTH = 48, 64
EVALUATE = EvaluateParams(
    split="test", empty="kaggle", nsd_tolerance=3, nsd_tolerance_mm=1, min_frames=1, resamples=500, overlays=1, seed=70
)


def nerve(row: int, right: int = 0) -> np.ndarray:
    """A mask of 20 x 20 pixels, somewhere else on each row of the store, moved to the right; uint8 0/1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    left = 4 + row % FRAMES + right
    mask[10 + row % 7 : 30 + row % 7, left : left + 20] = 1
    return mask


def write_store(
    folder: Path,
    *,
    seed: int = 0,
    subjects_known: bool = True,
    empty: tuple[int, ...] = (),
    spacings: Mapping[int, tuple[float, float]] = MappingProxyType({}),
) -> FrameStore:
    """Frames of noise with a nerve each, but for the rows in `empty`; all of them test frames.

    Args:
        spacings: of pixels, in mm, of the rows where it is known.
    """
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    with Writer(folder) as writer:
        for row in range(SUBJECTS * FRAMES):
            frame = noise.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
            truth = nerve(row) * (row not in empty)
            subject = str(row // FRAMES)
            writer.append(f"{subject}_{row}.png", subject, None, frame, truth, spacing_mm=spacings.get(row))
        rows = SUBJECTS * FRAMES
        writer.write_index(pd.Series(["test"] * rows), np.arange(rows))
    write_json(folder / FINDINGS, {"subjects_known": subjects_known})
    return FrameStore.open(folder)


def predictions(store: FrameStore, right: dict[int, int] | int, rows: range | None = None) -> pd.DataFrame:
    """What a model scores that moves each nerve to the right by so many pixels, and its table of predictions.

    Args:
        right: pixels, for all rows or by row; a row without any is predicted to have no nerve.
        rows: those that it predicts; None: all.
    """
    places = dict.fromkeys(range(len(store)), right) if isinstance(right, int) else right
    masks = ((row, nerve(row, places[row]) if row in places else nerve(row) * 0) for row in rows or range(len(store)))
    table = paired.score(store, masks, EVALUATE)
    return table.merge(store.index[["image", "height", "width", "sha256"]], on="image")
