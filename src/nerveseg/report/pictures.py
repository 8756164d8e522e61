"""Frames as small pictures, and the outlines of masks over them."""

import io

import cv2
import numpy as np
from PIL import Image

from nerveseg.arrays import Frame, Mask
from nerveseg.model import shape

LONGEST = 512  # pixels of a picture's longer side
SUFFIX, TYPE = ".avif", "image/avif"
_AVIF = {
    "quality": 36,
    "speed": 9,
    "max_threads": 1,
}  # half of WebP's bytes at 70, in less time, and speckle looks alike


def encode(frame: Frame) -> bytes:
    """A frame as AVIF.

    Args:
        frame: uint8 (H, W). The picture is no larger than 512 pixels.
    """
    height, width = frame.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
    written = io.BytesIO()
    Image.fromarray(small).save(written, "avif", **_AVIF)
    return written.getvalue()


def outline(mask: Mask) -> str:
    """The outlines of a mask, uint8 0/1 (H, W), as a path of SVG in pixels of the frame; "" if it is empty.

    The first point of each is absolute, the others are relative to the one before: half as long as absolute ones.
    """
    parts = []
    for polygon in shape.outlines(mask):
        x, y = polygon[0].tolist()
        steps = " ".join(f"{right} {down}" for right, down in np.diff(polygon, axis=0).tolist()).replace(" -", "-")
        parts.append(f"M{x + 0.5:g},{y + 0.5:g}{f'l{steps}' if steps else ''}Z")
    return "".join(parts)
