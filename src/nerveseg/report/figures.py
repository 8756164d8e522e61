"""The pictures of `reports/figures`: the training's curve, and panels of scored frames."""

from pathlib import Path

import pandas as pd

from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.params import EvaluateParams
from nerveseg.report import overlays


def draw(
    store: FrameStore,
    table: pd.DataFrame,
    contradictions: pd.DataFrame,
    curve: pd.DataFrame,
    evaluate: EvaluateParams,
    folder: Path,
) -> None:
    """Writes `curves.png`, a panel `REASON.jpg` for each reason to look at frames, and `conflicts.jpg` if any are.

    Args:
        table: of the scored frames, as `Scores` has it.
        contradictions: as `conflicts.find` makes them.
        curve: the content of `models/curve.csv`.
    """
    overlays.draw_curves(curve, folder / "curves.png")
    for name, chosen in overlays.choose(table, evaluate.overlays, evaluate.seed).items():
        if len(chosen):
            title = f"{overlays.TITLES[name]}, of {len(table)} {evaluate.split} frames"
            overlays.draw_panels([_panel(store, table.loc[row]) for row in chosen], title, folder / f"{name}.jpg")
    if len(contradictions):
        pairs = [
            (_labelled(store, pair["row"]), _labelled(store, pair["other_row"]), pair["dice"])
            for pair in contradictions.head(evaluate.overlays).to_dict("records")
        ]
        title = f"worst of {len(contradictions)} pairs of near-identical frames with contradictory masks"
        overlays.draw_conflicts(pairs, title, folder / "conflicts.jpg")


def _panel(store: FrameStore, score: pd.Series) -> overlays.Panel:
    prediction = rle.decode(score["rle_mask"], score["height"], score["width"])
    row = score["row"]
    return overlays.Panel(score["image"], store.frame(row), store.mask(row), prediction, score["dice"], score["iou"])


def _labelled(store: FrameStore, row: int) -> overlays.Labelled:
    return overlays.Labelled(store.index.loc[row, "image"], store.frame(row), store.mask(row))
