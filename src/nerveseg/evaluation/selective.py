"""Selective prediction: only the least atypical masks are used, and the rest is left to a person."""

import numpy as np
import pandas as pd

from nerveseg.arrays import Floats

KEPT = 0.8  # share of the frames that are used


def risk_coverage(atypicalities: Floats, dice: Floats) -> pd.DataFrame:
    """The risk of selective prediction: what remains wrong if only the least atypical frames are used.

    El-Yaniv and Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html. Frames of equal atypicality have no order:
    each counts with the mean Dice of all of them.

    Args:
        atypicalities, dice: float64 (frames,); frames without a Dice are left out.

    Returns:
        A row per frame, the least atypical first: coverage (share of the frames so far), atypicality, and risk, 1 minus
        the mean Dice of the frames so far. The mean of the risks is the area under the curve.
    """
    frames = (
        pd.DataFrame({"atypicality": atypicalities, "dice": dice}).dropna().sort_values("atypicality", kind="stable")
    )
    alike = frames.groupby("atypicality")["dice"].transform("mean").to_numpy()
    count = np.arange(1, len(frames) + 1)
    return pd.DataFrame(
        {
            "coverage": count / len(frames),
            "atypicality": frames["atypicality"].to_numpy(),
            "risk": 1 - np.cumsum(alike) / count,
        }
    )


def kept(atypicalities: Floats) -> Floats:
    """How much of each frame is among the KEPT share that is least atypical: weights, float64 in [0, 1] (frames,).

    Frames tied at the cut share the remaining weight, so that the mean Dice with these weights is 1 minus the risk at
    that coverage in `risk_coverage`. A frame whose atypicality is NaN has weight 0.
    """
    known = np.sort(atypicalities[~np.isnan(atypicalities)])
    if not len(known):
        return np.zeros(len(atypicalities))
    number = max(1, round(KEPT * len(known)))
    last = known[number - 1]
    before, at_end = atypicalities < last, atypicalities == last
    weights: Floats = before + at_end * (number - before.sum()) / at_end.sum()
    return weights
