"""The network's probabilities on frames of the store."""

from collections.abc import Iterator

import numpy as np

from nerveseg.arrays import Floats, Ints, Probability
from nerveseg.console import progress
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import calibration
from nerveseg.model.inference import BATCH, Segmenter


def probabilities(
    store: FrameStore, rows: Ints, segmenter: Segmenter, description: str
) -> Iterator[tuple[int, Probability]]:
    """Each row with its nerve probabilities, float32 in [0, 1] at the frame's own size (H, W).

    Args:
        description: of the progress bar.

    Raises:
        NervesegError: the network returns NaN, as after a training that diverged.
    """
    with progress("batches") as bar:
        for start in bar.track(range(0, len(rows), BATCH), description=description):
            batch = rows[start : start + BATCH].tolist()
            found = segmenter.probabilities([store.frame(row) for row in batch])
            for row, probability in zip(batch, found, strict=True):
                if np.isnan(probability).any():
                    raise NervesegError(
                        f"The network returns NaN on {store.index.at[row, 'image']}: its training has diverged. Lower "
                        "train.learning_rate or set train.gradient_clip, and train again."
                    )
                yield row, probability


def histograms(store: FrameStore, rows: Ints, segmenter: Segmenter) -> Floats:
    """`calibration.histogram` of each row: float64 (rows, 4, BINS); there may be no rows."""
    predicted = probabilities(store, rows, segmenter, "threshold")
    found = [calibration.histogram(probability, store.mask(row)) for row, probability in predicted]
    return np.reshape(found, (len(rows), 4, calibration.BINS))
