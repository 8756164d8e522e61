"""Former names of what is called otherwise today: files of older versions, and code that they carry, use them.

And what those files lack.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from nerveseg import metric_names

if TYPE_CHECKING:  # most of what imports this module starts without pandas
    import pandas as pd

Value = TypeVar("Value")

TODAY = {
    "mistrust": "atypicality",
    "mistrust_dice_correlation": "atypicality_dice_correlation",
    "abstaining_gain": "selective_gain",
    "abstaining_gain_ci": "selective_gain_ci",
    "packed_frames": "frames_used",
}
_GATE, _GATE_TODAY = "gate", "Gate"  # the tag with the verdict, and the first part of those of criteria
_REPORTED, _REPORTED_TODAY = "reported: ", "failed: "  # how the verdict begins


def current(name: str) -> str:
    """Today's name for a key, a column, or a dotted key such as `test.abstaining_gain`; the same for any other name."""
    return ".".join(TODAY.get(part, part) for part in name.split("."))


def gate_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The gate's verdict and criteria among a version's tags, as they are named and worded today."""
    found = {}
    for key, value in tags.items():
        first, dot, criterion = key.partition(".")
        if first == _GATE:
            told = value if dot or not value.startswith(_REPORTED) else _REPORTED_TODAY + value.removeprefix(_REPORTED)
            found[f"{_GATE_TODAY}{dot}{criterion}"] = told
        elif first == _GATE_TODAY:
            found[key] = value
    return found


def renamed(record: Mapping[str, Value]) -> dict[str, Value]:
    """The record with the current names of its keys; nested records are left alone."""
    return {current(name): value for name, value in record.items()}


def kept(curve: "pd.DataFrame") -> "pd.Series":
    """The row of a `curve.csv` whose epoch the network is from: in older files, without the column `kept`, the last."""
    return (curve[curve["kept"] == 1] if "kept" in curve else curve).iloc[-1]


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
