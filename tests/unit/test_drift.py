"""The population stability index, its bins and its limits."""

from dataclasses import replace

import numpy as np
import pytest

from nerveseg.prediction import drift
from nerveseg.prediction.drift import Figures

RNG = np.random.default_rng(70)


def figures(
    frames: int, subjects: int, grey: int = 100, area: float = 0.05, confidence: float = 0.9, atypicality: float = 0.2
) -> Figures:
    pixels = RNG.normal(grey, 20, (frames, 1000)).clip(0, 255).astype(np.uint8)
    return Figures(
        grey=drift.grey_levels(pixels),
        areas=RNG.normal(area, 0.01, frames).clip(0, 1),
        confidences=RNG.normal(confidence, 0.02, frames).clip(0, 1),
        atypicalities=RNG.normal(atypicality, 0.05, frames).clip(0, 1),
        subjects=subjects,
    )


TRAINING = drift.reference(figures(400, 40))


def by_name(batch: Figures, threshold: float = 0.25) -> dict[str, drift.Drift]:
    return {one.figure: one for one in drift.compare(TRAINING, batch, threshold)}


def test_bins_contain_equal_shares_of_the_training_set() -> None:
    for name in ("area", "confidence", "atypicality"):
        assert len(TRAINING[name]["counts"]) == len(TRAINING[name]["edges"]) + 1 == 5
        assert set(TRAINING[name]["counts"]) == {80}
    assert sum(TRAINING["intensity"]["counts"]) == pytest.approx(400)


def test_psi_matches_its_formula() -> None:
    """Two bins, shares 1/2 and 1/2 against 3/4 and 1/4: PSI = 1/4 ln(3/2) - 1/4 ln(1/2)."""
    many = 10**6
    training = {
        "frames": many,
        "subjects": many,
        "intensity": TRAINING["intensity"],
        "area": {"edges": [0.5], "counts": [many, many], "mean": 0.5},
        "confidence": {"edges": [0.5], "counts": [many, many], "mean": 0.5},
    }
    values = np.repeat([0.2, 0.8], [3 * many // 4, many // 4])
    batch = Figures(drift.grey_levels(np.zeros((1, 1), np.uint8)), values, values, values, many)
    found = drift.compare(training, batch, 0.1)
    assert [one.figure for one in found] == ["intensity", "area", "confidence"], "a reference without atypicality"
    assert found[1].psi == pytest.approx(np.log(1.5) / 4 - np.log(0.5) / 4, abs=1e-4)
    assert found[1].batch_mean == pytest.approx(0.35)
    assert found[1].drifted


def test_frames_from_the_same_distribution_do_not_drift() -> None:
    assert not any(one.drifted for one in by_name(figures(200, 20)).values())


@pytest.mark.parametrize(
    ("figure", "shift"),
    [
        ("intensity", {"grey": 160}),
        ("area", {"area": 0.15}),
        ("confidence", {"confidence": 0.6}),
        ("atypicality", {"atypicality": 0.6}),
    ],
)
def test_only_shifted_figures_drift(figure: str, shift: dict[str, float]) -> None:
    found = by_name(figures(200, 100, **shift))  # type: ignore[arg-type]
    assert {name for name, one in found.items() if one.drifted} == {figure}


def test_few_people_raise_the_limit_of_area_and_confidence() -> None:
    limits = {people: by_name(figures(50, people))["area"].limit for people in (2, 10, 1000)}
    assert limits[2] > limits[10] > limits[1000] >= 0.25
    assert by_name(figures(50, 2))["intensity"].limit == 0.25


def test_an_empty_mask_has_the_lowest_confidence() -> None:
    nothing = Figures(drift.grey_levels(np.full((4, 4), 100, np.uint8)), np.zeros(50), np.zeros(50), np.ones(50), 50)
    found = by_name(nothing)
    assert found["area"].drifted
    assert found["confidence"].drifted
    assert found["area"].batch_mean == 0
    assert found["atypicality"].batch_mean == 1


def test_an_empty_batch_has_no_drift() -> None:
    assert drift.compare(TRAINING, Figures(np.zeros(256, np.int64), *[np.zeros(0)] * 3, 0), 0.25) == []


def test_a_model_without_atypicality_has_no_row_for_it() -> None:
    silent = replace(figures(50, 10), atypicalities=np.full(50, np.nan))
    assert "atypicality" not in drift.reference(silent)
    assert "atypicality" not in by_name(silent)


@pytest.mark.parametrize(
    ("reference", "people"),
    [
        ({}, {"study", "x"}),
        ({"subject_rule": "[^_]+_(?P<subject>[^_]+)_.+"}, {"7", "8", "x"}),
        ({"subject_rule": "none"}, {"a/study_7_1.png", "a/study_7_2.png", "b/study_8_1.png", "x"}),
        ({"subject_rule": "column"}, {"a/study_7_1.png", "a/study_7_2.png", "b/study_8_1.png", "x"}),
    ],
)
def test_people_in_a_batch_are_counted_as_the_training_set_read_its_names(
    reference: dict[str, str], people: set[str]
) -> None:
    names = ["a/study_7_1.png", "a/study_7_2.png", "b/study_8_1.png", "x"]
    assert drift.people(names, reference) == people
