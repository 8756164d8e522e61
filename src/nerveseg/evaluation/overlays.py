"""Pictures of predictions beside the truth, and of the training's curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_TRUTH, _PREDICTION = "#ffd400", "#00c8ff"


@dataclass(frozen=True)
class Panel:
    """A frame, uint8 (H, W), its true and predicted mask, uint8 0/1 (H, W), its name and its scores."""

    image: str
    frame: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    dice: float
    iou: float


def draw_panels(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Writes a PNG with a row a frame: the frame, the truth, the prediction, both."""
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
    figure.savefig(path, dpi=90)


def draw_curves(curve: pd.DataFrame, path: Path) -> None:
    """Writes a PNG of loss, IoU and Dice over the epochs, training and validation."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, 3), ("loss", "iou", "dice"), strict=True):
        for side in ("train", "validation"):
            axis.plot(curve["epoch"], curve[f"{side}_{name}"], marker="o", markersize=3, label=side)
        axis.set_xlabel("epoch")
        axis.set_title({"loss": "loss (BCE + Dice)", "iou": "IoU", "dice": "Dice"}[name])
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0, **({} if name == "loss" else {"top": 1}))
        axis.legend()
    figure.savefig(path, dpi=90)


def _draw(axis: Axes, frame: np.ndarray, masks: Sequence[tuple[np.ndarray, str]]) -> None:
    axis.imshow(frame, cmap="gray", vmin=0, vmax=255)
    for mask, colour in masks:
        if mask.any():
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    axis.set_axis_off()
