"""A baseline that needs no model: the mean training mask."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.evaluation import baselines, metrics
from nerveseg.params import EmptyRule

SIZES = [(96, 128), (48, 64), (210, 290), (300, 100)]


def make_store(folder: Path, masks: Sequence[np.ndarray], splits: Sequence[str] | None = None) -> FrameStore:
    """A frame store with these masks, all in the split train by default."""
    with Writer(folder) as writer:
        for number, mask in enumerate(masks):
            writer.append(f"{number}_1.png", str(number), None, np.full_like(mask, number), mask)
        writer.write_index(pd.Series(splits or ["train"] * len(masks)), np.arange(len(masks)))
    return FrameStore.open(folder)


def rectangle(height: int, width: int, top: float, left: float, bottom: float, right: float) -> np.ndarray:
    """A rectangular mask with its edges given as shares of height and width."""
    mask = np.zeros((height, width), np.uint8)
    mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
    return mask


def dice(prior: np.ndarray, mask: np.ndarray) -> float:
    return metrics.score(baselines.at_size(prior, *mask.shape), mask)[0]


def best_prior(store: FrameStore, rule: EmptyRule) -> np.ndarray:
    return baselines.priors(store, rule).best


def test_identical_masks_are_their_own_prior(tmp_path: Path) -> None:
    mask = rectangle(96, 128, 0.25, 0.5, 0.75, 0.75)
    prior = best_prior(make_store(tmp_path, [mask] * 3), "kaggle")
    assert dice(prior, mask) == 1


def test_frames_of_any_size_share_one_prior(tmp_path: Path) -> None:
    masks = [rectangle(*size, 0.25, 0.5, 0.75, 0.75) for size in SIZES]
    prior = best_prior(make_store(tmp_path, masks), "kaggle")
    for mask in masks:
        resized = baselines.at_size(prior, *mask.shape)
        assert (resized.dtype, resized.shape) == (np.uint8, mask.shape)
        assert set(np.unique(resized)) == {0, 1}
        assert dice(prior, mask) > 0.95


def test_only_training_masks_count(tmp_path: Path) -> None:
    left, right = rectangle(96, 128, 0.2, 0.1, 0.8, 0.4), rectangle(96, 128, 0.2, 0.6, 0.8, 0.9)
    store = make_store(tmp_path, [left, left, right, right, right], ["train", "train", "test", "test", "validation"])
    prior = best_prior(store, "kaggle")
    assert (dice(prior, left), dice(prior, right)) == (1, 0)


def test_pixels_in_most_masks_are_kept_and_outliers_are_not(tmp_path: Path) -> None:
    common, outlier = rectangle(96, 128, 0.25, 0.25, 0.5, 0.5), rectangle(96, 128, 0.6, 0.7, 0.9, 0.9)
    prior = best_prior(make_store(tmp_path, [common] * 9 + [outlier]), "kaggle")
    assert (dice(prior, common), dice(prior, outlier)) == (1, 0)


def test_the_chosen_threshold_scores_better_in_training_than_one_half(tmp_path: Path) -> None:
    """Masks at varying positions agree by half only in the middle; a lower threshold covers more of each."""
    masks = [rectangle(96, 128, 0.3, start, 0.7, start + 0.25) for start in np.linspace(0.2, 0.55, 15)]
    priors = baselines.priors(make_store(tmp_path, masks), "kaggle")
    np.testing.assert_array_equal(priors.half, np.mean(masks, axis=0) >= 0.5)
    assert np.mean([dice(priors.best, mask) for mask in masks]) > np.mean([dice(priors.half, mask) for mask in masks])


@pytest.mark.parametrize("number", [1, 4])
def test_frames_without_masks_give_an_empty_prior(number: int, tmp_path: Path) -> None:
    empty = np.zeros((60, 80), np.uint8)
    prior = best_prior(make_store(tmp_path, [empty] * number), "kaggle")
    assert not baselines.at_size(prior, 60, 80).any()
    assert dice(prior, empty) == 1


@pytest.mark.parametrize(("rule", "empty"), [("kaggle", True), ("nnunet", False), ("monai", False), ("smp", True)])
def test_mostly_empty_frames_give_an_empty_prior_if_empty_frames_are_scored(
    rule: EmptyRule, empty: bool, tmp_path: Path
) -> None:
    mask = rectangle(96, 128, 0.25, 0.5, 0.75, 0.75)
    prior = best_prior(make_store(tmp_path, [mask] + [np.zeros_like(mask)] * 9), rule)
    assert (not prior.any()) == empty
