"""Charts as SVG that takes its text, its font and its colours from the page around it."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Colours that matplotlib draws with and that the page's own take the place of, so that they follow light and dark.
_INK, _LINE, _FIRST, _SECOND, _BAD, _PAPER = (f"#01020{number}" for number in range(3, 9))
_VARIABLES = {_INK: "ink", _LINE: "line", _FIRST: "first", _SECOND: "second", _BAD: "bad", _PAPER: "paper"}
_SERIES = (_FIRST, _SECOND)
_WIDTH = 4.7  # inches: text of 9 points is as large on a phone
SHOWN = 80  # subjects in a chart
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "nerveseg",  # the same chart is the same bytes
    "text.parse_math": False,  # names of subjects are no formulas
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "legend.facecolor": _PAPER,
    "legend.edgecolor": "none",
}
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

CURVES = {"loss": "Loss (cross-entropy + Dice)", "iou": "IoU", "dice": "Dice"}  # of the training, with their titles

Line = tuple[Sequence[float], Sequence[float]]


def lines(
    series: Mapping[str, Line],
    title: str,
    x: str,
    *,
    whole: bool = False,
    unit: bool = True,
    marks: Mapping[str, float] = {},
) -> Markup:
    """Up to two lines, by name each its x and y.

    Args:
        whole: x counts.
        unit: y reaches from 0 to 1.
        marks: upright lines, by name.
    """
    with rc_context(_STYLE):
        figure, axis = _axes(title, x, 2.7)
        axis.set_prop_cycle(color=_SERIES)
        for (name, place), style in zip(marks.items(), ("--", ":"), strict=False):
            axis.axvline(place, color=_INK, linewidth=1, linestyle=style, label=name)
        plot_lines(axis, series, whole=whole, unit=unit)
        return _svg(figure, title)


def plot_lines(axis: Axes, series: Mapping[str, Line], *, whole: bool, unit: bool) -> None:
    """Draws lines with a legend on an axis, in its own colours; arguments as for `lines`."""
    for name, (at, values) in series.items():
        axis.plot(at, values, label=name, marker="o" if len(at) <= 20 else "", markersize=3)
    axis.set_ylim(0, 1 if unit else None)
    if whole:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="best")


def of_training(curve: pd.DataFrame, name: str) -> dict[str, Line]:
    """A figure of the training and the validation frames over the epochs.

    Args:
        curve: the content of `models/curve.csv`.
        name: a key of CURVES.
    """
    return {side: (curve["epoch"], curve[f"{side}_{name}"]) for side in ("train", "validation")}


def reliability(curve: pd.DataFrame, title: str) -> Markup:
    """Share of nerve at each mean probability; on the diagonal, probabilities mean what they say.

    Args:
        curve: as `calibration.curve` makes it.
    """
    with rc_context(_STYLE):
        figure, axis = _axes(title, "predicted probability", 3.6)
        axis.plot([0, 1], [0, 1], color=_LINE, linestyle="--", label="perfect")
        axis.plot(curve["probability"], curve["share"], color=_FIRST, marker="o", markersize=3, label="this model")
        axis.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of nerve")
        axis.legend(loc="upper left")
        return _svg(figure, title)


def pixels(curve: pd.DataFrame, title: str) -> Markup:
    """How many pixels have each probability, on a logarithmic scale. The curve is as for `reliability`."""
    with rc_context(_STYLE):
        figure, axis = _axes(title, "predicted probability", 3.6)
        width = curve["to"] - curve["from"]
        axis.bar(curve["from"], curve["pixels"], width=width * 0.9, align="edge", color=_FIRST)
        axis.set(xlim=(0, 1), yscale="log", ylabel="pixels")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.yaxis.set_minor_formatter("")
        return _svg(figure, title)


def by_subject(table: pd.DataFrame, worst: str | None, title: str) -> Markup:
    """The Dice of each frame, one row per subject with its mean as a bar, the subjects by their mean.

    Args:
        table: with the columns subject and dice.
        worst: the subject that is marked.
    """
    table = table.dropna(subset="dice")
    means = table.groupby("subject", sort=False)["dice"].mean().sort_values(kind="stable")[:SHOWN]
    with rc_context(_STYLE):
        figure, axis = _axes(title, "Dice of a frame", 0.9 + 0.19 * len(means))
        places = {subject: place for place, subject in enumerate(means.index)}
        shown = table[table["subject"].isin(means.index)]
        axis.plot(
            shown["dice"],
            shown["subject"].map(places),
            linestyle="",
            marker="o",
            markersize=3,
            color=_FIRST,
            alpha=0.35,
            markeredgewidth=0,
        )
        axis.plot(means, range(len(means)), linestyle="", marker="|", markersize=9, markeredgewidth=2, color=_SECOND)
        axis.set_yticks(range(len(means)), [str(subject)[:16] for subject in means.index], fontsize=8)
        if worst in places:
            axis.get_yticklabels()[places[worst]].set(color=_BAD, fontweight="bold")
        axis.set(xlim=(-0.02, 1.02), ylim=(len(means) - 0.5, -0.5))
        return _svg(figure, title)


def histogram(values: np.ndarray, title: str, x: str) -> Markup:
    """How many frames have each value in [0, 1]. `values` is float64 (frames,); NaN is left out."""
    with rc_context(_STYLE):
        figure, axis = _axes(title, x, 2.7)
        counts, edges = np.histogram(values[~np.isnan(values)], bins=20, range=(0, 1))
        axis.bar(edges[:-1], counts, width=0.045, align="edge", color=_FIRST)
        axis.set(xlim=(0, 1), ylabel="frames")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, title)


def _axes(title: str, x: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x)
    axis.grid(linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an element to stand in HTML: without ids that a second chart would have too."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata=_METADATA)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[A-Za-z0-9_.]+">', "<g>", text)
    text = re.sub(r' width="[^"]+pt"| height="[^"]+pt"', "", text, count=2)
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))  # noqa: S704
