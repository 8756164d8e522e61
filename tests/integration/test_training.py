"""The train stage as a process: killed, resumed, ended, and with a tracking server that is down."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import metrics
from nerveseg.model.inference import Segmenter
from nerveseg.model.spec import ModelSpec
from nerveseg.params import load
from nerveseg.phantom import dataset as phantom
from nerveseg.training import trainer
from nerveseg.training.recipes import resolved
from nerveseg.training.timing import Timings
from workspace import Workspace, free_port, mlflow_server, wait_for

EPOCHS = 3
RANDOM = {  # whatever draws random numbers
    "model.architecture": "PSPNet",  # it has dropout
    "train.augmentation": "strong",
    "train.mixing": "cutmix",
    "train.sampler": "clusters",
}
# The train stage, ended by SIGKILL: before a step of an epoch, both from 0, or at the `end` of all epochs.
KILLED = """
import os, signal, sys
from nerveseg.stages import main, train
from nerveseg.training import trainer
from nerveseg.training.module import SegmentationModule

step, fit = SegmentationModule.training_step, trainer.fit
begun = []

def killed_step(self, batch, number):
    if not begun:
        begun.append(True)
        print(f"began with step {number} of epoch {self.current_epoch}", flush=True)
    if sys.argv[1:] == [str(self.current_epoch), str(number)]:
        self.trainer.strategy.checkpoint_io.teardown()  # the checkpoint of the epoch before is written
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, number)

def killed_fit(*arguments, **more):
    result = fit(*arguments, **more)
    if sys.argv[1:] == ["end"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

SegmentationModule.training_step, trainer.fit = killed_step, killed_fit
main(train.run)
"""


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


def killed(workspace: Workspace, *point: object) -> str:
    """Runs the train stage until `point` of KILLED, where it gets SIGKILL; returns what it printed."""
    (workspace.root / "flows" / "killed.py").write_text(KILLED)  # of the modules that a preloaded process runs
    output = workspace.run("python", "-m", "flows.killed", *map(str, point), ok=False)
    assert not (workspace.root / "models").exists(), "nothing half written"
    return output


def epochs(output: str) -> list[int]:
    """The epochs that a training has printed as done."""
    return [int(number) for number in re.findall(r"^epoch +(\d+)  loss", output, re.MULTILINE)]


def curve(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(workspace.root / "models" / "curve.csv")


@pytest.fixture(scope="module")
def uninterrupted(store: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after a training that was not killed."""
    workspace = store.copy(tmp_path_factory.mktemp("uninterrupted") / "project")
    workspace.set(**RANDOM)
    workspace.stage("train")
    return workspace


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_training_resumes_as_if_it_had_not_been(
    workspace: Workspace, uninterrupted: Workspace, workers: int
) -> None:
    """Each kill ends a process, and so each needs one."""
    workspace.set(**RANDOM)
    workspace.env["NERVESEG_WORKERS"] = str(workers)
    assert epochs(killed(workspace, 1, 1)) == [1]
    workspace.env["NERVESEG_CHECKPOINT_SECONDS"] = "0"
    resumed = killed(workspace, 1, 5)
    assert "began with step 0 of epoch 1" in resumed, "the first epoch is not trained again"
    assert epochs(resumed) == []
    resumed = killed(workspace, 2, 3)
    assert "began with step 5 of epoch 1" in resumed, "nor are the steps before the last checkpoint"
    assert epochs(resumed) == [2]
    resumed = killed(workspace, "end")
    assert "began with step 3 of epoch 2" in resumed
    assert epochs(resumed) == [3]
    assert epochs(workspace.stage("train")) == []

    assert weights(workspace) == weights(uninterrupted)
    found, timed = curve(workspace), ["images_per_second", "time"]
    pd.testing.assert_frame_equal(found.drop(columns=timed), curve(uninterrupted).drop(columns=timed), check_exact=True)
    assert found["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert found["learning_rate"].iloc[-1] == 0, "the schedule ends at zero"

    (run,) = runs(workspace)
    assert run.info.status == "FINISHED"
    history = mlflow.MlflowClient(workspace.store).get_metric_history(run.info.run_id, "validation/dice")
    assert [point.step for point in history] == list(range(1, EPOCHS + 1))

    timings = json.loads((workspace.root / "models" / "timings.json").read_text())
    frames = json.loads((workspace.root / "models" / "run.json").read_text())["params"]["frames.train"] // 4 * 4
    in_steps = (frames / found["images_per_second"]).sum()
    assert timings["data"] + timings["training_steps"] >= in_steps - 0.01, "all processes', rounded"
    total = timings.pop("total")
    assert total >= sum(timings.values()) - 0.01


def test_a_training_killed_before_dvc_records_it_is_restored_and_another_one_is_not(workspace: Workspace) -> None:
    """Of both there are files only after a process has trained."""
    assert epochs(workspace.stage("train")) == [1, 2, 3]
    models = workspace.root / "models"
    made = {path.name: path.read_bytes() for path in models.iterdir()}
    (first,) = runs(workspace)
    shutil.rmtree(models)  # as DVC does before it runs a stage whose outputs it has not recorded
    output = workspace.stage("train")
    assert "its outputs are restored" in output
    assert epochs(output) == []
    assert {path.name: path.read_bytes() for path in models.iterdir()} == made
    (run,) = runs(workspace)
    assert (run.info.run_id, run.info.status, run.info.end_time) == (
        first.info.run_id,
        "FINISHED",
        first.info.end_time,
    )

    workspace.run("dvc", "commit", "--force", "train")
    checkpoints = workspace.root / "checkpoints"
    before_calibrate = shutil.copytree(checkpoints, workspace.root / "before_calibrate")
    workspace.stage("calibrate")
    assert not [path for path in checkpoints.iterdir() if path.is_dir()], "nothing is kept twice"
    shutil.copytree(before_calibrate, checkpoints, dirs_exist_ok=True)
    output = workspace.stage("train")
    assert epochs(output) == [1, 2, 3], "DVC has it, so it is wanted again"
    assert "starting from scratch" not in output, "no unfinished training is lost"
    assert len(runs(workspace)) == 2


def test_the_code_that_trains_is_the_same_in_all_epochs_and_their_commits_are_recorded(workspace: Workspace) -> None:
    """Code and commit are those of a process."""
    workspace.env["PYTHONPATH"] = str(workspace.root / "src")
    commits = [workspace.git("rev-parse", "HEAD").strip()]
    killed(workspace, 1, 0)
    source = workspace.root / "src" / "nerveseg"
    with (source / "console.py").open("a") as file:
        file.write("# supporting code\n")
    workspace.commit()
    commits.append(workspace.git("rev-parse", "HEAD").strip())
    assert epochs(workspace.stage("train")) == [2, 3]
    (run,) = runs(workspace)
    assert run.data.tags["git_commits"] == f"1-1 {commits[0]}, 2-3 {commits[1]}"
    assert run.data.tags["git_changed"] == "false"

    with (source / "model" / "losses.py").open("a") as file:
        file.write("# a new loss\n")
    output = workspace.stage("train")
    assert "had other data, parameters or code" in output
    assert epochs(output) == [1, 2, 3]
    tags = json.loads((workspace.root / "models" / "run.json").read_text())["tags"]
    assert tags["git_commits"] == f"1-3 {commits[1]} with changes"


def fit(
    store: Workspace, folder: Path, stop_after: int = EPOCHS, architecture: str = "Linknet", **changes: Any
) -> tuple[list[float], torch.nn.Module]:
    """Trains in this process, with `changes` to `train`; returns the epochs it took, and the network."""
    params = load(store.root / "params.yaml")
    taken: list[float] = []

    def on_epoch(row: trainer.Row) -> None:
        if row["epoch"] > stop_after:
            raise InterruptedError
        taken.append(row["epoch"])

    network, _ = trainer.fit(
        FrameStore.open(store.root / "data" / "packed"),
        ModelSpec(**params.model.model_dump(exclude={"encoder_weights"}) | {"architecture": architecture}),
        params.model.encoder_weights,
        params.train.model_copy(update=changes),
        device="cpu",
        workers=0,
        checkpoints=folder,
        timings=Timings(),
        on_epoch=on_epoch,
    )
    return taken, network


def test_a_changed_augmentation_file_is_another_training(
    store: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = load(store.root / "params.yaml")
    frames = FrameStore.open(store.root / "data" / "packed")
    spec = ModelSpec(**params.model.model_dump(exclude={"encoder_weights", "flips"}))
    train = params.train.model_copy(update={"augmentation": "augmentation/own.json"})
    with pytest.raises(NervesegError, match=r"train\.augmentation: augmentation/own\.json cannot be read"):
        trainer.fingerprint(frames, spec, "none", train, "code")
    (tmp_path / "augmentation").mkdir()
    found = []
    for content in ("{}", "{ }", "{}"):
        (tmp_path / "augmentation" / "own.json").write_text(content)
        found.append(trainer.fingerprint(frames, spec, "none", train, "code"))
    assert found[0] == found[2] != found[1]


@pytest.fixture(scope="module")
def stopped(store: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of the first two epochs."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(InterruptedError):
        fit(store, folder, stop_after=2)
    return folder


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    """In the middle of a tensor, where the file still unpacks."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "damaged", "taken"),
    [
        (truncate, ["last.ckpt"], [2, 3]),
        (flip_a_bit, ["last.ckpt"], [2, 3]),
        (lambda content: b"", ["last.ckpt", "former.ckpt"], [1, 2, 3]),
    ],
)
def test_a_damaged_checkpoint_is_put_aside(
    store: Workspace,
    stopped: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
    damaged: list[str],
    taken: list[int],
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "training"))
    for name in damaged:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    assert fit(store, folder)[0] == taken
    output = capsys.readouterr().err
    for name in damaged:
        assert f"{folder / name} is damaged" in output
        assert (folder / f"{name}.damaged").exists()


def test_a_full_disk_keeps_the_last_checkpoint(
    store: Workspace, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "training"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".last.ckpt.1").write_text("of a killed process")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # on another file system, a move is a copy
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, limits[1]))  # less than a checkpoint
    try:
        with pytest.raises((OSError, NervesegError), match="File too large"):
            fit(store, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    taken, network = fit(store, folder)
    assert taken == [3]
    expected = fit(store, tmp_path / "uninterrupted")[1].state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("rate", "loss"), [(100, r"\S+e\+\d+"), (1e30, "nan")])
def test_a_loss_that_diverges_ends_the_training(store: Workspace, tmp_path: Path, rate: float, loss: str) -> None:
    with pytest.raises(
        NervesegError, match=rf"The loss diverged in epoch 1: {loss} on the .*Lower train.learning_rate"
    ):
        fit(store, tmp_path, architecture="Unet", optimizer="sgd", learning_rate=rate)
    assert list(tmp_path.iterdir()) == [], "nothing to resume from"


def test_a_network_that_diverged_on_the_validation_frames_alone_is_no_success(workspace: Workspace) -> None:
    """The status of the run is that of a process."""
    workspace.set(
        **{"model.architecture": "Unet", "train.optimizer": "sgd", "train.learning_rate": 1.0, "train.epochs": 1}
    )
    output = workspace.stage("train", ok=False)
    assert re.search(r"^error: The loss diverged in epoch 1: \S+ on the training frames, \S+e\+\d+ on", output, re.M)
    assert "Traceback" not in output
    assert [run.info.status for run in runs(workspace)] == ["FAILED"]
    assert not (workspace.root / "models").exists()


def test_sigterm_ends_the_run_killed_and_other_params_start_anew(workspace: Workspace) -> None:
    process = workspace.start("train")
    wait_for("the first epoch's checkpoint", lambda: checkpointed(workspace), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert [run.info.status for run in runs(workspace)] == ["KILLED"]

    workspace.set(**{"train.recipe": "nerveseg", "train.learning_rate": 0.002, "train.epochs": 1})
    output = workspace.stage("train")
    assert "epoch   1 " in output
    assert sorted(run.info.status for run in runs(workspace)) == ["FINISHED", "KILLED"]

    assert "recipe nerveseg, but learning_rate 0.002\n" in output
    assert "The network after epoch 1 of 1 is kept.\n" in output
    finished = next(run.data for run in runs(workspace) if run.info.status == "FINISHED")
    assert finished.tags["kept"] == "The network after epoch 1 of 1 is kept."
    expected = resolved(load(workspace.root / "params.yaml").train)
    assert expected["augmentation"] != load(workspace.root / "params.yaml").train.augmentation, "which is null"
    assert {name: finished.params[f"train.{name}"] for name in expected} == {
        name: str(value) for name, value in expected.items()
    }


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
        ("python", "-m", "nerveseg.stages.train"),
        cwd=workspace.root,
        env=workspace.env,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000)),
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
        history = client.get_metric_history(run.info.run_id, "train/loss")
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
