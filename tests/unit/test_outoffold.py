"""Pooled out-of-fold scores, and the optimism of random folds."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nerveseg.crossval import outoffold
from nerveseg.errors import NervesegError
from nerveseg.evaluation import calibration
from nerveseg.evaluation.figures import BASELINES
from nerveseg.evaluation.scores import Scores
from nerveseg.params import EvaluateParams

SUBJECTS = [str(row // 4) for row in range(24)]


def params(**changes: Any) -> EvaluateParams:
    tolerances = {"nsd_tolerance": 3.0, "nsd_tolerance_mm": 1.0}
    base = {"split": "test", "empty": "kaggle", **tolerances, "min_frames": 2, "resamples": 2000}
    return EvaluateParams.model_validate({**base, "overlays": 6, "seed": 70} | changes)


def scored(rows: list[int], dice: np.ndarray) -> Scores:
    table = pd.DataFrame({"row": rows, "image": [f"{row}.png" for row in rows]})
    baselines = {f"{name}_dice": 0.0 for name in BASELINES}
    table = table.assign(subject=[SUBJECTS[row] for row in rows], dice=dice[rows], iou=dice[rows] / 2, true_area=5)
    histograms = np.zeros((len(rows), 4, calibration.BINS))
    histograms[:, 0, 0] = rows
    return Scores(table.assign(**baselines), histograms)


def pooled(dice: np.ndarray) -> Scores:
    return outoffold.pool([scored(list(range(fold, 24, 3)), dice) for fold in range(3)], 24)


def test_folds_are_pooled_in_the_order_of_the_frames() -> None:
    dice = np.random.default_rng(1).uniform(size=24)
    found = pooled(dice)
    assert found.table["row"].tolist() == list(range(24))
    assert found.table["fold"].tolist() == [0, 1, 2] * 8
    np.testing.assert_array_equal(found.table["dice"], dice)
    np.testing.assert_array_equal(found.histograms[:, 0, 0], range(24))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[0, 1], [2]], "of 4, 1 are in no fold, 0 in more than one"),
        ([[0, 1], [1, 2, 3]], "of 4, 0 are in no fold, 1 in more than one"),
    ],
)
def test_a_frame_that_is_missing_or_tested_twice_is_an_error(rows: list[list[int]], reason: str) -> None:
    with pytest.raises(NervesegError, match=reason):
        outoffold.pool([scored(each, np.zeros(24)) for each in rows], 4)


def test_sweeps_are_averaged_over_frames() -> None:
    first = pd.DataFrame({"threshold": [0.3, 0.6], "frames": [10, 8], "dice": [0.2, 0.8], "iou": [0.1, 0.6]})
    second = pd.DataFrame({"threshold": [0.3, 0.6], "frames": [30, 0], "dice": [0.6, np.nan], "iou": [0.5, np.nan]})
    found = outoffold.sweep([first, second])
    assert found["threshold"].tolist() == [0.3, 0.6]
    assert found["frames"].tolist() == [40, 8]
    assert found["dice"].tolist() == pytest.approx([0.5, 0.8])
    assert found["iou"].tolist() == pytest.approx([0.4, 0.6])


def test_optimism_is_the_paired_difference_with_an_interval_over_subjects() -> None:
    random = np.random.default_rng(2)
    honest = np.repeat(random.uniform(0.2, 0.8, 6), 4)  # subjects differ a lot, and the leak adds a little to each
    found = outoffold.leakage(pooled(honest), pooled(honest + random.uniform(0.05, 0.15, 24)), params())
    optimism = found["optimism"]
    assert optimism["dice"] == pytest.approx(found["by_frame"]["dice"] - found["by_subject"]["dice"])
    low, high = optimism["dice_ci"]
    assert 0.05 < low < optimism["dice"] < high < 0.15, "what is hard for both cancels out"
    assert optimism["iou"] == pytest.approx(optimism["dice"] / 2)


def test_without_a_leak_there_is_no_optimism() -> None:
    dice = np.random.default_rng(3).uniform(size=24)
    assert outoffold.leakage(pooled(dice), pooled(dice), params())["optimism"]["dice_ci"] == (0, 0)


def test_frames_from_another_dataset_cannot_be_compared() -> None:
    other = pooled(np.zeros(24))
    other.table["image"] = other.table["image"] + "f"
    with pytest.raises(NervesegError, match="do not have the same frames"):
        outoffold.leakage(pooled(np.zeros(24)), other, params())
