"""train.sampler: how often an epoch draws each frame."""

import numpy as np
import pandas as pd
import pytest

from nerveseg.params import SamplerName
from nerveseg.training.dataset import EpochSampler
from nerveseg.training.sampling import groups

# 50 copies of a frame and a second frame of one subject; one frame each of nine others, after a row of validation.
INDEX = pd.DataFrame(
    {
        "subject": ["x"] + ["a"] * 51 + list("bcdefghij"),
        "cluster": [0] + [7] * 50 + [8] + list(range(10, 19)),
    }
)
ROWS = np.arange(1, 61)


def drawn(sampler: SamplerName, seed: int = 0, epochs: int = 20) -> list[list[int]]:
    """The rows that each epoch draws."""
    found = groups(INDEX, ROWS, sampler)
    return [
        [int(ROWS[position]) for position, _ in EpochSampler(len(ROWS), seed, True, epoch, found)]
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize("sampler", ["frames", "subjects", "clusters"])
def test_an_epoch_is_as_long_as_there_are_frames_and_a_function_of_seed_and_epoch(sampler: SamplerName) -> None:
    first, again, other = drawn(sampler, epochs=3), drawn(sampler, epochs=3), drawn(sampler, seed=1, epochs=3)
    assert first == again
    assert first != other
    assert first[0] != first[1]
    assert {len(epoch) for epoch in first} == {60}


def test_frames_draws_each_once() -> None:
    assert all(sorted(epoch) == ROWS.tolist() for epoch in drawn("frames"))


@pytest.mark.parametrize(("sampler", "column", "count"), [("subjects", "subject", 10), ("clusters", "cluster", 11)])
def test_each_group_is_drawn_as_often(sampler: SamplerName, column: str, count: int) -> None:
    """A cluster of 50 copies is drawn as often as a single frame."""
    for epoch in drawn(sampler):
        times = INDEX[column].iloc[epoch].value_counts()
        assert len(times) == count
        assert times.max() - times.min() <= 1


def test_the_frames_of_a_group_take_turns() -> None:
    times = pd.Series(np.ravel(drawn("subjects", epochs=170))).value_counts()
    among = times[INDEX.index[INDEX["subject"] == "a"]]
    assert among.mean() == pytest.approx(170 * 60 / 10 / 51, rel=0.01)
    assert among.min() > 8
    assert among.max() < 36


def test_groups_are_mixed_over_the_epoch() -> None:
    for epoch in drawn("subjects", epochs=3):
        subjects = INDEX["subject"].iloc[epoch].to_numpy()
        assert (subjects[1:] == subjects[:-1]).mean() < 0.5
