"""Overlap of a predicted and a true mask, and its means.

Empty masks score by Kaggle's rule: both empty 1, only one of them empty 0.
"""

import numpy as np
import pandas as pd

EMPTY_RULE = "kaggle: both masks empty score 1, one of them 0"


def dice(intersection: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice coefficient 2 |P and T| / (|P| + |T|) (Dice 1945, https://doi.org/10.2307/1932409).

    Args: areas in pixels, of any one shape. Returns: float64 in [0, 1] of that shape.
    """
    return _ratio(2 * intersection, predicted + true)


def iou(intersection: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union |P and T| / |P or T| (Jaccard 1912). Arguments and result as for `dice`."""
    return _ratio(intersection, predicted + true - intersection)


def score(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Dice and IoU of two masks, 0/1 or bool, of one shape. Raises ValueError where the shapes differ."""
    if prediction.shape != truth.shape:
        raise ValueError(f"a prediction of {prediction.shape} cannot be scored against a mask of {truth.shape}")
    counts = (np.count_nonzero(mask) for mask in (np.logical_and(prediction, truth), prediction, truth))
    areas = [np.asarray(count) for count in counts]
    return float(dice(*areas)), float(iou(*areas))


def confidence(probability: np.ndarray, mask: np.ndarray) -> float:
    """Mean probability within a predicted mask, in [0, 1]; NaN where the mask is empty. Both (H, W)."""
    return float(probability[mask > 0].mean(dtype=np.float64)) if mask.any() else float("nan")


def per_subject(per_image: pd.DataFrame) -> pd.DataFrame:
    """One row a subject: subject, frames, and its mean dice and iou."""
    grouped = per_image.groupby("subject", sort=False)
    return grouped.agg(frames=("dice", "size"), dice=("dice", "mean"), iou=("iou", "mean")).reset_index()


def summary(per_image: pd.DataFrame) -> dict[str, float | int]:
    """Means over the frames, the mean of the subjects' means (`dice_by_subject`), and the counts."""
    subjects = per_subject(per_image)
    return {
        "dice": float(per_image["dice"].mean()),
        "iou": float(per_image["iou"].mean()),
        "dice_by_subject": float(subjects["dice"].mean()),
        "frames": len(per_image),
        "subjects": len(subjects),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator == 0, 1.0, numerator / np.maximum(denominator, 1))
