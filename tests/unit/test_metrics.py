"""Dice and IoU: on shapes with known results, compared with MONAI, and for empty masks."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import compute_dice, compute_iou

from nerveseg.evaluation import metrics

shapes = npst.array_shapes(min_dims=2, max_dims=2, max_side=12)
pairs = shapes.flatmap(lambda shape: st.tuples(*[npst.arrays(np.uint8, shape, elements=st.integers(0, 1))] * 2))


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((60, 80), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


@pytest.mark.parametrize(
    ("prediction", "truth", "dice", "iou"),
    [
        (rectangle(10, 10, 20, 30), rectangle(10, 10, 20, 30), 1, 1),
        (rectangle(0, 0, 10, 10), rectangle(30, 30, 10, 10), 0, 0),
        (rectangle(0, 0, 10, 10), rectangle(0, 5, 10, 10), 1 / 2, 1 / 3),  # half of each overlaps
        (rectangle(0, 0, 10, 10), rectangle(0, 0, 20, 20), 2 / 5, 1 / 4),  # a quarter of the truth
        (rectangle(0, 0, 60, 80), rectangle(0, 0, 6, 8), 2 / 101, 1 / 100),  # everything predicted
    ],
)
def test_shapes_with_a_known_overlap(prediction: np.ndarray, truth: np.ndarray, dice: float, iou: float) -> None:
    assert metrics.score(prediction, truth) == pytest.approx((dice, iou))
    assert metrics.score(truth, prediction) == pytest.approx((dice, iou))
    assert metrics.score(prediction == 1, truth == 1) == pytest.approx((dice, iou))


@given(pairs)
def test_agrees_with_monai_on_masks_that_are_not_both_empty(masks: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = masks
    assume(prediction.any() or truth.any())
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in masks]
    expected = [float(compute(*tensors, ignore_empty=False)) for compute in (compute_dice, compute_iou)]
    assert metrics.score(prediction, truth) == pytest.approx(expected, abs=1e-6)


@given(pairs)
def test_dice_and_iou_follow_from_each_other(masks: tuple[np.ndarray, np.ndarray]) -> None:
    dice, iou = metrics.score(*masks)
    assert 0 <= iou <= dice <= 1
    assert dice == pytest.approx(2 * iou / (1 + iou))


def test_empty_masks_score_by_kaggles_rule() -> None:
    empty, nerve = rectangle(0, 0, 0, 0), rectangle(5, 5, 10, 10)
    assert metrics.score(empty, empty) == (1, 1)
    assert metrics.score(nerve, empty) == (0, 0)
    assert metrics.score(empty, nerve) == (0, 0)


def test_a_single_false_pixel_is_noticed() -> None:
    empty = rectangle(0, 0, 0, 0)
    assert metrics.score(rectangle(0, 0, 1, 1), empty) == (0, 0)


def test_masks_of_different_shapes_are_rejected_even_if_numpy_could_broadcast_them() -> None:
    for other in ((80, 60), (1, 80), (60, 80, 1)):
        with pytest.raises(ValueError, match="cannot be scored against"):
            metrics.score(np.ones(other, np.uint8), rectangle(0, 0, 1, 1))


def test_areas_of_many_frames_are_scored_at_once() -> None:
    intersection, predicted, true = np.array([[50, 0], [0, 100]]), np.full((2, 2), 100), np.full((2, 2), 100)
    np.testing.assert_allclose(metrics.dice(intersection, predicted, true), [[0.5, 0], [0, 1]])
    np.testing.assert_allclose(metrics.iou(intersection, predicted, true), [[1 / 3, 0], [0, 1]])
