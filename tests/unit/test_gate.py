"""The gate: each criterion passing, failing and undefined, and the verdict in its three modes."""

import math
from typing import Any

import pytest

from nerveseg import legacy
from nerveseg.evaluation.bootstrap import Estimate
from nerveseg.evaluation.results import Metrics
from nerveseg.params import RegisterParams
from nerveseg.registry.gate import (
    OVERRIDE,
    SCORER_TOLERANCE,
    Criterion,
    Verdict,
    absolute,
    outdated,
    over_champion,
    same_probabilities,
)

REGISTER = RegisterParams(gate="enforce", min_dice=0.6, prior_margin=0.1, min_worst_subject=0.5, champion_margin=0.02)


def figures(**changes: Any) -> Metrics:
    """Metrics of a model that passes; `changes` by the names below."""
    values: dict[str, Any] = {
        "dice_ci": [0.7, 0.9],
        "empty_ci": [0.7, 0.9],
        "prior_ci": [0.15, 0.4],
        "worst": 0.55,
        "worst_name": "7",
        **changes,
    }
    content = {
        "test": {
            "split": "test",
            "frames": 16,
            "subjects": 2,
            "dice": 0.8,
            "dice_ci": values["dice_ci"],
            "worst_subject": values["worst"],
            "worst_subject_name": values["worst_name"],
        },
        "baseline": {
            "empty": {"dice": 0.0, "gain": 0.8, "gain_ci": values["empty_ci"]},
            "prior": {"dice": 0.5, "gain": 0.3, "gain_ci": values["prior_ci"]},
        },
        "validation": {"best_threshold": 0.5, "dice_at_best_threshold": 0.8},
        "empty_rule": "kaggle",
    }
    return Metrics.model_validate(content)


def criterion(name: str, **changes: Any) -> Criterion:
    (found,) = [one for one in absolute(figures(**changes), REGISTER) if one.name == name]
    return found


def test_a_good_model_meets_every_criterion() -> None:
    assert all(one.passed for one in absolute(figures(), REGISTER))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("dice_lower_bound", {"dice_ci": [0.599, 0.9]}, "lower bound 0.599 is below register.min_dice 0.6"),
        ("dice_lower_bound", {"dice_ci": None}, "mean Dice 0.8000: undefined, a single subject"),
        ("gain_over_nothing", {"empty_ci": [0.0, 0.9]}, "is not above 0"),  # equal to predicting nothing is not better
        ("gain_over_nothing", {"empty_ci": None}, "undefined"),
        ("gain_over_prior", {"prior_ci": [0.09, 0.4]}, "0.5000 for the mean training mask, gain 0.3000"),
        ("gain_over_prior", {"prior_ci": [-0.1, 0.4]}, "lower bound -0.1 is below register.prior_margin 0.1"),
        ("gain_over_prior", {"prior_ci": None}, "undefined"),
        ("worst_subject", {"worst": 0.49}, "worst subject 7: mean Dice 0.49 is below register.min_worst_subject 0.5"),
        ("worst_subject", {"worst": None, "worst_name": None}, "undefined, no subject has evaluate.min_frames"),
    ],
)
def test_a_value_that_is_too_low_or_undefined_fails_with_its_numbers(
    name: str, changes: dict[str, Any], words: str
) -> None:
    found = criterion(name, **changes)
    assert not found.passed
    assert (found.value is None) == ("undefined" in words)
    assert words in found.detail
    others = [one for one in absolute(figures(**changes), REGISTER) if one.name != name]
    assert all(one.passed for one in others)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dice_lower_bound", {"dice_ci": [0.6, 0.9]}),
        ("gain_over_prior", {"prior_ci": [0.1, 0.4]}),
        ("worst_subject", {"worst": 0.5}),
    ],
)
def test_a_value_equal_to_its_minimum_passes(name: str, changes: dict[str, Any]) -> None:
    assert criterion(name, **changes).passed


@pytest.mark.parametrize(
    ("low", "passed", "words"),
    [
        (0.01, True, "0.8000 against 0.8100 for the champion, version 3 (a remark), difference -0.0100 (0.0100 to"),
        (-0.02, True, "lower bound -0.02 reaches -0.02 (register.champion_margin)"),
        (-0.021, False, "lower bound -0.021 is below -0.02"),
        (math.nan, False, "undefined, a single subject"),
    ],
)
def test_the_champion_may_be_better_by_at_most_the_margin(low: float, passed: bool, words: str) -> None:
    found = over_champion(
        0.8, 0.81, Estimate(-0.01, low, low + 0.02), REGISTER, "the champion, version 3", " (a remark)"
    )
    assert found.passed is passed
    assert words in found.detail


def test_the_logged_scorer_may_differ_only_by_rounding() -> None:
    assert same_probabilities(SCORER_TOLERANCE, 4).passed
    assert not same_probabilities(2 * SCORER_TOLERANCE, 4).passed
    broken = same_probabilities(None, 4, "ImportError: gone")
    assert (broken.passed, broken.value) == (False, None)
    assert broken.detail.endswith("ImportError: gone")


def test_the_verdict_in_each_mode() -> None:
    good, bad = criterion("worst_subject"), criterion("dice_lower_bound", dice_ci=None)
    enforced = Verdict("enforce", (good, bad))
    assert (enforced.passed, enforced.reasons) == (False, [bad.detail])
    assert enforced.tags == {
        "Gate": f"refused: {bad.detail}",
        "Gate.worst_subject": "0.55 >= 0.5 passed",
        "Gate.dice_lower_bound": "undefined >= 0.6 failed",
    }
    reported = Verdict("report", (good, bad))
    assert (reported.passed, reported.reasons, reported.tags["Gate"]) == (False, [], f"failed: {bad.detail}")
    for mode in ("report", "enforce"):
        passed = Verdict(mode, (good,))  # type: ignore[arg-type]
        assert (passed.passed, passed.reasons, passed.tags["Gate"]) == (True, [], "passed")
    off = Verdict("off")
    assert (off.passed, off.reasons, off.tags) == (None, [], {"Gate": "off"})


def test_unknown_subjects_have_no_worst_one() -> None:
    unknown = figures(worst=None, worst_name=None)
    unknown = unknown.model_copy(update={"test": unknown.test.model_copy(update={"subjects_known": False})})
    failed = [one for one in absolute(unknown, REGISTER) if not one.passed]
    assert [one.name for one in failed] == ["worst_subject"]
    assert failed[0].detail.endswith("undefined, the subjects are unknown (data.subject)")


def test_a_verdict_of_older_names_is_the_same_and_another_one_ends_an_override() -> None:
    good, bad = criterion("worst_subject"), criterion("dice_lower_bound", dice_ci=None)
    tags = Verdict("report", (good, bad)).tags
    former = {
        "gate": f"reported: {bad.detail}",
        **{f"gate.{one.name}": one.line for one in (good, bad)},
        "dvc_data": "0" * 32,
    }
    assert legacy.gate_tags(former) == legacy.gate_tags(tags) == tags
    override = {OVERRIDE: "Anna Berg: a trial"}
    assert set(outdated(former | override, tags)) == set(former) - {"dvc_data"}
    assert outdated(tags | override, tags) == []
    assert outdated(tags | override, Verdict("report", (bad,)).tags) == ["Gate.worst_subject", OVERRIDE]
    assert outdated(tags, Verdict("off").tags) == ["Gate.worst_subject", "Gate.dice_lower_bound"]


def test_frames_that_were_set_aside_are_in_the_tags_the_record_and_the_reasons_but_never_refuse_a_model() -> None:
    good, bad = criterion("worst_subject"), criterion("worst_subject", worst=0.1)
    refused = Verdict("enforce", (bad,), "A note.", "1 of 30")
    assert refused.reasons == [bad.detail, "frames set aside: 1 of 30"]
    assert refused.tags["Gate.frames_set_aside"] == "1 of 30"
    assert Verdict.of(refused.record) == refused
    passed = Verdict("enforce", (good,), set_aside="1 of 30")
    assert (passed.passed, passed.reasons, passed.line) == (True, [], "passed")
    assert outdated(passed.tags, Verdict("enforce", (good,)).tags) == ["Gate.frames_set_aside"], "of a mended dataset"
    assert "set_aside" not in Verdict("enforce", (good,)).record
    with pytest.raises(ValueError, match="contradicts itself"):
        Verdict.of({**passed.record, "set_aside": ""})
