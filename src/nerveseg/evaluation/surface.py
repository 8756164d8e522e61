"""Distances between the outlines of a predicted and a true mask, in pixels of the frame or in mm.

The outline of a mask consists of its pixels with one of their four neighbours outside the mask or the frame, each
counted once, as in MONAI; DeepMind's surface-distance weights them by length, and differs by a few per cent.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from nerveseg.arrays import Ints, Mask
from nerveseg.model import shape

_ROUNDING = 1e-9  # a distance of just the tolerance, 10 pixels of 0.1 mm, may come out larger in its last digit
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@dataclass(frozen=True)
class Outline:
    """Metrics of two outlines; NaN if undefined, like a distance to an empty mask. Distances are in pixels or in mm.

    Attributes:
        nsd: normalised surface distance in [0, 1], the share of both outlines within the tolerance of the other one
            (Nikolov et al. 2018, https://arxiv.org/abs/1809.04430; here as computed by Seidlitz et al. 2021,
            https://arxiv.org/abs/2111.05408). 0 if one mask is empty, as in MONAI and surface-distance; NaN only if
            both are.
        hd95: 95 % Hausdorff distance, the larger of the 95th percentiles of the distances from either
            outline to the other (Huttenlocher et al. 1993, https://doi.org/10.1109/34.232073), interpolated linearly.
            NaN if a mask is empty.
        centroid_error: distance between the masks' centroids; NaN if a mask is empty.
    """

    nsd: float = float("nan")
    hd95: float = float("nan")
    centroid_error: float = float("nan")


def compare(prediction: Mask, truth: Mask, tolerance: float, spacing: tuple[float, float] = (1.0, 1.0)) -> Outline:
    """The figures of two masks, uint8 0/1 (H, W).

    Args:
        tolerance: of the normalised surface distance, in the unit of `spacing`.
        spacing: distance between rows and between columns, in mm; without it, distances are in pixels.
    """
    from scipy.spatial import KDTree  # slow to import, and only evaluate compares outlines

    if not prediction.any() or not truth.any():
        return Outline(nsd=0.0) if prediction.any() or truth.any() else Outline()
    predicted, true = (_outline(mask) * spacing for mask in (prediction, truth))
    away = KDTree(true).query(predicted)[0], KDTree(predicted).query(true)[0]
    return Outline(
        nsd=float(np.mean(np.concatenate(away) <= tolerance + _ROUNDING)),
        hd95=float(max(np.percentile(distances, 95) for distances in away)),
        centroid_error=float(np.linalg.norm((shape.centroid(prediction) - shape.centroid(truth)) * spacing)),
    )


def _outline(mask: Mask) -> Ints:
    """Rows and columns of a mask's outline: int64 (N, 2)."""
    inner = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.argwhere(mask > inner)
