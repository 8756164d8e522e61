"""Coordinates and shapes.

Lengths are in units of the frame's depth, independent of its size in pixels: y runs from 0 at the skin to 1, x from 0
to `ASPECT`.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ASPECT = 580 / 420  # width over depth

Field = npt.NDArray[np.floating]  # over the points of a grid


@dataclass(frozen=True)
class Oval:
    """A tilted ellipse (in radians) with an uneven outline.

    `waves` are the second and third harmonic of its relative radius, with amplitude and phase as complex numbers.
    """

    x: float
    y: float
    a: float
    b: float
    tilt: float
    waves: tuple[complex, complex]

    def axes(self, x: Field, y: Field) -> tuple[Field, Field]:
        """The points in the oval's own coordinates, where its outline is roughly the unit circle."""
        cosine, sine = math.cos(self.tilt), math.sin(self.tilt)
        x, y = x - self.x, y - self.y
        return (x * cosine + y * sine) / self.a, (y * cosine - x * sine) / self.b

    def window(self, x: Field, y: Field, margin: float) -> tuple[slice, slice]:
        """The rows and columns of a grid that contain the oval and a margin around it."""
        cosine, sine = math.cos(self.tilt), math.sin(self.tilt)
        reach_x = math.hypot(self.a * cosine, self.b * sine) * 1.15 + margin
        reach_y = math.hypot(self.a * sine, self.b * cosine) * 1.15 + margin
        top, bottom = np.searchsorted(y[:, 0], (self.y - reach_y, self.y + reach_y))
        left, right = np.searchsorted(x[0], (self.x - reach_x, self.x + reach_x))
        return slice(top, bottom), slice(left, right)

    def outline(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Distance from the outline (to first order, negative inside) and how squarely it faces the beam, 0 to 1."""
        u, v = self.axes(x, y)
        radius = np.sqrt(u**2 + v**2) + 1e-6
        down, across = v / (radius * self.b), u / (radius * self.a)
        steepness = np.sqrt(down**2 + across**2) + 1e-6
        facing = np.abs(across * math.sin(self.tilt) + down * math.cos(self.tilt)) / steepness
        cosine, sine = u / radius, v / radius
        cosine2, sine2 = cosine**2 - sine**2, 2 * sine * cosine
        cosine3, sine3 = cosine2 * cosine - sine2 * sine, sine2 * cosine + cosine2 * sine
        two, three = self.waves
        edge = 1 + two.real * cosine2 + two.imag * sine2 + three.real * cosine3 + three.imag * sine3
        return (radius / edge - 1) / steepness, facing


def grid(height: int, width: int, border: int = 0) -> tuple[Field, Field]:
    """x and y of the pixel centres, float32, with `border` extra columns on either side."""
    y, x = np.mgrid[0:height, -border : width + border].astype(np.float32) + np.float32(0.5)
    return x * (ASPECT / width), y / height


def spacing(x: Field) -> float:
    return float(x[0, 1] - x[0, 0])
