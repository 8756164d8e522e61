"""Masks and overlays as PNG."""

import cv2
import numpy as np

from nerveseg.arrays import Frame, Mask
from nerveseg.model import shape

_NERVE = (255, 200, 0)  # blue, green, red: the colour of predictions in the report


def frame_png(frame: Frame) -> bytes:
    """A frame, uint8 (H, W), as a grey PNG."""
    return _png(frame)


def mask_png(mask: Mask) -> bytes:
    """A mask, uint8 0/1 (H, W), as a PNG of 0 and 255."""
    return _png(mask * np.uint8(255))


def overlay_png(frame: Frame, mask: Mask) -> bytes:
    """A frame, uint8 (H, W), with the outline of its mask, uint8 0/1 (H, W), as a PNG."""
    picture = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    return _png(cv2.polylines(picture, shape.outlines(mask), True, _NERVE, 1, cv2.LINE_AA))


def _png(pixels: cv2.typing.MatLike) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
