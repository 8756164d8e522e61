"""The outlines of a mask, its centroid, and the ellipse that resembles it most."""

import cv2
import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Floats, Mask

_PIXEL = np.eye(2) / 12  # covariance of one pixel's square: keeps that of a line or a single pixel invertible


def outlines(mask: Mask) -> list[npt.NDArray[np.int32]]:
    """The outlines of a mask, holes included, through the centres of its outermost pixels.

    Args:
        mask: uint8 0/1 (H, W).

    Returns:
        A closed polygon for each, int32 (N, 2), column and row; none where the mask is empty.
    """
    contours, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour[:, 0], np.int32) for contour in contours]


def centroid(mask: Mask) -> Floats:
    """Mean row and column of the pixels of a mask, 0/1 (H, W): float64 (2,); NaN if it is empty."""
    found = _moments(mask)
    return np.array([found["m01"], found["m10"]]) / found["m00"] if found["m00"] else np.full(2, np.nan)


def ellipse(mask: Mask) -> Mask:
    """The ellipse with the first and second moments of a mask.

    A filled ellipse with semi-axes a and b has the variances a**2 / 4 and b**2 / 4 along them. So with the centroid c
    and the covariance C of the mask's pixels, it consists of every x with (x - c)' C^-1 (x - c) <= 4 (Haralick and
    Shapiro, Computer and Robot Vision I, 1992, appendix A).

    Args:
        mask: 0/1 (H, W).

    Returns:
        uint8 0/1 (H, W), clipped to the frame; empty if the mask is.
    """
    drawn = np.zeros(mask.shape, np.uint8)
    found = _moments(mask)
    if not found["m00"]:
        return drawn
    centre = np.array([found["m01"], found["m10"]]) / found["m00"]
    central = np.array([[found["mu02"], found["mu11"]], [found["mu11"], found["mu20"]]])
    covariance = central / found["m00"] + _PIXEL
    reach = 2 * np.sqrt(np.diag(covariance))
    first = np.maximum(np.ceil(centre - reach), 0).astype(int)
    last = np.minimum(np.floor(centre + reach), np.array(mask.shape) - 1).astype(int)
    rows, columns = np.ogrid[first[0] : last[0] + 1, first[1] : last[1] + 1]
    down, across = rows - centre[0], columns - centre[1]
    (a, b), (_, c) = np.linalg.inv(covariance)
    drawn[first[0] : last[0] + 1, first[1] : last[1] + 1] = a * down**2 + (2 * b * down + c * across) * across <= 4
    return drawn


def _moments(mask: Mask) -> dict[str, float]:
    """Raw moments mXY and central ones muXY of a mask's pixels, x along the columns."""
    return cv2.moments(np.ascontiguousarray(mask, np.uint8), binaryImage=True)
