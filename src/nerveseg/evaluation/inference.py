"""What a network makes of packed frames."""

from collections.abc import Iterator

import numpy as np

from nerveseg.console import progress
from nerveseg.data.packed import Packed
from nerveseg.evaluation import calibration
from nerveseg.model.inference import BATCH, Segmenter


def probabilities(
    packed: Packed, rows: np.ndarray, segmenter: Segmenter, description: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Each row with its nerve probabilities, float32 in [0, 1] at the frame's own size (H, W).

    Args:
        description: of the progress bar.
    """
    with progress("batches") as bar:
        for start in bar.track(range(0, len(rows), BATCH), description=description):
            batch = rows[start : start + BATCH].tolist()
            yield from zip(batch, segmenter.probabilities([packed.frame(row) for row in batch]), strict=True)


def histograms(packed: Packed, rows: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    """`calibration.histogram` of each row: float64 (rows, 4, BINS)."""
    predicted = probabilities(packed, rows, segmenter, "threshold")
    return np.stack([calibration.histogram(probability, packed.mask(row)) for row, probability in predicted])
