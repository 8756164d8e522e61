"""Calibration curve and error, Brier score and threshold sweep, compared with torchmetrics and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from nerveseg.evaluation import calibration, metrics

RNG = np.random.default_rng(70)


def frames(number: int, bias: float = 0.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Probabilities, float32 (20, 30), and true masks drawn from them; with a bias, nerve is more likely."""
    probabilities = RNG.beta(0.4, 1.5, (number, 20, 30)).astype(np.float32)
    truths = (RNG.random(probabilities.shape) < np.clip(probabilities + bias, 0, 1)).astype(np.uint8)
    return list(zip(probabilities, truths, strict=True))


def histograms(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([calibration.histogram(*pair) for pair in pairs])


def figures(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    sums = histograms(pairs).sum(axis=0).reshape(1, -1)
    return float(calibration.expected_error(sums)[0]), float(calibration.brier(sums)[0])


def test_the_calibration_error_matches_torchmetrics() -> None:
    pairs = frames(10, 0.1)
    p, y = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
    theirs = binary_calibration_error(p.ravel(), y.ravel().int(), n_bins=calibration.BINS, norm="l1")
    assert figures(pairs)[0] == pytest.approx(theirs.item(), abs=1e-4)


def test_the_brier_score_is_the_mean_squared_error() -> None:
    pairs = frames(10)
    assert figures(pairs)[1] == pytest.approx(np.mean([(p - y) ** 2 for p, y in pairs]), rel=1e-5)


def test_probabilities_that_match_frequencies_are_calibrated() -> None:
    assert figures(frames(200))[0] < 0.005
    assert figures(frames(200, 0.2))[0] == pytest.approx(0.2, abs=0.03)


def test_the_curve_has_the_share_of_nerve_in_each_bin() -> None:
    probability = np.array([[0.0, 0.51, 0.52, 0.54, 0.53, 1.0]], np.float32)
    truth = np.array([[0, 1, 0, 0, 0, 1]], np.uint8)
    curve = calibration.curve(histograms([(probability, truth)]))
    assert curve["to"].tolist() == [0.05, 0.55, 1], "0 and 1 are in the outer bins, and empty bins are left out"
    middle = curve[curve["from"] == 0.5].iloc[0]
    assert (middle["pixels"], middle["share"]) == (4, 0.25)
    assert middle["probability"] == pytest.approx(0.525)
    assert curve["pixels"].tolist() == [1, 4, 1]


def test_the_sweep_matches_masks_at_each_threshold() -> None:
    pairs = frames(6)
    sweep = calibration.sweep(histograms(pairs), "kaggle").set_index("threshold")
    for threshold in (0.25, 0.5, 0.75):
        scores = np.array([metrics.score(p >= threshold, y) for p, y in pairs])
        assert sweep.loc[threshold, ["dice", "iou"]].tolist() == pytest.approx(scores.mean(axis=0).tolist())
    assert (sweep["frames"] == 6).all()


def test_the_sweep_follows_the_rule_for_empty_masks() -> None:
    empty = np.full((20, 30), 0.3, np.float32), np.zeros((20, 30), np.uint8)
    by_rule = {
        rule: calibration.sweep(histograms([empty]), rule).set_index("threshold")
        for rule in ("kaggle", "nnunet", "monai")
    }
    assert by_rule["kaggle"]["dice"][[0.25, 0.5]].tolist() == [0, 1]
    assert by_rule["nnunet"]["frames"][[0.25, 0.5]].tolist() == [1, 0]
    assert by_rule["monai"]["dice"].isna().all()
    assert not by_rule["monai"]["frames"].any()


def test_a_threshold_is_chosen_only_if_one_is_better() -> None:
    pairs = frames(6)
    sweep = calibration.sweep(histograms(pairs), "kaggle")
    threshold, dice = calibration.best(sweep)
    assert dice == sweep["dice"].max() == sweep.set_index("threshold").loc[threshold, "dice"]
    blind = np.zeros((20, 30), np.float32)
    assert calibration.best(calibration.sweep(histograms([(blind, pairs[0][1])]), "kaggle")) == (0.5, 0)
    nothing = calibration.sweep(histograms([(blind, np.zeros_like(pairs[0][1]))]), "monai")
    assert np.isnan(calibration.best(nothing)).all()
