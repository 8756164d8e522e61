"""Former names of what is called otherwise today: files of older versions, and code that they carry, use them."""

from collections.abc import Mapping
from typing import TypeVar

from nerveseg import metric_names

Value = TypeVar("Value")

TODAY = {
    "mistrust": "atypicality",
    "mistrust_dice_correlation": "atypicality_dice_correlation",
    "abstaining_gain": "selective_gain",
    "abstaining_gain_ci": "selective_gain_ci",
    "packed_frames": "frames_used",
}


def current(name: str) -> str:
    """Today's name for a key, a column, or a dotted key such as `test.abstaining_gain`; the same for any other name."""
    return ".".join(TODAY.get(part, part) for part in name.split("."))


def renamed(record: Mapping[str, Value]) -> dict[str, Value]:
    """The record with the current names of its keys; nested records are left alone."""
    return {current(name): value for name, value in record.items()}


def logged(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """The metrics of an MLflow run under their current names, whichever version logged them.

    Without groups, the names were the columns of curve.csv and the keys of metrics.json. Where a run has both, as after
    `register` by a newer version, the value under the current name counts.
    """
    former = {
        metric_names.CURVES.get(name) or metric_names.of_value(current(name)): value
        for name, value in metrics.items()
        if "/" not in name
    }
    return former | {name: value for name, value in metrics.items() if "/" in name}
