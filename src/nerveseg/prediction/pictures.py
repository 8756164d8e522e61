"""Masks and overlays as PNG."""

import cv2
import numpy as np

_NERVE = (255, 200, 0)  # blue, green, red: the colour of predictions in the report


def mask_png(mask: np.ndarray) -> bytes:
    """A mask, uint8 0/1 (H, W), as a PNG of 0 and 255."""
    return _png(mask * np.uint8(255))


def overlay_png(frame: np.ndarray, mask: np.ndarray) -> bytes:
    """A frame, uint8 (H, W), with the outline of its mask, uint8 0/1 (H, W), as a PNG."""
    picture = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return _png(cv2.drawContours(picture, outlines, -1, _NERVE, 1, cv2.LINE_AA))


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
