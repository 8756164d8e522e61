"""Calibration of the predicted probabilities, and the choice of the threshold on validation frames."""

import numpy as np
import pandas as pd

from nerveseg.arrays import Floats, Mask, Probability
from nerveseg.evaluation import empty, metrics
from nerveseg.params import EmptyRule

BINS = 20  # of equal width over [0, 1]; their edges are the thresholds of `sweep`
_UNTOLD = 0.5  # threshold if all have the same Dice
_PIXELS, _NERVE, _PROBABILITY, _ERROR = range(4)


def histogram(probability: Probability, truth: Mask) -> Floats:
    """What the figures of this module are made of, for one frame.

    Args:
        probability: float32 in [0, 1] (H, W).
        truth: 0/1 (H, W).

    Returns:
        float64 (4, BINS), for each bin: the number of its pixels, how many of them are nerve, the sum of their
        probabilities p, and the sum of (p - truth)**2.
    """
    p, y = probability.ravel(), truth.ravel()
    bins = np.minimum((p * BINS).astype(np.intp), BINS - 1)
    return np.stack([np.bincount(bins, weights, BINS) for weights in (None, y, p, (p - y) ** 2)])


def expected_error(sums: Floats) -> Floats:
    """Expected calibration error: mean over pixels of |share of nerve - mean probability| of their bin, in [0, 1].

    Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602, for the probability of nerve. Most pixels are clearly
    background, which keeps it small: use it to compare models, and look at the curve.

    Args:
        sums: of histograms, (n, 4 * BINS). Returns: (n,).
    """
    bins = sums.reshape(len(sums), 4, BINS)
    error: Floats = np.abs(bins[:, _NERVE] - bins[:, _PROBABILITY]).sum(axis=1) / bins[:, _PIXELS].sum(axis=1)
    return error


def brier(sums: Floats) -> Floats:
    """Brier score: mean over pixels of (p - truth)**2, in [0, 1] (Brier 1950).

    Args and result as for `expected_error`.
    """
    bins = sums.reshape(len(sums), 4, BINS)
    score: Floats = bins[:, _ERROR].sum(axis=1) / bins[:, _PIXELS].sum(axis=1)
    return score


def curve(histograms: Floats) -> pd.DataFrame:
    """The reliability curve over all pixels: from, to, pixels, probability (mean) and share (of nerve) of each bin.

    Args:
        histograms: (frames, 4, BINS). Bins without a pixel are left out.
    """
    bins = histograms.sum(axis=0)
    places = np.flatnonzero(bins[_PIXELS])
    pixels, nerve, probability, _ = bins[:, places]
    return pd.DataFrame(
        {
            "from": places / BINS,
            "to": (places + 1) / BINS,
            "pixels": pixels.astype(np.int64),
            "probability": probability / pixels,
            "share": nerve / pixels,
        }
    )


def sweep(histograms: Floats, rule: EmptyRule) -> pd.DataFrame:
    """Mean Dice and IoU over frames at each threshold 1 / BINS, 2 / BINS, ...: threshold, frames, dice, iou.

    `frames` is the number of frames that the rule does not leave out at that threshold.

    Args:
        histograms: (frames, 4, BINS), of validation frames: a threshold chosen on test frames would bias their scores.
    """
    at_least = np.cumsum(histograms[:, :, ::-1], axis=2)[:, :, ::-1]
    true = at_least[:, _NERVE, :1]
    areas = at_least[:, _NERVE, 1:], at_least[:, _PIXELS, 1:], true
    dice, iou = (empty.apply(score(*areas), true, rule) for score in (metrics.dice, metrics.iou))
    return pd.DataFrame(
        {
            "threshold": np.arange(1, BINS) / BINS,
            "frames": np.count_nonzero(~np.isnan(dice), axis=0),
            "dice": _mean(dice),
            "iou": _mean(iou),
        }
    )


def best(sweep: pd.DataFrame) -> tuple[float, float]:
    """The threshold with the best mean Dice, the lowest of equals, and that Dice. `sweep` is what `sweep` returns.

    0.5 if all thresholds score the same, as for a network that finds nothing; both NaN if no frame has a Dice.
    """
    dice = sweep["dice"].dropna()
    if dice.empty:
        return float("nan"), float("nan")
    threshold = _UNTOLD if dice.nunique() == 1 else float(sweep.loc[dice.idxmax(), "threshold"])
    return threshold, float(dice.max())


def _mean(scores: Floats) -> Floats:
    """Mean over frames of each threshold, (frames, thresholds) to (thresholds,); NaN where no frame is defined."""
    means: Floats = pd.DataFrame(scores).mean().to_numpy()
    return means
