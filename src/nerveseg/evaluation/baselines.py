"""Baselines: scores that need no network, which a model must beat."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Bools, Floats, Mask
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import empty, metrics
from nerveseg.model.frames import resize
from nerveseg.params import EmptyRule

_GRID = (96, 128)  # height and width in pixels to which masks are resized to be averaged
_LEVELS = np.linspace(0.05, 0.95, 19)


@dataclass(frozen=True)
class Priors:
    """The mean training mask at two thresholds: float32 (96, 128), 0 or 1; `at_size` resizes them to a frame's size.

    Attributes:
        best: thresholded where its Dice is best on the training frames.
        half: thresholded at 0.5: the pixels in at least half of the training masks.
    """

    best: npt.NDArray[np.float32]
    half: npt.NDArray[np.float32]


def priors(store: FrameStore, rule: EmptyRule) -> Priors:
    """The mean training mask.

    Args:
        rule: for frames without a nerve. If it leaves out all training frames, the lowest threshold is taken.
    """
    small = [resize(store.mask(row).astype(np.float32), *_GRID) for row in store.rows("train")]
    masks = np.stack(small) >= 0.5
    mean = masks.mean(axis=0)
    areas = masks.sum(axis=(1, 2)).astype(float)
    candidates = [mean >= level for level in _LEVELS]
    scores = [_mean_dice(prior, masks, areas, rule) for prior in candidates]
    return Priors(best=candidates[int(np.argmax(scores))].astype(np.float32), half=(mean >= 0.5).astype(np.float32))


def at_size(prior: npt.NDArray[np.float32], height: int, width: int) -> Mask:
    """A prior mask as uint8 0/1 (height, width)."""
    return (resize(prior, height, width) >= 0.5).astype(np.uint8)


def _mean_dice(prior: Bools, masks: Bools, areas: Floats, rule: EmptyRule) -> float:
    overlaps = (masks & prior).sum(axis=(1, 2)).astype(float)
    scores = empty.apply(metrics.dice(overlaps, np.full_like(areas, prior.sum()), areas), areas, rule)
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else 0.0
