"""What a model must beat: scores that need no model."""

import numpy as np

from nerveseg.data.packed import Packed
from nerveseg.evaluation import metrics
from nerveseg.model.frames import resize

_GRID = (96, 128)  # height, width in pixels at which masks of any size are averaged
_LEVELS = np.linspace(0.05, 0.95, 19)


def prior_mask(packed: Packed) -> np.ndarray:
    """The mean training mask, cut where it scores best on the training frames.

    Returns:
        float32 (96, 128), 0 or 1; `at_size` brings it to a frame's size.
    """
    small = [resize(packed.mask(row).astype(np.float32), *_GRID) for row in packed.rows("train")]
    masks = np.stack(small) >= 0.5
    mean = masks.mean(axis=0)
    areas = masks.sum(axis=(1, 2)).astype(float)
    candidates = [mean >= level for level in _LEVELS]
    scores = [
        metrics.dice((masks & prior).sum(axis=(1, 2)).astype(float), np.full_like(areas, prior.sum()), areas).mean()
        for prior in candidates
    ]
    return candidates[int(np.argmax(scores))].astype(np.float32)


def at_size(prior: np.ndarray, height: int, width: int) -> np.ndarray:
    """A prior mask as uint8 0/1 (height, width)."""
    return (resize(prior, height, width) >= 0.5).astype(np.uint8)
