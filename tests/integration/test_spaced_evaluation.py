"""Evaluation and card where the pixel spacing of some frames is known: from the store to what is written."""

import json
from pathlib import Path

import pandas as pd
import pytest

from nerveseg import params
from nerveseg.stages import evaluate, register
from workspace import Workspace, entered

MM = ["nsd_mm", "hd95_mm", "centroid_error_mm", "true_area_mm2", "predicted_area_mm2"]
HEIGHT_MM, WIDTH_MM = 0.2, 0.1


def give_spacing(index: Path) -> pd.Series:
    """Gives every other frame of the store a spacing; returns which, by their names."""
    frames = pd.read_parquet(index)
    known = frames.index % 2 == 0
    for name, spacing in (("row_mm", HEIGHT_MM), ("column_mm", WIDTH_MM)):
        frames.insert(frames.columns.get_loc("mask_area"), name, pd.Series(spacing, frames.index).where(known))
    index.unlink()  # DVC may have linked it
    frames.to_parquet(index, index=False)
    return pd.Series(known, frames["image"])


def test_spacings_of_the_store_reach_tables_metrics_and_card(trained: Workspace, tmp_path: Path) -> None:
    workspace = trained.copy(tmp_path / "project")
    with entered(workspace):
        known = give_spacing(Path("data/packed/index.parquet"))
        for stage in (evaluate, register):
            stage.run(params.load())
        images, subjects = (pd.read_csv(f"reports/per_{each}.csv") for each in ("image", "subject"))
        test = json.loads(Path("reports/metrics.json").read_text())["test"]
        card = Path("reports/card.md").read_text()
    spaced = images["image"].map(known).astype(bool)
    assert 0 < spaced.sum() < len(images)
    assert images.loc[~spaced, MM].isna().all(axis=None)
    area = images.loc[spaced, "true_area"] * HEIGHT_MM * WIDTH_MM
    assert images.loc[spaced, "true_area_mm2"].tolist() == pytest.approx(area.tolist(), abs=1e-6)
    assert (images.loc[spaced, "hd95_mm"] <= HEIGHT_MM * images.loc[spaced, "hd95"] + 1e-6).all()
    assert test["with_spacing"] == subjects["with_spacing"].sum() == spaced.sum()
    assert test["true_area_mm2"] == pytest.approx(area.mean())
    said = f"pixel spacing known on {spaced.sum()} of {len(images)}"
    assert f"| HD95, mm, mean over frames, {said} | {test['hd95_mm']:.4f} |" in card
    assert f"Predicted area, mm², mean over frames, {said}" in card
