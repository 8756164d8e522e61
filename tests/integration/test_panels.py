"""Panels of a training: beside its outputs, and as images of its MLflow run."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest

from nerveseg import tracking
from prefect_api import await_
from workspace import Workspace, entered

NAMES = ["first_batch_epoch_001.jpg", *(f"validation_epoch_{epoch:03}.jpg" for epoch in range(6))]
KEYS = [("train/first_batch", 1), *(("validation/frames", epoch) for epoch in range(6))]


def images(run: Path) -> Counter[tuple[str, int]]:
    """Key and step of the images of a run, as MLflow's page reads them."""
    found = (re.match(r"(.+)\+step\+(\d+)\+", path.name) for path in run.glob("artifacts/images/*.png"))
    return Counter((match[1].replace("~", "/"), int(match[2])) for match in found if match)


def test_a_training_leaves_a_panel_of_each_epoch_and_of_its_first_batch(trained: Workspace) -> None:
    folder = trained.root / "reports" / "training"
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    shapes = {name: cv2.imread(str(folder / name)).shape for name in NAMES}
    assert len({shapes[name] for name in NAMES[1:]}) == 1, "the same frames"
    assert len({(folder / name).read_bytes() for name in NAMES}) == len(NAMES)
    (run,) = [path for path in (trained.root / "mlruns" / "nerveseg").iterdir() if (path / "artifacts/images").exists()]
    assert images(run) == Counter(KEYS)


@pytest.fixture
def store(trained: Workspace, tmp_path: Path) -> Iterator[Path]:
    """The folder of an MLflow store and of its runs' artifacts; making a store takes longer than copying one."""
    shutil.copy(trained.root / "mlflow.db", tmp_path)
    with entered(Workspace.of(tmp_path)) as patch:
        patch.setenv("NERVESEG_EXPERIMENT", "panels")
        yield tmp_path / "mlruns" / "panels"


def test_panels_that_mlflow_did_not_take_are_logged_at_the_end_and_none_twice(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "params": {"model.architecture": "Unet", "model.encoder": "resnet34"},
        "tags": {},
        "dataset": {"uri": "nerves.zip", "sha256": "0" * 64},
    }
    row = {"epoch": 1, "train_loss": 0.5, "time": 1.0}
    panels = [tmp_path / name for name in NAMES[:3]]
    for path in panels:
        cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    with tracking.TrainingRun(record, tmp_path / "run.json") as run:
        run.log_panel(panels[0])
        artifacts = store / mlflow.active_run().info.run_id / "artifacts"
        await_("the first panel", lambda: list(artifacts.glob("images/*+compressed.webp")))
        aside = (artifacts / "images").rename(artifacts / "aside")
        (artifacts / "images").touch()  # the store takes no more
        run.log_panel(panels[1])
        await_(
            "the message",
            lambda: "MLflow takes no panels; the training continues without them" in capsys.readouterr().err,
        )
        run.log_epoch(row)
        (artifacts / "images").unlink()
        aside.rename(artifacts / "images")
        run.finish([row], panels)
    assert images(artifacts.parent) == Counter(KEYS[:3])
    with tracking.TrainingRun(record, tmp_path / "run.json") as run:  # as one that was killed before it was complete
        run.log_panel(panels[2])
        run.finish([row], panels)
    assert images(artifacts.parent) == Counter(KEYS[:3])
    history = mlflow.MlflowClient().get_metric_history(artifacts.parent.name, "train/loss")
    assert [point.step for point in history] == [1]
