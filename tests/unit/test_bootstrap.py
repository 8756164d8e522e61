"""Intervals: their coverage; subjects are resampled, not frames; differences are paired."""

import numpy as np
import pytest

from nerveseg.evaluation.bootstrap import SubjectBootstrap

RESAMPLES = 2000


def frames(seed: int, subjects: int, each: int, between: float, within: float) -> tuple[np.ndarray, np.ndarray]:
    """Subjects scattered around 0.7, with frames scattered around each: values and subjects of all frames."""
    random = np.random.default_rng(seed)
    values = 0.7 + random.normal(0, between, (subjects, 1)) + random.normal(0, within, (subjects, each))
    return values.ravel(), np.repeat([f"s{number}" for number in range(subjects)], each)


def test_the_value_is_the_mean_over_frames_and_lies_in_its_interval() -> None:
    values, subjects = frames(1, 20, 10, 0.1, 0.1)
    found = SubjectBootstrap(subjects, RESAMPLES, 70).mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.low < found.value < found.high


def test_most_intervals_contain_the_truth() -> None:
    held = []
    for seed in range(400):
        values, subjects = frames(seed, 35, 4, 0.1, 0.05)
        found = SubjectBootstrap(subjects, 500, seed).mean(values)
        held.append(found.low <= 0.7 <= found.high)
    assert 0.90 <= np.mean(held) <= 0.97


def test_frames_of_a_subject_are_not_treated_as_independent() -> None:
    values, subjects = frames(2, 30, 40, 0.1, 0.02)
    by_subject = SubjectBootstrap(subjects, RESAMPLES, 70).mean(values)
    by_frame = SubjectBootstrap(np.arange(len(values)).astype(str), RESAMPLES, 70).mean(values)
    assert by_subject.high - by_subject.low > 4 * (by_frame.high - by_frame.low)


def test_the_width_matches_normal_theory_where_it_applies() -> None:
    values, subjects = frames(3, 500, 1, 0.1, 0)
    found = SubjectBootstrap(subjects, 20_000, 70).mean(values)
    error = values.std() / np.sqrt(500)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=4e-4
    )


def test_intervals_depend_on_the_seed_but_not_on_the_order_of_frames_within_subjects() -> None:
    values, subjects = frames(4, 12, 6, 0.1, 0.1)
    drawn = SubjectBootstrap(subjects, RESAMPLES, 70).mean(values)
    assert SubjectBootstrap(subjects, RESAMPLES, 70).mean(values) == drawn
    assert SubjectBootstrap(subjects, RESAMPLES, 71).mean(values) != drawn
    turned = values.reshape(12, 6)[:, ::-1].ravel()
    assert SubjectBootstrap(subjects, RESAMPLES, 70).mean(turned).low == pytest.approx(drawn.low)


def test_subjects_have_equal_weight_in_the_mean_of_subjects() -> None:
    values, subjects = np.array([0.9] * 9 + [0.1]), ["a"] * 9 + ["b"]
    bootstrap = SubjectBootstrap(subjects, RESAMPLES, 70)
    assert bootstrap.mean(values).value == pytest.approx(0.82)
    found = bootstrap.mean_of_subjects(values)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.1, 0.9))


def test_frames_left_out_have_no_effect() -> None:
    values, subjects = frames(5, 15, 4, 0.1, 0.1)
    with_gaps = np.concatenate([values, np.full(30, np.nan)])
    bootstrap = SubjectBootstrap([*subjects, *subjects[:30]], RESAMPLES, 70)
    full = SubjectBootstrap(subjects, RESAMPLES, 70)
    assert bootstrap.mean(with_gaps) == full.mean(values)
    assert bootstrap.mean_of_subjects(with_gaps) == full.mean_of_subjects(values)


def test_a_difference_is_paired() -> None:
    """Both vary between subjects, but their difference does not."""
    values, subjects = frames(6, 20, 10, 0.2, 0.01)
    bootstrap = SubjectBootstrap(subjects, RESAMPLES, 70)
    found = bootstrap.difference(values + 0.02, values)
    assert (found.value, found.low, found.high) == pytest.approx((0.02,) * 3)
    assert bootstrap.mean(values).high - bootstrap.mean(values).low > 0.1


def test_a_difference_of_means_over_different_frames_is_that_of_the_means() -> None:
    values, subjects = frames(7, 20, 10, 0.1, 0.1)
    half = np.where(np.arange(len(values)) % 2, values, np.nan)
    found = SubjectBootstrap(subjects, RESAMPLES, 70).difference(half, values)
    assert found.value == pytest.approx(np.nanmean(half) - values.mean())


def test_a_ratio_is_computed_from_sums() -> None:
    bootstrap = SubjectBootstrap(["a", "b"], RESAMPLES, 70)
    found = bootstrap.ratio(np.array([1.0, 0.0]), np.array([10.0, 30.0]))
    assert (found.value, found.low, found.high) == pytest.approx((1 / 40, 0, 1 / 10))


def test_one_subject_has_no_interval_and_no_frames_have_no_mean() -> None:
    one = SubjectBootstrap(["a"] * 5, RESAMPLES, 70).mean(np.arange(5.0))
    assert one.value == 2
    assert np.isnan([one.low, one.high]).all()
    none = SubjectBootstrap(["a", "b"], RESAMPLES, 70).mean(np.full(2, np.nan))
    assert np.isnan([none.value, none.low, none.high]).all()
