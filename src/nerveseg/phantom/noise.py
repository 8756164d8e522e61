"""Random numbers by key, and the smooth random fields that make tissue irregular."""

import math

import cv2
import numpy as np

from nerveseg.phantom.geometry import ASPECT, Field

PIXELS = 250  # of a field, per unit of depth
BORDER = 0.25  # units by which a field extends beyond the frame

Pair = tuple[Field, Field]


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def pair(rng: np.random.Generator, lateral: float, axial: float) -> Pair:
    """Two independent fields with the same blur, as standard deviations in units of depth."""
    return _field(rng, lateral, axial), _field(rng, lateral, axial)


def sample(fields: Pair, x: Field, y: Field, blend: float) -> Field:
    """The field at these points, `blend` radians of the way from the first of the pair to the second."""
    first, second = fields
    field = math.cos(blend) * first + math.sin(blend) * second
    column, row = ((axis + BORDER) * PIXELS - 0.5 for axis in (x, y))
    return np.asarray(cv2.remap(field, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


def _field(rng: np.random.Generator, lateral: float, axial: float) -> Field:
    """A Gaussian random field over the frame and its border, float32 with unit variance."""
    height, width = (round((length + 2 * BORDER) * PIXELS) for length in (1, ASPECT))
    down, across = np.fft.fftfreq(height, 1 / PIXELS), np.fft.rfftfreq(width, 1 / PIXELS)
    transfer = np.outer(np.exp(-2 * (math.pi * axial * down) ** 2), np.exp(-2 * (math.pi * lateral * across) ** 2))
    white = rng.standard_normal((height, width), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * transfer.astype(np.float32), s=(height, width))
    unit: Field = field / field.std()
    return unit
