"""Distances of outlines: on shapes with known results, compared with MONAI and with DeepMind's surface-distance."""

import math
import warnings

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from nerveseg.evaluation import surface

HEIGHT, WIDTH = 120, 160
shapes = npst.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=14)
SPOT, NOTHING = np.eye(4, dtype=np.uint8), np.zeros((4, 4), np.uint8)
pairs = shapes.flatmap(lambda shape: st.tuples(*[npst.arrays(np.uint8, shape, elements=st.integers(0, 1))] * 2))


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.uint8)


def blob(seed: int) -> np.ndarray:
    """A disc with a wavy outline."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    row, column = random.uniform(50, 70), random.uniform(60, 100)
    angle = np.arctan2(rows - row, columns - column)
    radius = random.uniform(18, 30) * (1 + 0.15 * np.cos(3 * angle + random.uniform(0, 6)))
    return (np.hypot(rows - row, columns - column) <= radius).astype(np.uint8)


def by_monai(
    prediction: np.ndarray, truth: np.ndarray, tolerance: float, spacing: tuple[float, float] = (1, 1)
) -> tuple[float, float]:
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
    nsd = compute_surface_dice(*tensors, [tolerance], include_background=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
    return float(nsd), float(hd95)


def test_a_mask_on_itself_is_perfect() -> None:
    assert surface.compare(blob(1), blob(1), 0) == surface.Outline(1, 0, 0)


def test_a_bar_shifted_sideways() -> None:
    """One pixel high, so that the outline is the bar: 15 of the 20 pixels of each lie on the other one."""
    found = surface.compare(rectangle(50, 45, 1, 20), rectangle(50, 40, 1, 20), 0)
    assert found.nsd == pytest.approx(15 / 20)
    assert found.hd95 == pytest.approx(np.percentile([0] * 15 + [1, 2, 3, 4, 5], 95))
    assert found.centroid_error == pytest.approx(5)


@pytest.mark.parametrize(("shift", "tolerance", "nsd"), [(4, 3.9, 0), (4, 4, 1), (0, 0, 1)])
def test_bars_above_each_other_are_within_the_tolerance_or_not(shift: int, tolerance: float, nsd: float) -> None:
    found = surface.compare(rectangle(50 + shift, 40, 1, 30), rectangle(50, 40, 1, 30), tolerance)
    assert (found.nsd, found.hd95, found.centroid_error) == (nsd, shift, shift)


def test_a_rectangle_shifted_down() -> None:
    """The top and bottom rows are off by 6, except at their ends; the sides overlap except for 6 pixels."""
    found = surface.compare(rectangle(46, 40, 20, 30), rectangle(40, 40, 20, 30), 0)
    outline = 2 * (20 + 30) - 4
    assert found.hd95 == 6
    assert found.centroid_error == 6
    assert found.nsd == pytest.approx(2 * (20 - 6) / outline)


@pytest.mark.parametrize("wider", [3, 5, 10])
def test_the_distance_of_concentric_discs_is_the_difference_of_their_radii(wider: int) -> None:
    inner, outer = disc(60, 80, 20), disc(60, 80, 20 + wider)
    assert surface.compare(inner, outer, wider + 1.2).nsd == 1
    assert surface.compare(inner, outer, wider - 1.2).nsd == 0
    assert surface.compare(inner, outer, 1).hd95 == pytest.approx(wider, abs=0.5)
    assert surface.compare(inner, outer, 1).centroid_error == pytest.approx(0, abs=1e-9)


def test_a_shifted_disc() -> None:
    """A point on the circle at angle a to the shift d is off by | |r u(a) - d| - r |, about d |cos a|."""
    radius, shift = 40, 8
    found = surface.compare(disc(60, 80 + shift, radius), disc(60, 80, radius), 4)
    angles = np.linspace(0, 2 * math.pi, 100_000)
    away = np.abs(np.hypot(radius * np.cos(angles) + shift, radius * np.sin(angles)) - radius)
    assert found.nsd == pytest.approx(np.mean(away <= 4), abs=0.05)
    assert found.hd95 == pytest.approx(np.percentile(away, 95), abs=0.6)
    assert found.centroid_error == pytest.approx(shift)


def test_one_far_pixel_hardly_changes_the_percentile() -> None:
    spotted = blob(1)
    spotted[2, 2] = 1
    assert surface.compare(spotted, blob(1), 1).hd95 < 1


def test_a_mask_at_the_border_of_the_frame_has_an_outline_there() -> None:
    whole = rectangle(0, 0, HEIGHT, WIDTH)
    assert surface.compare(whole, rectangle(0, 0, HEIGHT, WIDTH // 2), 0).hd95 > 30
    assert surface.compare(whole, whole, 0).nsd == 1


@given(pairs, st.sampled_from([0, 1, 1.5, 3]))
@example((SPOT, NOTHING), 3)
@example((NOTHING, SPOT), 3)
@example((NOTHING, NOTHING), 3)
@pytest.mark.filterwarnings("ignore:.*all 0")
def test_agrees_with_monai(masks: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    found = surface.compare(*masks, tolerance)
    nsd, hd95 = by_monai(*masks, tolerance)
    assert found.nsd == pytest.approx(nsd, abs=1e-5, nan_ok=True)
    assert found.hd95 == pytest.approx(hd95 if all(mask.any() for mask in masks) else math.nan, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(0.13, 0.07), (0.07, 0.13), (0.1, 0.1)])
def test_agrees_with_monai_in_mm_where_pixels_are_no_squares(seed: int, spacing: tuple[float, float]) -> None:
    masks = blob(seed), blob(seed + 100)
    found = surface.compare(*masks, 0.55, spacing)
    nsd, hd95 = by_monai(*masks, 0.55, spacing)
    assert found.nsd == pytest.approx(nsd, abs=1e-5)
    assert found.hd95 == pytest.approx(hd95, abs=1e-5)


def test_rows_and_columns_are_measured_by_their_own_spacing() -> None:
    above = surface.compare(rectangle(57, 40, 1, 30), rectangle(47, 40, 1, 30), 1, (0.1, 0.3))
    assert (above.nsd, above.hd95, above.centroid_error) == pytest.approx((1, 1, 1)), "just the tolerance, rounded"
    beside = surface.compare(rectangle(40, 55, 30, 1), rectangle(40, 45, 30, 1), 2.9, (0.1, 0.3))
    assert (beside.nsd, beside.hd95, beside.centroid_error) == pytest.approx((0, 3, 3))


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_surface_distance_except_for_the_weight_of_a_pixel(seed: int) -> None:
    prediction, truth = blob(seed), blob(seed + 100)
    theirs = surface_distance.compute_surface_distances(truth.astype(bool), prediction.astype(bool), (1, 1))
    found = surface.compare(prediction, truth, 3)
    assert found.nsd == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(theirs, 3), abs=0.05)
    assert found.hd95 == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1)


@pytest.mark.parametrize(
    ("masks", "nsd"), [((NOTHING, SPOT), 0.0), ((SPOT, NOTHING), 0.0), ((NOTHING, NOTHING), math.nan)]
)
def test_the_distance_to_an_empty_mask_is_undefined(
    masks: tuple[np.ndarray, np.ndarray], nsd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # surface-distance 0.1 predates NumPy 2
    with warnings.catch_warnings(action="error"):
        found = surface.compare(*masks, 3)
    assert found.nsd == pytest.approx(nsd, nan_ok=True)
    assert math.isnan(found.hd95)
    assert math.isnan(found.centroid_error)
    theirs = surface_distance.compute_surface_distances(*(mask.astype(bool) for mask in reversed(masks)), (1, 1))
    with np.errstate(invalid="ignore"):
        assert surface_distance.compute_surface_dice_at_tolerance(theirs, 3) == pytest.approx(nsd, nan_ok=True)
