"""Pictures of predictions beside the truth, of masks that contradict each other, and of the training's curve.

Frames are speckle, which PNG hardly compresses: their pictures are JPEG, a fraction of the size, which DVC shows too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from nerveseg.evaluation import scores
from nerveseg.model import shape
from nerveseg.report import charts

TITLES = {  # by the reasons of `choose`
    "best": "Best",
    "worst": "Worst",
    "false_positives": "False positives: a nerve predicted where there is none",
    "false_negatives": "False negatives: a nerve missed entirely",
    "random": "Random",
    "atypical": "Most atypical",
}
_TRUTH, _PREDICTION = "#ffd400", "#00c8ff"
_JPEG: dict[str, Any] = {"dpi": 90, "pil_kwargs": {"quality": 85}}


@dataclass(frozen=True)
class Panel:
    """A frame, uint8 (H, W), its true and predicted mask, uint8 0/1 (H, W), its name and its scores."""

    image: str
    frame: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    dice: float
    iou: float


@dataclass(frozen=True)
class Labelled:
    """A frame, uint8 (H, W), its true mask, uint8 0/1 (H, W), and its name."""

    image: str
    frame: np.ndarray
    truth: np.ndarray


def choose(table: pd.DataFrame, count: int, seed: int) -> dict[str, pd.Index]:
    """Which rows of a table of scores are shown, `count` at most for each reason.

    Near-duplicates and frames of one subject say the same: each reason takes one frame of each subject and cluster
    first, then one of each cluster, then others.

    Args:
        table: with the columns subject, cluster, dice, atypicality, true_area and predicted_area.
        seed: of the random ones.

    Returns:
        best, worst (by Dice, of the frames with a nerve), false_positives (the largest prediction first),
        false_negatives (the largest nerve first), random, atypical (most): index of the table.
    """
    outcomes = scores.outcomes(table)
    ranked = table[table["true_area"] > 0].dropna(subset="dice").sort_values("dice", kind="stable")
    shuffled = np.random.default_rng(seed).permutation(table.index)
    orders = {
        "best": ranked[::-1],
        "worst": ranked,
        "false_positives": _by(table[outcomes["false_positives"]], "predicted_area"),
        "false_negatives": _by(table[outcomes["false_negatives"]], "true_area"),
        "random": table.loc[shuffled],
        "atypical": _by(table, "atypicality"),
    }
    return {name: _varied(frames)[:count] for name, frames in orders.items()}


def _by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.sort_values(column, ascending=False, kind="stable")


def _varied(table: pd.DataFrame) -> pd.Index:
    """The index with those first that share neither subject nor cluster with one before, then those of new clusters."""
    first: dict[Any, None] = {}
    subjects, clusters = set(), set()
    for alone in (True, False):  # in a cluster and of a subject; in a cluster
        for row, subject, cluster in table[["subject", "cluster"]].itertuples(name=None):
            if cluster not in clusters and not (alone and subject in subjects):
                first[row] = None
                subjects.add(subject)
                clusters.add(cluster)
    return pd.Index([*first, *(row for row in table.index if row not in first)])


def draw_panels(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Writes a JPEG with one row per frame: the frame, the truth, the prediction, both."""
    shape = panels[0].frame.shape
    figure = Figure(figsize=(12, 0.5 + len(panels) * (3 * shape[0] / shape[1] + 0.3)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(panels), 4, squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        truth, prediction = (panel.truth, _TRUTH), (panel.prediction, _PREDICTION)
        for axis, masks in zip(row, ([], [truth], [prediction], [truth, prediction]), strict=True):
            _draw(axis, panel.frame, masks)
        row[0].set_title(panel.image, fontsize=9, loc="left")
        row[1].set_title("truth", fontsize=9, color="#8a7300", loc="left")
        row[2].set_title("prediction", fontsize=9, color="#00708f", loc="left")
        row[3].set_title(f"Dice {panel.dice:.3f}   IoU {panel.iou:.3f}", fontsize=9, loc="left")
    figure.savefig(path, **_JPEG)


def draw_conflicts(pairs: Sequence[tuple[Labelled, Labelled, float]], title: str, path: Path) -> None:
    """Writes a JPEG with one row per pair of near-identical frames: either frame, then both with their true masks.

    Args:
        pairs: two frames of one size and the Dice of their masks.
    """
    shape = pairs[0][0].frame.shape
    figure = Figure(figsize=(12, 0.5 + len(pairs) * (3 * shape[0] / shape[1] + 0.3)), layout="constrained")
    figure.suptitle(title)
    for row, (first, second, dice) in zip(figure.subplots(len(pairs), 4, squeeze=False), pairs, strict=True):
        for axis, side, masks in zip(row, (first, second) * 2, ([], [], [first.truth], [second.truth]), strict=True):
            _draw(axis, side.frame, [(mask, _TRUTH) for mask in masks])
            axis.set_title(side.image if not masks else "truth", fontsize=9, loc="left")
        row[3].set_title(f"truth   Dice {dice:.3f}", fontsize=9, loc="left")
    figure.savefig(path, **_JPEG)


def draw_curves(curve: pd.DataFrame, path: Path) -> None:
    """Writes a PNG of loss, IoU and Dice over the epochs, training and validation."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, 3), charts.CURVES, strict=True):
        axis.set_title(charts.CURVES[name])
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        charts.plot_lines(axis, charts.of_training(curve, name), whole=True, unit=name != "loss")
    figure.savefig(path, dpi=90)


def _draw(axis: Axes, frame: np.ndarray, masks: Sequence[tuple[np.ndarray, str]]) -> None:
    axis.imshow(frame, cmap="gray", vmin=0, vmax=255)
    for mask, colour in masks:
        for polygon in shape.outlines(mask):
            axis.add_patch(Polygon(polygon, closed=True, fill=False, edgecolor=colour, linewidth=1.2))
    axis.set_axis_off()
