"""The train stage on two processes, which need to be started: beside one, killed, and resumed by one."""

import re
import signal
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from nerveseg.params import load
from nerveseg.phantom import dataset as phantom
from workspace import Workspace, free_port, wait_for

EPOCHS = 4
# Of a few steps that are small: rounding, which differs, grows by the factor of ten a step where they are not.
TRAIN = {"epochs": EPOCHS, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.001, "precision": "fp32"}
# A step on a batch whose halves differ: only one has a nerve, and its frames are brighter.
STEP = """
import os
from pathlib import Path

import torch
from torch import distributed

from nerveseg.model.network import build
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import load
from nerveseg.training.devices import joined
from nerveseg.training.module import SegmentationModule
from nerveseg.training.recipes import resolve

with joined("cpu") as world:
    torch.manual_seed(0)
    frames, masks = torch.randn(4, 1, 64, 64).double(), (torch.rand(4, 1, 64, 64) > 0.9).double()
    frames[2:] += 1
    masks[:2] = 0
    network = build(NetworkSpec(architecture="Unet", encoder=os.environ["ENCODER"], height=64, width=64), "none")
    network = world.with_synchronised_statistics(network, "cpu").double().train()
    train = load(Path("params.yaml")).train
    module = SegmentationModule(network, resolve(train), train.seed, world)
    part = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    loss = module.training_step((frames[part], masks[part]), 0)
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in network.parameters()])
    if world.size > 1:  # as Lightning does
        distributed.all_reduce(gradient)
    statistics = {name: value for name, value in network.state_dict().items() if "running" in name}
    torch.save([loss.detach() / world.size, gradient / world.size, statistics], f"{world.size}-{world.rank}.pt")
"""


@pytest.mark.parametrize("encoder", ["tu-test_resnet", "tu-test_efficientnet"])  # the latter has timm's BatchNormAct2d
def test_loss_gradient_and_batch_statistics_are_those_of_one_process(tmp_path: Path, encoder: str) -> None:
    """Two processes exchange them."""
    workspace = Workspace(tmp_path / "project", {"ENCODER": encoder})
    (workspace.root / "flows" / "step.py").write_text(STEP)  # of the modules that a preloaded process runs
    command = ("python", "-m", "flows.step")
    workspace.run(*command)
    others = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [
        subprocess.Popen(
            command, cwd=workspace.root, env=workspace.env | others | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [one.wait(120) for one in both] == [0, 0]
    expected = torch.load(workspace.root / "1-0.pt")
    for rank in range(2):
        torch.testing.assert_close(torch.load(workspace.root / f"2-{rank}.pt"), expected, rtol=1e-6, atol=1e-9)


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
    # On a busy machine, process 0 may not come to the end of its run within the time that it has.
    assert statuses(together)[0] in ("KILLED", "RUNNING")

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
        np.testing.assert_allclose(two[column], one[column], rtol=5e-4, err_msg=column)
    for column in ("train_dice", "validation_dice"):  # of pixels on either side of the threshold
        np.testing.assert_allclose(two[column], one[column], atol=0.01, err_msg=column)
    shown = {path.name for path in (together.root / "reports" / "training").iterdir()}
    assert shown == {path.name for path in (alone.root / "reports" / "training").iterdir()}
