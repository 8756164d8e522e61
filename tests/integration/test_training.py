"""The train stage as a process: killed, resumed, ended, and with a tracking server that is down."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import metrics
from nerveseg.model.inference import Segmenter
from nerveseg.model.spec import ModelSpec
from nerveseg.params import load
from nerveseg.phantom import dataset as phantom
from nerveseg.training import trainer
from nerveseg.training.timing import Timings
from workspace import Workspace, free_port, mlflow_server, wait_for

EPOCHS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after its split stage."""
    workspace = Workspace(tmp_path_factory.mktemp("store") / "project")
    workspace.set(**{"train.epochs": EPOCHS})
    (workspace.root / "data").mkdir()
    phantom.write(workspace.root / "data" / "phantom.zip", load(workspace.root / "params.yaml").phantom)
    workspace.stage("download")
    workspace.stage("split")
    return workspace


@pytest.fixture
def workspace(store: Workspace, tmp_path: Path) -> Workspace:
    """A fresh workspace with the frame store and source of `store`."""
    copy = Workspace(tmp_path / "project")
    copy.set(**{"train.epochs": EPOCHS})
    shutil.copytree(store.root / "data", copy.root / "data")
    return copy


def weights(workspace: Workspace) -> str:
    return hashlib.sha256((workspace.root / "models" / "model.safetensors").read_bytes()).hexdigest()


def runs(workspace: Workspace, uri: str | None = None) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(uri or workspace.store)
    experiment = client.get_experiment_by_name("nerveseg")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def checkpointed(workspace: Workspace) -> bool:
    return any((workspace.root / "checkpoints").glob("*/last.ckpt"))


def test_a_killed_training_resumes_as_if_it_had_not_been(workspace: Workspace, store: Workspace) -> None:
    process = workspace.start("train")
    wait_for("the first epoch's checkpoint", lambda: checkpointed(workspace), process)
    process.kill()
    process.wait()
    assert not (workspace.root / "models").exists(), "nothing half written"
    output = workspace.stage("train")
    assert "epoch   1 " not in output, "the first epoch is not trained again"
    assert f"epoch   {EPOCHS} " in output

    store.stage("train")  # the same training, never interrupted
    assert weights(workspace) == weights(store)
    curve = pd.read_csv(workspace.root / "models" / "curve.csv")
    assert curve["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert curve["learning_rate"].iloc[-1] == 0, "the schedule ends at zero"

    (run,) = runs(workspace)
    assert run.info.status == "FINISHED"
    client = mlflow.MlflowClient(workspace.store)
    history = client.get_metric_history(run.info.run_id, "validation_dice")
    assert [point.step for point in history] == list(range(1, EPOCHS + 1))
    assert not (workspace.root / "checkpoints").exists() or not checkpointed(workspace)


def test_sigterm_ends_the_run_killed_and_other_params_start_anew(workspace: Workspace) -> None:
    process = workspace.start("train")
    wait_for("the first epoch's checkpoint", lambda: checkpointed(workspace), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert [run.info.status for run in runs(workspace)] == ["KILLED"]

    workspace.set(**{"train.learning_rate": 0.002, "train.epochs": 1})
    assert "epoch   1 " in workspace.stage("train")
    assert sorted(run.info.status for run in runs(workspace)) == ["FINISHED", "KILLED"]


def test_a_sigterm_that_only_lightning_notices_is_no_success(store: Workspace, tmp_path: Path) -> None:
    """As when what a signal handler raises is lost in a destructor."""
    params = load(store.root / "params.yaml")
    with pytest.raises(SystemExit) as ended:
        trainer.fit(
            FrameStore.open(store.root / "data" / "packed"),
            ModelSpec(**params.model.model_dump(exclude={"encoder_weights"})),
            params.model.encoder_weights,
            params.train,
            device="cpu",
            workers=0,
            checkpoints=tmp_path,
            timings=Timings(),
            on_epoch=lambda row: os.kill(os.getpid(), signal.SIGTERM),
        )
    assert ended.value.code == 128 + signal.SIGTERM


def test_an_exception_ends_the_run_failed(workspace: Workspace) -> None:
    """The disk takes no file as large as a checkpoint."""
    process = subprocess.run(
        (sys.executable, "-m", "nerveseg.stages.train"),
        cwd=workspace.root,
        env=workspace.env,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000)),
    )
    assert process.returncode == 1
    assert re.search(r"error: .*/last\.ckpt cannot be written \(File too large\): make room", process.stderr)
    assert "Traceback" not in process.stderr
    assert [run.info.status for run in runs(workspace)] == ["FAILED"]
    assert not (workspace.root / "models").exists()


def test_a_server_that_is_down_loses_nothing(workspace: Workspace, tmp_path: Path) -> None:
    port = free_port()
    workspace.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    workspace.env["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    failed = workspace.stage("train", ok=False)
    assert f"epoch   {EPOCHS} " in failed, "the training goes on without the server"
    assert "The training is complete and kept" in failed
    assert not (workspace.root / "models").exists()

    with mlflow_server(tmp_path / "server", port) as uri:
        again = workspace.stage("train")
        assert "epoch   " not in again, "nothing is trained again"
        (run,) = runs(workspace, uri)
        assert run.info.status == "FINISHED"
        client = mlflow.MlflowClient(uri)
        history = client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in history] == list(range(1, EPOCHS + 1))
        record = json.loads((workspace.root / "models" / "run.json").read_text())
        assert record["run_id"] == run.info.run_id
        workspace.stage("calibrate")
        calibrated = json.loads((workspace.root / "models" / "calibration.json").read_text())
        assert calibrated["run_id"] == run.info.run_id
        assert client.get_logged_model(calibrated["model_id"]).status == "READY"
        assert client.get_run(run.info.run_id).info.end_time == run.info.end_time, "the training took no longer"


def test_the_threshold_is_the_best_one_on_the_validation_frames(workspace: Workspace) -> None:
    workspace.set(**{"train.epochs": 1, "model.encoder": "resnet18"})
    workspace.set(**{"model.threshold": "validation", "model.flips": True})
    workspace.stage("train")
    output = workspace.stage("calibrate")
    segmenter = Segmenter.load(workspace.root / "models")
    store = FrameStore.open(workspace.root / "data" / "packed")
    rows = store.rows("validation").tolist()
    probabilities = segmenter.probabilities([store.frame(row) for row in rows])
    dice = {
        threshold: np.mean(
            [
                metrics.score(probability >= threshold, store.mask(row))[0]
                for row, probability in zip(rows, probabilities, strict=True)
            ]
        )
        for threshold in np.arange(1, 20) / 20
    }
    chosen = segmenter.spec.threshold
    assert dice[chosen] == pytest.approx(max(dice.values()), abs=1e-6)
    assert dice[chosen] > dice[0.5], "an epoch is not enough to make 0.5 the best one"
    assert f"threshold {chosen:g}, chosen on the validation frames: their mean Dice is {dice[chosen]:.4f}" in output
    assert [run.data.tags["threshold"] for run in runs(workspace)] == [f"{chosen:g}"]


def test_too_few_frames_for_a_batch(workspace: Workspace) -> None:
    workspace.set(**{"train.batch_size": 512})
    assert "lower train.batch_size" in workspace.stage("train", ok=False)
