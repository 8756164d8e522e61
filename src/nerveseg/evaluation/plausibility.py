"""How little a predicted mask looks like the training's masks, without knowing the truth, and what that is worth.

A mask is described by three figures: its area, the place of its centroid, and how much of it no ellipse explains. The
oddness of a mask is

    d2 = ((log a - m) / s)**2 + (c - c0)' P (c - c0) + max(0, (r - r0) / s_r)**2

with its share a of the frame, its centroid c in shares of the frame's height and width, and its residual r, which is 1
less the Dice of the mask with the ellipse of its moments; means, deviations and the inverse covariance P are those of
the training's true masks. A mask rounder than usual is not odd. Its mistrust is d2 / (d2 + q) with the 95th percentile
q of d2 over the training's masks: 0 for a mask like their mean, 0.5 for one as odd as their oddest twentieth.

On the same scale, an empty mask has a mistrust of 0.05 / (0.05 + e) with the share e of the training frames without a
nerve: 1 where there is none, 0.5 where it is one in twenty.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from nerveseg.evaluation import metrics, shape
from nerveseg.model.spec import Outlines, Place, Plausibility, Spread

if TYPE_CHECKING:
    import pandas as pd

_LEAST = 1e-3  # floor of a deviation: masks that are all alike would make any other infinitely odd
_RARE = 0.05  # share of the training's masks that gets a mistrust of 0.5 or more
KEPT = 0.8  # share of the frames that `kept` keeps


def fit(masks: Iterable[np.ndarray]) -> Plausibility:
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
    odd = max(float(np.quantile([_oddness(each, outlines) for each in found], 1 - _RARE)), _LEAST)
    return Plausibility(empty_share=1 - len(found) / len(described), outlines=outlines.model_copy(update={"odd": odd}))


def mistrust(mask: np.ndarray, training: Plausibility | None) -> float:
    """The mistrust of a mask, uint8 0/1 (H, W): in [0, 1].

    Args:
        training: what `fit` made, as `ModelSpec.plausibility` has it; None, for a model of before, gives NaN.
    """
    if training is None:
        return float("nan")
    figures = _describe(mask)
    if figures is None:
        return _RARE / (_RARE + training.empty_share)
    if training.outlines is None:
        return 1.0  # no mask like this one was ever seen
    oddness = _oddness(figures, training.outlines)
    return oddness / (oddness + training.outlines.odd)


def risk_coverage(mistrusts: np.ndarray, dice: np.ndarray) -> "pd.DataFrame":
    """What is left to go wrong if only the least mistrusted frames are used.

    El-Yaniv and Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html. Frames of equal mistrust come in no order:
    each counts with their mean.

    Args:
        mistrusts, dice: float64 (frames,); frames without a Dice are left out.

    Returns:
        A row a frame, the least mistrusted first: coverage (share of the frames so far), mistrust, and risk, which is
        1 less their mean Dice. The mean of the risks is the area under the curve.
    """
    import pandas as pd  # not above: those who serve masks start without it

    frames = pd.DataFrame({"mistrust": mistrusts, "dice": dice}).dropna().sort_values("mistrust", kind="stable")
    alike = frames.groupby("mistrust")["dice"].transform("mean").to_numpy()
    count = np.arange(1, len(frames) + 1)
    return pd.DataFrame(
        {
            "coverage": count / len(frames),
            "mistrust": frames["mistrust"].to_numpy(),
            "risk": 1 - np.cumsum(alike) / count,
        }
    )


def kept(mistrusts: np.ndarray) -> np.ndarray:
    """How much of each frame is in the KEPT share with the least mistrust: weights, float64 in [0, 1] (frames,).

    Frames of equal mistrust at its end share what is left of it, so that the mean Dice by these weights is 1 less the
    risk there in `risk_coverage`. A frame whose mistrust is NaN takes no part: 0.
    """
    known = np.sort(mistrusts[~np.isnan(mistrusts)])
    if not len(known):
        return np.zeros(len(mistrusts))
    number = max(1, round(KEPT * len(known)))
    last = known[number - 1]
    before, at_end = mistrusts < last, mistrusts == last
    return before + at_end * (number - before.sum()) / at_end.sum()


def _describe(mask: np.ndarray) -> np.ndarray | None:
    """log of the share of the frame, residual, and the centroid's row and column in shares: (4,); None if empty."""
    if not mask.any():
        return None
    residual = 1 - metrics.score(mask, shape.ellipse(mask))[0]
    place = (shape.centroid(mask) + 0.5) / mask.shape
    return np.array([np.log(mask.mean()), residual, *place])


def _spread(values: np.ndarray) -> Spread:
    return Spread(mean=float(values.mean()), deviation=max(float(values.std()), _LEAST))


def _oddness(figures: np.ndarray, outlines: Outlines) -> float:
    area, residual = (
        (value - spread.mean) / spread.deviation
        for value, spread in zip(figures[:2], (outlines.area, outlines.residual), strict=True)
    )
    offset = figures[2:] - outlines.place.mean
    place = offset @ np.array(outlines.place.inverse_covariance) @ offset
    return float(area**2 + place + max(0.0, residual) ** 2)
