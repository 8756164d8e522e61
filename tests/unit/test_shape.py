"""Centroid and ellipse of a mask."""

import numpy as np
import pytest

from nerveseg.evaluation import metrics
from nerveseg.model import shape


def tilted(row: float, column: float, a: float, b: float, tilt: float) -> np.ndarray:
    rows, columns = np.mgrid[:120, :160]
    y, x = rows - row, columns - column
    u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    return ((u / a) ** 2 + (v / b) ** 2 <= 1).astype(np.uint8)


def dice(mask: np.ndarray) -> float:
    return metrics.score(shape.ellipse(mask), mask)[0]


@pytest.mark.parametrize(
    "mask", [tilted(60, 80, 30, 30, 0), tilted(50.4, 71.7, 40, 15, 0.6), tilted(80, 100, 25, 8, -1.2)]
)
def test_the_ellipse_of_an_ellipse_is_itself(mask: np.ndarray) -> None:
    assert dice(mask) > 0.98
    assert shape.ellipse(mask).dtype == np.uint8


def test_the_ellipse_of_a_square_is_the_disc_with_its_moments() -> None:
    """Variance s**2 / 12 along each axis, so the radius is s / sqrt(3), which its corners exceed."""
    square = np.zeros((120, 160), np.uint8)
    square[40:80, 60:100] = 1
    drawn = shape.ellipse(square)
    assert drawn.sum() == pytest.approx(np.pi * 40**2 / 3, rel=0.01)
    assert not drawn[40, 60]
    assert drawn[38, 80]


def test_an_ellipse_is_clipped_at_the_border() -> None:
    assert dice(tilted(0, 80, 40, 20, 0)) > 0.85
    whole = np.ones((30, 40), np.uint8)
    assert shape.ellipse(whole).shape == whole.shape


@pytest.mark.parametrize(
    "pixels", [(slice(5, 6), slice(5, 6)), (slice(5, 6), slice(0, 20)), (slice(0, 1), slice(0, 1))]
)
def test_lines_and_single_pixels_have_an_ellipse(pixels: tuple[slice, slice]) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[pixels] = 1
    assert dice(mask) > 0.85


def test_an_empty_mask_has_no_ellipse() -> None:
    nothing = np.zeros((20, 20), np.uint8)
    assert not shape.ellipse(nothing).any()
    assert np.isnan(shape.centroid(nothing)).all()


def test_the_centroid_is_the_mean_position() -> None:
    assert shape.centroid(tilted(50, 71, 40, 15, 0.6)) == pytest.approx([50, 71])
