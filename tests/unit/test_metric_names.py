"""The names of metrics in MLflow: curves come before single values, and runs of older versions are read by them."""

import pytest

from nerveseg import legacy
from nerveseg.evaluation import figures
from nerveseg.metric_names import CURVES, of_value

VALUES = [*(figure.key for figure in figures.FIGURES), "validation.best_threshold", "ceiling.conflicting_pairs"]


@pytest.mark.parametrize("order", [str, str.casefold], ids=["first display", "metrics added to an open page"])
def test_on_mlflows_page_curves_come_before_single_values(order: type[str]) -> None:
    """The page sorts its groups, a name up to its last slash, by code points and then by locale."""

    def groups(names: list[str]) -> list[str]:
        return [order(name.rpartition("/")[0]) for name in names]

    curves, values = groups(list(CURVES.values())), groups([of_value(key) for key in VALUES])
    assert set(curves) == {"train", "validation"}
    assert max(curves) < min(values)
    assert {"values/test", "values/baseline", "values/validation"} <= set(values)


def test_names_tell_keys_apart() -> None:
    assert len({*CURVES.values(), *map(of_value, VALUES)}) == len(CURVES) + len(set(VALUES))


def test_metrics_of_former_runs_are_read_by_their_current_names() -> None:
    (gain,) = (name for name, today in legacy.TODAY.items() if today == "selective_gain")
    former = {"validation_dice": 0.7, "learning_rate": 0.0, "test.presence.recall": 0.9, f"test.{gain}": 0.1}
    assert legacy.logged(former) == {
        "validation/dice": 0.7,
        "train/learning_rate": 0.0,
        "values/test/presence.recall": 0.9,
        "values/test/selective_gain": 0.1,
    }


def test_of_a_run_with_both_names_the_current_one_counts() -> None:
    """As after `register` by a newer version; whichever comes first."""
    today = {"values/test/dice": 0.8, "system/cpu": 5.0}
    assert legacy.logged(today | {"test.dice": 0.7}) == legacy.logged({"test.dice": 0.7} | today) == today
