"""Two models side by side: the tables that the report and the page of `nerveseg compare` share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nerveseg.evaluation import figures
from nerveseg.evaluation.figures import interval, number
from nerveseg.evaluation.paired import SIDES, Pair
from nerveseg.report.page import Block, Note, Section, Table

_EXAMPLES = 20  # frames in a table


def champion(pair: Pair, version: str, receipt: Mapping[str, Any], scored: int) -> Section:
    """What the gate's champion and the candidate score on the same frames.

    Args:
        pair: the champion and the candidate.
        version: the champion's.
        receipt: the content of `registration.json`.
        scored: number of the candidate's scored frames.
    """
    (criterion,) = (each for each in receipt["gate"]["criteria"] if each["name"] == "gain_over_champion")
    note = Note(f"{criterion['detail']}.", "good" if criterion["passed"] else "bad")
    frames = f"all {scored}" if len(pair.frames) == scored else f"{len(pair.frames)} of the {scored}"
    text = (
        f"The champion, version {version}, beside this model, on {frames} scored frames. {reading(pair)} In the frames "
        "below, both are outlined."
    )
    return Section("Beside the champion", text, [note, *tables(pair)])


def reading(pair: Pair) -> str:
    """How to read the tables, in sentences."""
    intervals = figures.intervals(pair.subjects_known).partition(";")[0]
    return (
        f"Differences are {pair.names[1]} minus {pair.names[0]}, with {intervals}; both models are drawn in the same "
        "resamples, which cancels what is hard for both. An interval that includes 0 leaves open which is better. Each "
        "mean leaves out the frames on which its metric is undefined: a model that finds fewer nerves has fewer frames "
        "with an HD95, so read it beside nerve presence."
    )


def tables(pair: Pair) -> list[Block]:
    """Differences of the metrics, nerve presence, subjects, and the frames on which the masks differ most."""
    return [
        _metrics(pair),
        _presence(pair),
        *([_subjects(pair)] if pair.subjects_known else []),
        _frames(pair),
    ]


def favours(pair: Pair) -> list[str]:
    """Of each of the pair's differences, whom it speaks for: a name of the pair, or `neither`."""
    return ["neither" if each.better is None else pair.names[each.better] for each in pair.differences]


def _metrics(pair: Pair) -> Table:
    first, second = pair.names
    rows = [
        (
            each.figure.label,
            *(number(value, each.figure.digits) for value in (each.first, each.second)),
            signed(each.difference.value, each.figure.digits),
            interval(each.difference.interval, each.figure.digits) or "none: a single subject",
            favoured,
            *map(str, each.frames),
        )
        for each, favoured in zip(pair.differences, favours(pair), strict=True)
    ]
    columns = (
        *("mean over frames", first, second, "difference", "95 % interval", "in favour of"),
        *(f"frames, {name}" for name in pair.names),
    )
    return Table(columns, rows, words=frozenset({0, 5}))


def _presence(pair: Pair) -> Table:
    there = pair.frames["true_area"] > 0
    found = [pair.frames[f"predicted_area_{side}"] > 0 for side in SIDES]
    kinds = (
        ("with a nerve, one predicted", there, True),
        ("with a nerve, nothing predicted", there, False),
        ("without a nerve, one predicted", ~there, True),
        ("without a nerve, nothing predicted", ~there, False),
    )
    rows = [(name, *(str(int((of & (each == predicted)).sum())) for each in found)) for name, of, predicted in kinds]
    return Table(("frames", *pair.names), rows, caption="Nerve presence, in frames")


def _subjects(pair: Pair) -> Table:
    grouped = pair.frames.groupby("subject", sort=False)
    means = grouped[["dice_a", "dice_b", "difference"]].mean().assign(frames=grouped.size())
    rows = [
        (str(row.Index), str(row.frames), number(row.dice_a, 3), number(row.dice_b, 3), signed(row.difference, 3))
        for row in means.sort_values("difference", kind="stable").itertuples()
    ]
    caption = f"Mean Dice by subject, what speaks most against {pair.names[1]} first"
    return Table(("subject", "frames", *pair.names, "difference"), rows, caption=caption)


def _frames(pair: Pair) -> Table:
    shown = most_different(pair, _EXAMPLES)
    rows = [
        (
            row["image"],
            str(row["subject"]),
            number(row["agreement"], 3),
            *(number(row[f"dice_{side}"], 3) for side in SIDES),
            signed(row["difference"], 3),
        )
        for row in shown.to_dict("records")
    ]
    columns = ("frame", "subject", "Dice between the two", *(f"Dice, {name}" for name in pair.names), "difference")
    caption = f"The {len(rows)} of {len(pair.frames)} frames on which the two masks differ most, whatever the truth is"
    return Table(columns, rows, words=frozenset({0, 1}), caption=caption)


def most_different(pair: Pair, count: int) -> pd.DataFrame:
    """The frames on which the two masks differ most, at most `count`."""
    return pair.frames.sort_values("agreement", kind="stable").head(count)


def signed(value: float, digits: int) -> str:
    """A difference as people read it, `+0.012`."""
    return number(value, digits) if np.isnan(value) else f"{value:+.{digits}f}"
