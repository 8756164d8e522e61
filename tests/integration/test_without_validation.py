"""split.validation: 0: the whole pipeline without validation frames."""

import json
import re

import mlflow
import pandas as pd
import pytest

from workspace import Workspace


@pytest.fixture(scope="module")
def workspace(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = trained.copy(tmp_path_factory.mktemp("without") / "project")
    workspace.set(**{"split.validation": 0, "train.epochs": 2, "register.gate": "enforce"})
    (workspace.root / "said").write_text(workspace.run("dvc", "repro"))
    return workspace


def test_the_pipeline_runs_and_says_that_the_curve_is_that_of_the_training_frames(workspace: Workspace) -> None:
    """It trains, because no other workspace has such a split."""
    root, said = workspace.root, (workspace.root / "said").read_text()
    assert "without validation frames, so that the curve covers training frames only" in said
    assert len(re.findall(r"epoch +\d  loss .* no validation frames ", said)) == 2
    curve = pd.read_csv(root / "models" / "curve.csv")
    assert curve.filter(like="validation_").shape == (2, 3), "DVC's plots need the columns"
    assert curve.filter(like="validation_").isna().all(axis=None)
    assert curve.filter(like="train_").notna().all(axis=None)
    assert [path.name for path in (root / "reports" / "training").iterdir()] == ["first_batch_epoch_001.jpg"]

    metrics = json.loads((root / "reports" / "metrics.json").read_text())
    assert metrics["validation"] == {"best_threshold": None, "dice_at_best_threshold": None}
    assert pd.read_csv(root / "reports" / "curves" / "thresholds.csv")["frames"].eq(0).all()
    assert json.loads((root / "reports" / "registration.json").read_text())["registered"]
    run_id = json.loads((root / "models" / "run.json").read_text())["run_id"]
    logged = mlflow.MlflowClient(workspace.store).get_run(run_id).data.metrics
    assert "train/dice" in logged
    assert not [name for name in logged if name.startswith("validation/")]


def test_its_report_and_plots_show_the_training_frames_alone(workspace: Workspace) -> None:
    page = " ".join((workspace.root / "reports" / "index.html").read_text().split())
    assert "2 epochs on " in page
    assert "frames, without validation frames; the network after epoch 2 is kept." in page
    assert "so they cannot show whether the network overfits" in page
    assert "There are no validation frames with a Dice by the rule kaggle" in page
    assert "The model uses 0.5." in page
    workspace.run("dvc", "plots", "show")
