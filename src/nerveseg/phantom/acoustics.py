"""From tissue to echoes: attenuation, speckle and the point spread function."""

import math
from functools import lru_cache

import cv2
import numpy as np

from nerveseg.phantom.anatomy import Anatomy
from nerveseg.phantom.geometry import Field, spacing
from nerveseg.phantom.noise import generator
from nerveseg.phantom.tissue import Tissue

LOOKS = 3  # steering angles compounded into one frame
SCATTERER_LIFE = 4  # frames after which all scatterers have been replaced
ATTENUATION = 46.0  # dB per unit of depth in soft tissue, round trip
COMPENSATION = 0.84  # share of it that time gain compensation restores
AXIAL_BLUR = 0.003  # standard deviation of the point spread function along the beam


def scatterers(seed: int, subject: int, number: int, shape: tuple[int, ...]) -> Field:
    """Gaussian scatterers of unit variance, float32 (LOOKS, *shape, 2) for real and imaginary part.

    Those of neighbouring frames are correlated.
    """
    life, age = divmod(number, SCATTERER_LIFE)
    angle = age / SCATTERER_LIFE * math.pi / 2
    old, new = (_generation(seed, subject, generation, shape) for generation in (life + 1, life + 2))
    return math.cos(angle) * old + math.sin(angle) * new


@lru_cache(maxsize=2)
def _generation(seed: int, subject: int, generation: int, shape: tuple[int, ...]) -> Field:
    return generator(seed, subject, generation).standard_normal((LOOKS, *shape, 2), dtype=np.float32)


def insonify(tissue: Tissue, anatomy: Anatomy, x: Field, y: Field, scatterers: Field) -> Field:
    """The echoes in dB, where 0 is white: attenuation, point spread function, envelope, compounding.

    Args:
        tissue: of the frame.
        anatomy: for its gain and probe contact.
        x, y: the grid, float32 of shape (height, width + borders).
        scatterers: as `scatterers` draws them for this shape.
    """
    height, width = y.shape
    path = np.cumsum(tissue.absorption + 1.2 * tissue.specular, axis=0) / height
    edges = np.linspace(1, -1, width, dtype=np.float32)
    shade = anatomy.contact[0] * np.maximum(edges, 0) ** 3 + anatomy.contact[1] * np.maximum(-edges, 0) ** 3
    level = anatomy.gain - ATTENUATION * (path - COMPENSATION * y) - shade * np.minimum(1, y / 0.3)

    lateral_blur = 0.005 + 0.005 * y[:, :1]  # standard deviation of the point spread function across the beam
    frequencies = np.fft.fftfreq(width, spacing(x)).astype(np.float32)
    transfer = np.exp(-2 * (math.pi * frequencies * lateral_blur) ** 2)
    # Standard deviation of the scatterers after the point spread function, per row
    spread = np.sqrt((transfer**2).mean(axis=1, keepdims=True) / (2 * math.sqrt(math.pi) * AXIAL_BLUR * height))

    # Interfaces reflect mostly coherently, the rest like scatterers
    smooth = 1.5 * tissue.specular * 10 ** (level / 20)
    rough = np.sqrt(10 ** ((tissue.diffuse + level) / 10) + 0.8 * smooth**2) / (math.sqrt(2) * spread)
    power = np.zeros_like(y)
    for look in scatterers:
        echoes = look * rough[..., None]
        echoes[..., 0] += smooth
        echoes = cv2.GaussianBlur(echoes, (0, 0), sigmaX=1e-3, sigmaY=AXIAL_BLUR * height)
        spectrum = np.fft.fft(echoes.view(np.complex64)[..., 0], axis=1)
        echoes = np.fft.ifft(spectrum * transfer, axis=1)
        power += echoes.real**2 + echoes.imag**2
    noise = 10 ** (-6.4 + y) * (scatterers[0] ** 2).sum(axis=-1)  # of the receiver, amplified with depth
    decibels: Field = 10 * np.log10(power / LOOKS + noise)
    return decibels
