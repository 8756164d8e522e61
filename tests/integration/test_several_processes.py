"""The train stage on two processes, which need to be started: beside one, killed, and resumed by one."""

import re
import signal
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil

from nerveseg.params import load
from nerveseg.phantom import dataset as phantom
from workspace import Workspace, wait_for

EPOCHS = 4
# Of a few steps that are small: rounding, which differs, grows by the factor of ten a step where they are not.
TRAIN = {"epochs": EPOCHS, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.001, "precision": "fp32"}


def process(workspace: Workspace, rank: int) -> psutil.Process:
    """One of the processes that train in the workspace."""
    (found,) = (
        one
        for one in psutil.process_iter(["cwd", "environ"])
        if one.info["cwd"] == str(workspace.root) and (one.info["environ"] or {}).get("RANK") == str(rank)
    )
    return found


def epochs(output: str) -> list[int]:
    return [int(number) for number in re.findall(r"^epoch +(\d+)  loss", output, re.MULTILINE)]


def statuses(workspace: Workspace) -> list[str]:
    client = mlflow.MlflowClient(workspace.store)
    experiment = client.get_experiment_by_name("nerveseg")
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def test_two_processes_train_as_one_and_end_together(tmp_path: Path) -> None:
    """A training by two processes, of which one is killed, which then is ended by SIGTERM, and which one completes."""
    alone = Workspace(tmp_path / "alone")
    alone.set(**{f"train.{name}": value for name, value in TRAIN.items()})
    (alone.root / "data").mkdir()
    phantom.write(alone.root / "data" / "phantom.zip", load(alone.root / "params.yaml").phantom)
    alone.stage("download")
    alone.stage("split")
    together = alone.copy(tmp_path / "together")
    log, models = together.root / "train.log", together.root / "models"
    alone.stage("train")

    together.env["NERVESEG_DEVICES"] = "2"
    training = together.start("train")
    wait_for("a checkpoint", lambda: any((together.root / "checkpoints").glob("*/last.ckpt")), training)
    process(together, 1).kill()
    assert training.wait(60) == 128 + signal.SIGKILL
    assert "error: Process 1 was killed by SIGKILL" in log.read_text()
    assert not models.exists(), "nothing half written"
    assert statuses(together)[0] in ("FAILED", "KILLED")

    done = epochs(log.read_text())
    training = together.start("train")
    wait_for("the next epoch", lambda: len(epochs(log.read_text())) > len(done), training)
    training.send_signal(signal.SIGTERM)
    assert training.wait(60) == 128 + signal.SIGTERM
    assert statuses(together) == ["KILLED"]
    assert not models.exists()

    del together.env["NERVESEG_DEVICES"]
    output = log.read_text() + together.stage("train")
    assert sorted(set(epochs(output))) == list(range(1, EPOCHS + 1))
    assert epochs(output).count(1) == 1, "complete epochs are not trained again"
    assert statuses(together) == ["FINISHED"], "one run, with the curve of all processes"
    one, two = (pd.read_csv(each.root / "models" / "curve.csv") for each in (alone, together))
    for column in ("train_loss", "validation_loss", "learning_rate"):
        np.testing.assert_allclose(two[column], one[column], rtol=1e-3, err_msg=column)
    for column in ("train_dice", "validation_dice"):  # of pixels on either side of the threshold
        np.testing.assert_allclose(two[column], one[column], atol=0.01, err_msg=column)
    shown = {path.name for path in (together.root / "reports" / "training").iterdir()}
    assert shown == {path.name for path in (alone.root / "reports" / "training").iterdir()}
