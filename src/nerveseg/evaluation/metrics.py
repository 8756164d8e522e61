"""Overlap of a predicted and a true mask, 1 if both are empty and 0 if one is; other rules are in `empty`."""

import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Bools, Floats, Mask, Probability

Areas = npt.NDArray[np.integer | np.floating]  # in pixels


def dice(intersection: Areas, predicted: Areas, true: Areas) -> Floats:
    """Dice coefficient 2 |P and T| / (|P| + |T|) (Dice 1945, https://doi.org/10.2307/1932409).

    Args: areas in pixels, of any one shape. Returns: float64 in [0, 1] of that shape.
    """
    return _ratio(2 * intersection, predicted + true)


def iou(intersection: Areas, predicted: Areas, true: Areas) -> Floats:
    """Intersection over union |P and T| / |P or T| (Jaccard 1912). Arguments and result as for `dice`."""
    return _ratio(intersection, predicted + true - intersection)


def score(prediction: Mask | Bools, truth: Mask | Bools) -> tuple[float, float]:
    """Dice and IoU of two masks, 0/1 or bool, of one shape. Raises ValueError where the shapes differ."""
    if prediction.shape != truth.shape:
        raise ValueError(f"a prediction of {prediction.shape} cannot be scored against a mask of {truth.shape}")
    counts = (np.count_nonzero(mask) for mask in (np.logical_and(prediction, truth), prediction, truth))
    areas = [np.asarray(count) for count in counts]
    return float(dice(*areas)), float(iou(*areas))


def confidence(probability: Probability, mask: Mask) -> float:
    """Mean probability within a predicted mask, in [0, 1]; NaN where the mask is empty. Both (H, W)."""
    return float(probability[mask > 0].mean(dtype=np.float64)) if mask.any() else float("nan")


def _ratio(numerator: Areas, denominator: Areas) -> Floats:
    return np.where(denominator == 0, 1.0, numerator / np.maximum(denominator, 1))
