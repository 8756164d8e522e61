"""Two models side by side: the tables that the report and the page of `nerveseg compare` share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nerveseg.data import rle
from nerveseg.data.frame_store import SITE, FrameStore
from nerveseg.evaluation import figures
from nerveseg.evaluation.figures import interval, number
from nerveseg.evaluation.paired import SIDES, Pair
from nerveseg.evaluation.scores import outcomes
from nerveseg.report import browser, charts, page
from nerveseg.report.browser import Browser, Field, Scored, filter_link, frame_link
from nerveseg.report.page import Block, Charts, Link, Note, Page, Section, Table

_EXAMPLES = 10  # frames in a table


def champion(pair: Pair, receipt: Mapping[str, Any], scored: int) -> Section:
    """What the gate's champion and the candidate score on the same frames.

    Args:
        pair: the champion and the candidate.
        receipt: the content of `registration.json`.
        scored: number of the candidate's scored frames.
    """
    (criterion,) = (each for each in receipt["gate"]["criteria"] if each["name"] == "gain_over_champion")
    detail = str(criterion["detail"])
    note = Note(f"{detail[0].upper()}{detail[1:]}.", "good" if criterion["passed"] else "bad")
    frames = f"all {scored}" if len(pair.frames) == scored else f"{len(pair.frames)} of the {scored}"
    text = (
        f"The champion beside this model, on {frames} scored frames; the browser of the frames, below, outlines both. "
        f"{_reading(pair)}"
    )
    return Section("Beside the champion", text, [note, _metrics(pair), _charts(pair), *_tables(pair)])


def render(
    store: FrameStore, pair: Pair, models: Mapping[str, str], where: str, remarks: Sequence[str], rule: str
) -> Page:
    """The page of `nerveseg compare`.

    Args:
        store: the frames.
        models: what the models are, by their names in the pair.
        where: which frames they are compared on.
        remarks: what makes the comparison doubtful.
        rule: for empty masks, in a sentence without a full stop.
    """
    first, second = pair.names
    what = ". ".join(f"{name}: {label}" for name, label in models.items())
    lead = f"{what}. Compared on the {where}. Empty masks: {rule}."
    frames = (
        f"Truth in yellow, {first} in blue, {second} dashed in pink. Agreement is the Dice between the two masks, "
        "whatever the truth is: the frames on which they differ most come first."
    )
    notes = [Note(remark, "bad") for remark in remarks]
    sections = [
        Section("Differences", _reading(pair), [*notes, _metrics(pair), _charts(pair)]),
        Section("Frames", frames, [_browser(store, pair)]),
        Section("Presence, subjects and frames", "Links open the frames above.", _tables(pair)),
    ]
    return page.render(f"Comparison of {' and '.join(models.values())}", lead, sections)


def _reading(pair: Pair) -> str:
    """How to read the tables, in sentences."""
    intervals = figures.intervals(pair.subjects_known).partition(";")[0]
    return (
        f"Differences are {pair.names[1]} minus {pair.names[0]}, with {intervals}; both models are drawn in the same "
        "resamples, which cancels what is hard for both. An interval that includes 0 leaves open which is better. "
        "Means leave out frames on which a metric is undefined: a model that finds fewer nerves has fewer frames with "
        "an HD95, so read it beside nerve presence."
    )


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
            interval(each.difference.interval, each.figure.digits),
            favoured,
            " and ".join(map(str, dict.fromkeys(each.frames))),
        )
        for each, favoured in zip(pair.differences, favours(pair), strict=True)
    ]
    columns = ("mean over frames", first, second, "difference", "95 % interval", "in favour of", "frames")
    return Table(columns, rows, words=frozenset({0, 5}))


def _charts(pair: Pair) -> Charts:
    agreement = charts.histogram(
        pair.frames["agreement"].to_numpy(), "agreement", "Agreement", "Dice between the two masks"
    )
    return Charts([charts.against(pair.frames, pair.names, "Dice of each frame"), agreement])


def _tables(pair: Pair) -> list[Block]:
    """Nerve presence, subjects, and the frames on which the masks differ most."""
    return [_presence(pair), *([_subjects(pair)] if pair.subjects_known else []), _frames(pair)]


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
    rows: list[tuple[str | Link, ...]] = [
        (
            Link(str(row.Index), filter_link(subject=str(row.Index))),
            str(row.frames),
            number(row.dice_a, 3),
            number(row.dice_b, 3),
            signed(row.difference, 3),
        )
        for row in means.sort_values("difference", kind="stable").itertuples()
    ]
    caption = f"Mean Dice by subject, first those on whom {pair.names[1]} is worst beside {pair.names[0]}"
    return Table(("subject", "frames", *pair.names, "difference"), rows, caption=caption)


def _frames(pair: Pair) -> Table:
    shown = most_different(pair, _EXAMPLES)
    rows: list[tuple[str | Link, ...]] = [
        (
            Link(str(row["image"]), frame_link(str(row["image"]))),
            str(row["subject"]),
            number(row["agreement"], 3),
            number(row["dice_a"], 3),
            number(row["dice_b"], 3),
            signed(row["difference"], 3),
        )
        for row in shown.to_dict("records")
    ]
    columns = ("frame", "subject", "agreement", *(f"Dice, {name}" for name in pair.names), "difference")
    caption = f"The {len(rows)} of {len(pair.frames)} frames with the lowest agreement, the Dice between the two masks"
    return Table(columns, rows, words=frozenset({0, 1}), caption=caption)


def most_different(pair: Pair, count: int) -> pd.DataFrame:
    """The frames on which the two masks differ most, at most `count`."""
    return pair.frames.sort_values("agreement", kind="stable").head(count)


def signed(value: float, digits: int) -> str:
    """A difference as people read it, `+0.012`."""
    return number(value, digits) if np.isnan(value) else f"{value:+.{digits}f}"


def _browser(store: FrameStore, pair: Pair) -> Browser:
    first, second = pair.names
    fields = [
        Field("agreement", "Agreement", 3),
        *(Field(f"dice_{side}", f"Dice of {name}", 3) for side, name in zip(SIDES, pair.names, strict=True)),
        Field("difference", f"Dice of {second} minus that of {first}", 3),
        Field("subject", "Subject"),
        *([Field(SITE, "Site")] if SITE in pair.frames else []),
        *(Field(f"outcome_{side}", f"Outcome of {name}") for side, name in zip(SIDES, pair.names, strict=True)),
    ]
    return browser.build(_scored(store, pair), fields)


def _scored(store: FrameStore, pair: Pair) -> Iterator[Scored]:
    frames = pair.frames.assign(**{f"outcome_{side}": _outcomes(pair.frames, side) for side in SIDES})
    for row in frames.to_dict("records"):
        frame = store.frame(row["row"])
        masks = {
            name: rle.decode(row[f"rle_mask_{side}"], *frame.shape)
            for side, name in zip(SIDES, pair.names, strict=True)
        }
        yield Scored(str(row["image"]), frame, store.mask(row["row"]), masks, row)


def _outcomes(frames: pd.DataFrame, side: str) -> pd.Series:
    """Nerve presence on each frame: `true positive`, ..."""
    found = outcomes(frames.rename(columns={f"predicted_area_{side}": "predicted_area"}))
    return pd.DataFrame(found).idxmax(axis=1).str.removesuffix("s").str.replace("_", " ")
