"""How unlike the training's masks a predicted mask is, judged without the truth.

A mask is described by three figures: its area, the position of its centroid, and how much of it no ellipse explains.
The squared distance of a mask from those of the training set is

    d2 = ((log a - m) / s)**2 + (c - c0)' P (c - c0) + max(0, (r - r0) / s_r)**2

with its area a as a share of the frame, its centroid c in shares of the frame's height and width, and its residual r,
which is 1 less the Dice of the mask with the ellipse of its moments. Means, deviations and the inverse covariance P are
those of the true masks of the training frames. A mask rounder than usual does not count as atypical. The atypicality of
a mask is d2 / (d2 + q), where q is the 95th percentile of d2 over the training masks: 0 for a mask like their mean, 0.5
for one that is more atypical than 95 % of them.

On the same scale, an empty mask has an atypicality of 0.05 / (0.05 + e), where e is the share of training frames
without a nerve: 1 if there are none, 0.5 if they are one in twenty.
"""

from collections.abc import Iterable

import numpy as np

from nerveseg.arrays import Floats, Mask
from nerveseg.evaluation import metrics
from nerveseg.model import shape
from nerveseg.model.spec import Outlines, Place, Plausibility, Spread

_LEAST = 1e-3  # floor of a deviation: masks that are all alike would put any other infinitely far away
_RARE = 0.05  # share of the training's masks that has an atypicality of 0.5 or more


def fit(masks: Iterable[Mask]) -> Plausibility:
    """What the training's masks are like.

    Args:
        masks: uint8 0/1 (H, W), the true masks of all training frames, each of its own size.
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
        odd=1.0,  # until it is measured by the others
    )
    odd = max(float(np.quantile([_squared_distance(each, outlines) for each in found], 1 - _RARE)), _LEAST)
    return Plausibility(empty_share=1 - len(found) / len(described), outlines=outlines.model_copy(update={"odd": odd}))


def atypicality(mask: Mask, training: Plausibility | None) -> float:
    """The atypicality of a mask, uint8 0/1 (H, W): in [0, 1].

    Args:
        training: what `fit` made, as `ModelSpec.plausibility` has it; None, for an older model, gives NaN.
    """
    if training is None:
        return float("nan")
    figures = _describe(mask)
    if figures is None:
        return _RARE / (_RARE + training.empty_share)
    if training.outlines is None:
        return 1.0  # no mask like this one was ever seen
    distance = _squared_distance(figures, training.outlines)
    return distance / (distance + training.outlines.odd)


def _describe(mask: Mask) -> Floats | None:
    """log of the share of the frame, residual, and the centroid's row and column in shares: (4,); None if empty."""
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
