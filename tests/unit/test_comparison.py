"""Candidate and champion compared by recorded scores, if either has learned from all frames."""

import numpy as np
import pandas as pd
import pytest

from nerveseg.evaluation import empty
from nerveseg.params import EvaluateParams, RegisterParams
from nerveseg.registry import comparison
from nerveseg.registry.gate import Criterion

REGISTER = RegisterParams(gate="enforce", min_dice=0, prior_margin=0, min_worst_subject=0, champion_margin=0.02)
EVALUATE = EvaluateParams(
    split="test", empty="kaggle", nsd_tolerance=3, nsd_tolerance_mm=1, min_frames=1, resamples=500, overlays=1, seed=70
)


def scored(dice: np.ndarray) -> pd.DataFrame:
    """Four frames of each of six subjects."""
    rows = range(len(dice))
    return pd.DataFrame(
        {"image": [f"{row}.png" for row in rows], "subject": [str(row // 4) for row in rows], "dice": dice}
    )


def compared(candidate: pd.DataFrame, champion: pd.DataFrame) -> Criterion:
    return comparison.out_of_fold(candidate, champion, "3", EVALUATE, REGISTER)


def test_only_common_frames_are_compared_in_pairs() -> None:
    dice = np.random.default_rng(0).uniform(0.2, 0.8, 24)
    champion = scored(dice).sample(frac=1, random_state=0)
    better, worse = (compared(scored(dice + gain).iloc[8:], champion) for gain in (0.1, -0.1))
    assert better.value == pytest.approx(0.1)
    assert "against" in better.detail
    assert "for the champion, version 3, out of fold on 16 frames" in better.detail
    assert (better.passed, worse.passed) == (True, False)


@pytest.mark.parametrize("dice", [np.full(4, np.nan), np.zeros(0)])
def test_without_common_frames_the_criterion_fails_and_says_so(dice: np.ndarray) -> None:
    found = compared(scored(np.ones(4)), scored(dice))
    assert (found.name, found.value, found.passed) == ("gain_over_champion", None, False)
    assert found.detail.endswith("the champion, version 3, out of fold: undefined, no frame has a Dice for both")


def test_a_recorded_table_can_be_scored_by_any_rule() -> None:
    by_kaggle, true, predicted = np.array([1.0, 0.0, 0.7, 0.0]), np.array([0, 0, 9, 9]), np.array([0, 5, 9, 0])
    table = pd.DataFrame({"true_area": true, "predicted_area": predicted})
    for written in empty.RULES:
        recorded = table.assign(dice=empty.apply(by_kaggle, true, written))
        for rule in empty.RULES:
            expected = empty.apply(by_kaggle, true, rule)
            np.testing.assert_array_equal(comparison.by_rule(recorded, rule)["dice"], expected)
