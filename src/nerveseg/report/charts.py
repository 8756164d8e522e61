"""Charts in Vega-Lite: drawn as SVG into the page, and again by its script, so that they answer to the pointer.

Their colours are the page's own, so that they follow light and dark; so is their font.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import vl_convert
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nerveseg.report.browser import filter_link, frame_link

_INK, _LINE, _FIRST, _SECOND, _BAD = (f"var(--{name})" for name in ("ink", "line", "first", "second", "bad"))
_WIDTH = 340  # of a chart, in units of its SVG: text is as large on a phone
SHOWN = 80  # subjects in a chart
VEGA_LITE = "6.4"
SCRIPT = Path(__file__).with_name("vega.js")  # of the version that draws the SVG
_CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor"), _INK),
        **dict.fromkeys(("gridColor", "domainColor", "tickColor"), _LINE),
        "labelFontSize": 10,
        "labelFlush": False,
        "titleFontWeight": "normal",
    },
    "title": {"color": _INK, "anchor": "start", "fontSize": 12, "fontWeight": "normal"},
    "legend": {"labelColor": _INK, "labelFontSize": 10, "title": None, "orient": "top", "offset": 4},
    **{mark: {"color": _FIRST} for mark in ("bar", "line", "point", "circle")},
}

CURVES = {"loss": "Loss", "iou": "IoU", "dice": "Dice"}  # of the training, with their titles

Line = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        spec: in Vega-Lite.
        svg: what it looks like.
    """

    spec: Mapping[str, Any]
    svg: Markup


def lines(
    series: Mapping[str, Line],
    title: str,
    x: str,
    *,
    whole: bool = False,
    unit: bool = True,
    marks: Mapping[str, float] = {},
) -> Chart:
    """Up to two lines, by name each its x and y.

    Args:
        whole: x counts.
        unit: y reaches from 0 to 1.
        marks: upright lines, by name.
    """
    rows = [
        {"x": at, "y": value, "line": name}
        for name, points in series.items()
        for at, value in zip(*(np.asarray(each, float).tolist() for each in points), strict=True)
        if np.isfinite(value)
    ]
    counted = sorted({row["x"] for row in rows}) if whole else []
    axis: dict[str, Any] = {"values": counted[:: len(counted) // 8 + 1], "format": "d"} if whole else {}
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x, "scale": {"zero": False, "nice": False}, "axis": axis},
        "y": {"field": "y", "type": "quantitative", "title": None, "scale": {"domain": [0, 1]} if unit else {}},
        "color": {"field": "line", "type": "nominal", "sort": list(series), "scale": {"range": [_FIRST, _SECOND]}},
    }
    tooltip = [_told("line", ""), _told("x", x, "" if whole else ".3~f"), _told("y", "value", ".4f")]
    few = max((len(at) for at, _ in series.values()), default=0) <= 20
    layers: list[dict[str, Any]] = [
        {"data": {"values": rows}, "mark": {"type": "line", "strokeWidth": 1.5}, "encoding": encoding},
        {  # what the pointer finds
            "data": {"values": rows},
            "mark": {"type": "circle", "size": 26, "opacity": float(few), "aria": False},
            "encoding": encoding | {"tooltip": tooltip},
        },
    ]
    if marks:
        upright = [{"x": place, "mark": f"{name}, {place:g}"} for name, place in marks.items()]
        dash = {"field": "mark", "type": "nominal", "sort": None, "scale": {"range": [[5, 3], [1, 3]]}}
        layers.append(
            {
                "data": {"values": upright},
                "mark": {"type": "rule", "color": _INK},
                "encoding": {
                    "x": {"field": "x", "type": "quantitative"},
                    "strokeDash": dash | {"legend": {"symbolType": "stroke", "symbolStrokeColor": _INK}},
                    "tooltip": [_told("mark", "")],
                },
            }
        )
    return _chart(title, 200, {"layer": layers})


def plot_lines(axis: Axes, series: Mapping[str, Line], *, whole: bool, unit: bool) -> None:
    """Draws lines with a legend on an axis of matplotlib, for the pictures; arguments as for `lines`."""
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


def reliability(curve: pd.DataFrame, title: str) -> Chart:
    """Share of nerve at each mean probability; on the diagonal, probabilities mean what they say.

    Args:
        curve: as `calibration.curve` makes it.
    """
    ends = [{"probability": end, "share": end} for end in (0, 1)]
    encoding = {
        "x": _unit("probability", "predicted probability"),
        "y": _unit("share", "share of nerve"),
    }
    tooltip = [
        _told("probability", "probability", ".3f"),
        _told("share", "share", ".3f"),
        _told("pixels", "pixels", ","),
    ]
    rows = _rows(curve[["probability", "share", "pixels"]].dropna())
    layers = [
        {"data": {"values": ends}, "mark": {"type": "line", "color": _INK, "strokeDash": [4, 3]}, "encoding": encoding},
        {"data": {"values": rows}, "mark": {"type": "line"}, "encoding": encoding},
        {
            "data": {"values": rows},
            "mark": {"type": "circle", "size": 30, "opacity": 1, "aria": False},
            "encoding": encoding | {"tooltip": tooltip},
        },
    ]
    return _chart(title, 260, {"layer": layers})


def pixels(curve: pd.DataFrame, title: str) -> Chart:
    """How many pixels have each probability, on a logarithmic scale. The curve is as for `reliability`."""
    rows = _rows(curve.loc[curve["pixels"] > 0, ["from", "to", "pixels"]])
    encoding = {
        "x": _unit("from", "predicted probability") | {"bin": "binned"},
        "x2": {"field": "to"},
        "y": {
            "field": "pixels",
            "type": "quantitative",
            "scale": {"type": "log", "domainMin": 1},
            "axis": {"format": ",", "tickCount": 6, "labelOverlap": True},
        },
        "y2": {"datum": 1},
        "tooltip": [_told("from", "from", ".2f"), _told("to", "to", ".2f"), _told("pixels", "pixels", ",")],
    }
    return _chart(title, 260, {"data": {"values": rows}, "mark": {"type": "bar"}, "encoding": encoding})


def by_subject(table: pd.DataFrame, worst: str | None, title: str) -> Chart:
    """The Dice of each frame, one row per subject with its mean as a bar, the subjects by their mean.

    Args:
        table: with the columns image, subject and dice.
        worst: the subject that is marked.
    """
    table = table.dropna(subset="dice")
    means = table.groupby("subject", sort=False)["dice"].mean().sort_values(kind="stable")[:SHOWN]
    order = [str(subject) for subject in means.index]
    colour = {"condition": {"test": f"datum.value === {json.dumps(worst)}", "value": _BAD}, "value": _INK}
    y = {
        "field": "subject",
        "type": "nominal",
        "sort": order,
        "title": None,
        "axis": {"labelColor": colour, "labelLimit": 90, "grid": True},
    }
    encoding = {"x": _unit("dice", "Dice of a frame"), "y": y}
    layers = [
        {
            "data": {"values": _linked(table[table["subject"].isin(means.index)], ["subject", "dice"])},
            "mark": {"type": "circle", "size": 34, "opacity": 0.4, "cursor": "pointer", "aria": False},
            "encoding": encoding
            | {"tooltip": [_told("image", "frame"), _told("subject", "subject"), _told("dice", "Dice", ".3f")]},
        },
        {
            "data": {
                "values": [
                    {"subject": subject, "dice": round(mean, 4), "link": filter_link(subject=subject)}
                    for subject, mean in zip(order, means.tolist(), strict=True)
                ]
            },
            "mark": {"type": "tick", "color": _SECOND, "thickness": 3, "size": 12, "cursor": "pointer", "aria": False},
            "encoding": encoding | {"tooltip": [_told("subject", "subject"), _told("dice", "mean Dice", ".3f")]},
        },
    ]
    return _chart(title, 70 + 15 * len(order), {"layer": layers})


def scatter(table: pd.DataFrame, x: str, label: str, title: str) -> Chart:
    """The Dice of each frame against another of its figures.

    Args:
        table: with the columns image, subject, dice and what `x` says.
        label: of x.
    """
    rows = _linked(table.dropna(subset=[x, "dice"]), ["subject", x, "dice"])
    encoding = {
        "x": {"field": x, "type": "quantitative", "title": label},
        "y": _unit("dice", "Dice"),
        "tooltip": [
            _told("image", "frame"),
            _told("subject", "subject"),
            _told(x, label, ".3f"),
            _told("dice", "Dice", ".3f"),
        ],
    }
    mark = {"type": "circle", "size": 34, "opacity": 0.4, "cursor": "pointer", "aria": False}
    return _chart(title, 200, {"data": {"values": rows}, "mark": mark, "encoding": encoding})


def against(frames: pd.DataFrame, names: Sequence[str], title: str) -> Chart:
    """The Dice of each frame by two models: above the diagonal, the second is better.

    Args:
        frames: with the columns image, subject, dice_a and dice_b.
        names: of both models.
    """
    ends = [{"dice_a": end, "dice_b": end} for end in (0, 1)]
    named = list(zip(("dice_a", "dice_b"), (f"Dice, {name}" for name in names), strict=True))
    places = dict(zip(("x", "y"), (_unit(*each) for each in named), strict=True))
    tooltip = [
        *(_told("image", "frame"), _told("subject", "subject")),
        *(_told(*each, ".3f") for each in named),
    ]
    rows = _linked(frames.dropna(subset=["dice_a", "dice_b"]), ["subject", "dice_a", "dice_b"])
    mark = {"type": "circle", "size": 34, "opacity": 0.4, "cursor": "pointer", "aria": False}
    layers = [
        {"data": {"values": ends}, "mark": {"type": "line", "color": _INK, "strokeDash": [4, 3]}, "encoding": places},
        {"data": {"values": rows}, "mark": mark, "encoding": places | {"tooltip": tooltip}},
    ]
    return _chart(title, 260, {"layer": layers})


def histogram(values: np.ndarray, column: str, title: str, x: str) -> Chart:
    """How many frames have each value in [0, 1].

    Args:
        values: float64 (frames,); NaN is left out.
        column: of the values, by which a click on a bar filters the frames.
    """
    counts, edges = np.histogram(values[~np.isnan(values)], bins=20, range=(0, 1))
    ends = edges.round(2).tolist()
    rows = [
        {
            "from": low,
            "to": high,
            "frames": count,
            "link": filter_link(**{f"{column}.min": f"{low:g}", f"{column}.max": f"{high:g}"}),
        }
        for low, high, count in zip(ends[:-1], ends[1:], counts.tolist(), strict=True)
        if count
    ]
    encoding = {
        "x": _unit("from", x) | {"bin": "binned"},
        "x2": {"field": "to"},
        "y": {"field": "frames", "type": "quantitative", "axis": {"tickMinStep": 1}},
        "tooltip": [_told("from", "from", ".2f"), _told("to", "to", ".2f"), _told("frames", "frames")],
    }
    mark = {"type": "bar", "cursor": "pointer"}
    return _chart(title, 200, {"data": {"values": rows}, "mark": mark, "encoding": encoding})


def _unit(field: str, title: str) -> dict[str, Any]:
    """A position on a scale from 0 to 1."""
    return {"field": field, "type": "quantitative", "title": title, "scale": {"domain": [0, 1]}}


def _told(field: str, title: str, digits: str = "") -> dict[str, str]:
    """A line of what a mark says under the pointer; `digits` is a format of numbers."""
    return {"field": field, "title": title} | (
        {"type": "quantitative", "format": digits} if digits else {"type": "nominal"}
    )


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    rows: list[dict[Any, Any]] = table.round(4).to_dict("records")
    return rows


def _linked(table: pd.DataFrame, columns: list[str]) -> list[dict[Any, Any]]:
    """The frames of a table, each with the address that opens it."""
    return _rows(table[["image", *columns]].assign(link=table["image"].map(frame_link)))


def _chart(title: str, height: int, content: Mapping[str, Any]) -> Chart:
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": title,
        "width": _WIDTH,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": _CONFIG,
        **content,
    }
    text: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    text = text.replace(f' width="{_WIDTH}" height="{height}"', "", 1)
    return Chart(spec, Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)))  # noqa: S704
