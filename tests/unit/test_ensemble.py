"""The id of an ensemble's run."""

from nerveseg.crossval.ensemble import run_id


def test_the_same_weights_from_other_trainings_are_another_ensemble() -> None:
    weights, trainings = ["0" * 64], ["1", "2"]
    first = run_id(weights, trainings)
    assert run_id(weights, trainings) == first
    assert run_id(weights, ["1", "3"]) != first
    assert run_id(["f" * 64], trainings) != first
    assert len(first) == 32
