"""The gate before the registry."""

from typing import Any

import pytest

from nerveseg.params import RegisterParams
from nerveseg.registry.gate import reasons_against

FLOOR = "below register.min_dice 0.6000"
EMPTY = "does not beat predicting nothing"
PRIOR = "does not beat the mean training mask"


def reasons(dice: float, empty: float = 0.1, prior: float = 0.4) -> list[str]:
    metrics: dict[str, Any] = {
        "test": {"dice": dice, "iou": 0.5},
        "baseline": {"empty": {"dice": empty}, "prior": {"dice": prior}},
    }
    return reasons_against(metrics, RegisterParams(min_dice=0.6))


@pytest.mark.parametrize("dice", [0.6, 0.61, 1.0])
def test_a_model_at_the_floor_and_above_the_baselines_passes(dice: float) -> None:
    assert reasons(dice) == []


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"dice": 0.5999}, [FLOOR]),
        ({"dice": 0.7, "empty": 0.75}, [EMPTY]),
        ({"dice": 0.7, "prior": 0.75}, [PRIOR]),
        ({"dice": 0.7, "empty": 0.7}, [EMPTY]),  # as good as a baseline is not better
        ({"dice": 0.7, "prior": 0.7}, [PRIOR]),
        ({"dice": 0.7, "empty": 0.8, "prior": 0.8}, [EMPTY, PRIOR]),
        ({"dice": 0.3, "empty": 0.588, "prior": 0.43}, [FLOOR, EMPTY, PRIOR]),
        ({"dice": 0.0, "empty": 0.0, "prior": 0.0}, [FLOOR, EMPTY, PRIOR]),
    ],
)
def test_every_reason_against_is_told_with_its_figures(scores: dict[str, float], expected: list[str]) -> None:
    found = reasons(**scores)
    assert len(found) == len(expected)
    for reason, words in zip(found, expected, strict=True):
        assert words in reason
        assert f"mean Dice {scores['dice']:.4f}" in reason
    for words, key in ((EMPTY, "empty"), (PRIOR, "prior")):
        if words in expected:
            assert any(f"{words} ({scores[key]:.4f})" in reason for reason in found)
