"""Dice and IoU of the same predictions by four rules for empty masks, compared with the libraries they come from."""

from typing import get_args

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.metrics import DiceMetric, MeanIoU, compute_dice, compute_iou

from nerveseg.evaluation import empty, metrics
from nerveseg.params import EmptyRule

RNG = np.random.default_rng(70)
TRUTH = (RNG.random((60, 1, 12, 16)) < RNG.choice([0, 0.3], (60, 1, 1, 1))).astype(np.uint8)
PREDICTION = (RNG.random((60, 1, 12, 16)) < RNG.choice([0, 0.3], (60, 1, 1, 1))).astype(np.uint8)
TRUE_AREAS = TRUTH.sum((1, 2, 3))
BASE = np.array([metrics.score(p[0], t[0]) for p, t in zip(PREDICTION, TRUTH, strict=True)])
KINDS = {(bool(t), bool(p)) for t, p in zip(TRUE_AREAS, PREDICTION.sum((1, 2, 3)), strict=True)}


def ours(rule: EmptyRule) -> np.ndarray:
    """Dice and IoU of each frame, (60, 2)."""
    return empty.apply(BASE, TRUE_AREAS[:, None], rule)


def test_the_frames_include_all_four_cases() -> None:
    assert len(KINDS) == 4


def test_monai_per_frame_and_on_average() -> None:
    tensors = [torch.from_numpy(masks).float() for masks in (PREDICTION, TRUTH)]
    theirs = np.stack([compute(*tensors).numpy()[:, 0] for compute in (compute_dice, compute_iou)], axis=1)
    np.testing.assert_allclose(ours("monai"), theirs, atol=1e-6)
    for column, metric in enumerate((DiceMetric(), MeanIoU())):
        metric(*tensors)
        assert np.nanmean(ours("monai")[:, column]) == pytest.approx(metric.aggregate().item(), abs=1e-6)


def test_smp_per_frame_and_on_average() -> None:
    stats = smp.metrics.get_stats(*(torch.from_numpy(masks).long() for masks in (PREDICTION, TRUTH)), mode="binary")
    for column, score in enumerate((smp.metrics.f1_score, smp.metrics.iou_score)):
        np.testing.assert_allclose(ours("smp")[:, column], score(*stats)[:, 0], atol=1e-6)
        mean = score(*stats, reduction="micro-imagewise").item()
        assert ours("smp")[:, column].mean() == pytest.approx(mean, abs=1e-6)


def test_nnunet_by_its_formula() -> None:
    """2 tp / (2 tp + fp + fn) and tp / (tp + fp + fn) in floating point, including 0 / 0, then nanmean."""
    prediction, truth = PREDICTION.astype(bool), TRUTH.astype(bool)
    tp, fp, fn = (found.sum((1, 2, 3)) for found in (prediction & truth, prediction & ~truth, ~prediction & truth))
    with np.errstate(invalid="ignore"):
        theirs = np.stack([2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)], axis=1)
    np.testing.assert_allclose(ours("nnunet"), theirs)


def test_kaggle_by_its_description() -> None:
    for number, (prediction, truth) in enumerate(zip(PREDICTION, TRUTH, strict=True)):
        x, y = ({tuple(pixel) for pixel in np.argwhere(mask)} for mask in (prediction, truth))
        assert ours("kaggle")[number, 0] == pytest.approx(2 * len(x & y) / (len(x) + len(y)) if x or y else 1)


def test_a_missed_nerve_scores_zero_by_every_rule() -> None:
    for rule in empty.RULES:
        assert empty.apply(np.zeros(1), np.array([50]), rule) == [0]


def test_every_rule_in_params_is_described() -> None:
    assert set(empty.RULES) == set(get_args(EmptyRule))
    assert empty.describe("nnunet").endswith("nothing predicted is left out and something predicted scores 0")
    assert empty.describe("kaggle").startswith("kaggle: ")
