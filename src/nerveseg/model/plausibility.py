"""Atypicality: how much a predicted mask differs from the training masks. It needs no ground truth.

A mask is described by its area, the position of its centroid, and how poorly an ellipse explains it. Its squared
distance from the training masks is

    d2 = ((log a - m) / s)**2 + (c - c0)' P (c - c0) + max(0, (r - r0) / s_r)**2

with its area a as a share of the frame, its centroid c as shares of the frame's height and width, and its residual r,
which is 1 minus the Dice of the mask with the ellipse that has its moments. Means, deviations and the inverse
covariance P are those of the true masks of the training frames. A mask rounder than usual does not count as atypical.
The atypicality of a mask is d2 / (d2 + q), where q is the 95th percentile of d2 over the training masks: 0 for a mask
like their mean, above 0.5 for one that is more atypical than 95 % of them.

On the same scale, an empty mask has an atypicality of 0.05 / (0.05 + e), where e is the share of training frames
without a nerve: 1 if there are none, 0.5 if it is 5 %.
"""

from collections.abc import Iterable

import numpy as np

from nerveseg.arrays import Floats, Mask
from nerveseg.evaluation import metrics
from nerveseg.model import shape
from nerveseg.model.spec import Outlines, Place, Plausibility, Spread

_LEAST = 1e-3  # minimum deviation: if all training masks were the same, any other would be infinitely far away
RARE = 0.05  # share of training masks with an atypicality above ATYPICAL
ATYPICAL = 0.5  # by the definition above


def fit(masks: Iterable[Mask]) -> Plausibility:
    """Fits the statistics of the training masks.

    Args:
        masks: uint8 0/1 (H, W), the true masks of all training frames, of any sizes.
    """
    described = [_describe(mask) for mask in masks]
    found = np.array([figures for figures in described if figures is not None])
    if not len(found):
        return Plausibility(empty_share=1.0, outlines=None)
    area, residual, place = found[:, 0], found[:, 1], found[:, 2:]
    covariance = np.cov(place, rowvar=False, bias=True) + _LEAST**2 * np.eye(2)
    outlines = Outlines(
        area=_spread(area),
        residual=_spread(residual),
        place=Place(mean=place.mean(axis=0).tolist(), inverse_covariance=np.linalg.inv(covariance).tolist()),
        odd=1.0,  # replaced below, once distances can be computed
    )
    odd = max(float(np.quantile([_squared_distance(each, outlines) for each in found], 1 - RARE)), _LEAST)
    return Plausibility(empty_share=1 - len(found) / len(described), outlines=outlines.model_copy(update={"odd": odd}))


def atypicality(mask: Mask, training: Plausibility | None) -> float:
    """The atypicality of a mask, uint8 0/1 (H, W): in [0, 1].

    Args:
        training: from `fit`, as in `ModelSpec.plausibility`; None, for an older model, gives NaN.
    """
    if training is None:
        return float("nan")
    figures = _describe(mask)
    if figures is None:
        return RARE / (RARE + training.empty_share)
    if training.outlines is None:
        return 1.0  # all training masks are empty
    distance = _squared_distance(figures, training.outlines)
    return distance / (distance + training.outlines.odd)


def _describe(mask: Mask) -> Floats | None:
    """Log of the share of the frame, residual, and row and column of the centroid as shares: (4,); None if empty."""
    if not mask.any():
        return None
    residual = 1 - metrics.score(mask, shape.ellipse(mask))[0]
    place = (shape.centroid(mask) + 0.5) / mask.shape
    return np.array([np.log(mask.mean()), residual, *place])


def _spread(values: Floats) -> Spread:
    return Spread(mean=float(values.mean()), deviation=max(float(values.std()), _LEAST))


def _squared_distance(figures: Floats, outlines: Outlines) -> float:
    area, residual = (
        (value - spread.mean) / spread.deviation
        for value, spread in zip(figures[:2], (outlines.area, outlines.residual), strict=True)
    )
    offset = figures[2:] - outlines.place.mean
    place = offset @ np.array(outlines.place.inverse_covariance) @ offset
    return float(area**2 + place + max(0.0, residual) ** 2)
