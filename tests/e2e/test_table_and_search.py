"""`nerveseg table` and `nerveseg search`, killed and continued: each network trained once, test subjects never scored.

They train, because what they are about is which trainings there are after a kill. The search finds those of the table.
"""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from nerveseg import params
from workspace import Workspace, wait_for

TABLE = ("nerveseg", "table", "ablation.yaml")
SEARCH = ("nerveseg", "search", "threshold.yaml")


def kill_when(happened: Callable[[str], bool], workspace: Workspace, *command: str) -> str:
    """Starts a command, kills it by SIGKILL once something has happened, given what it said, and returns that."""
    log = workspace.root.parent / "killed.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=workspace.root, env=workspace.env, stdout=output, stderr=output, text=True
        )
    wait_for("the moment to kill it", lambda: happened(log.read_text()), process, seconds=300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return log.read_text()


def folds(said: str) -> list[tuple[str, str]]:
    """Each fold that a command finished: its name, and whether it was trained or restored."""
    return re.findall(r"^(?:\[\d\] )?(.+ fold \d of 3): Dice .*?(trained|restored)", said, re.M)


@pytest.fixture(scope="module")
def tabulated(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace after a table that was killed in its first training, and what the next one said."""
    workspace = trained.copy(tmp_path_factory.mktemp("trials") / "project")
    workspace.set(**{"train.epochs": 3, "evaluate.resamples": 200})
    matrix = {"folds": 3, "seeds": [70], "configurations": {"half": {}, "low": {"model": {"threshold": 0.3}}}}
    (workspace.root / "ablation.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False))
    before = [(workspace.root / file).read_bytes() for file in ("params.yaml", "dvc.lock", "models/model.safetensors")]
    killed = kill_when(lambda _: any(workspace.root.glob(".dvc/tmp/trials/*/*/last.ckpt")), workspace, *TABLE)
    assert not folds(killed)
    assert not (workspace.root / "tables").exists(), "nothing half written"
    said = workspace.run(*TABLE)
    after = [(workspace.root / file).read_bytes() for file in ("params.yaml", "dvc.lock", "models/model.safetensors")]
    assert after == before, "the checkout stays as it is"
    return workspace, said


def test_a_killed_table_goes_on(tabulated: tuple[Workspace, str]) -> None:
    workspace, said = tabulated
    assert "epoch   1" not in said.partition("half, seed 70, fold 1 of 3: ")[0], "the training resumes"
    assert folds(said) == [
        *((f"half, seed 70, fold {fold} of 3", "trained") for fold in (1, 2, 3)),
        *((f"low, seed 70, fold {fold} of 3", "restored") for fold in (1, 2, 3)),
    ], "another threshold needs no other network"
    assert not list(workspace.root.glob(".dvc/tmp/trials/*")), "checkpoints go with the fold"


def test_a_table_scores_each_development_frame_once_and_no_test_subject(tabulated: tuple[Workspace, str]) -> None:
    workspace, said = tabulated
    index = pd.read_parquet(workspace.root / "data/packed/index.parquet")
    development = index.loc[index["split"] != "test", "image"]
    frames = pd.read_parquet(workspace.root / "tables/ablation/frames.parquet")
    for _, own in frames.groupby("configuration"):
        assert sorted(own["image"]) == sorted(development)
    assert "the test subjects of params.yaml are set aside" in " ".join(said.split())
    rows = pd.read_csv(workspace.root / "tables/ablation/table.csv").set_index("configuration")
    means = frames.groupby("configuration")["dice"].mean()
    assert rows["dice"].to_dict() == pytest.approx(means.to_dict(), abs=1e-6)
    assert rows.at["low", "dice_difference"] == pytest.approx(means["low"] - means["half"], abs=1e-6)
    trainings = pd.read_csv(workspace.root / "tables/ablation/trainings.csv")
    assert len(trainings) == trainings["run_id"].nunique() == 6
    assert (trainings["images_per_second"] > 0).all()
    assert {"table.md", "table.tex"} <= {file.name for file in (workspace.root / "tables/ablation").iterdir()}


def test_a_killed_search_goes_on_in_two_processes(tabulated: tuple[Workspace, str]) -> None:
    """params.yaml is the worse of the table's two configurations, so the search finds the other one."""
    workspace, _ = tabulated
    dice = pd.read_csv(workspace.root / "tables/ablation/table.csv").set_index("configuration")["dice"]
    assert dice["low"] != dice["half"]
    worse, better = (0.3, 0.5) if dice["half"] > dice["low"] else (0.5, 0.3)
    workspace.set(**{"model.threshold": worse})
    space = {"model.threshold": {"type": "categorical", "values": [better, worse]}}
    content = {"trials": 3, "folds": 3, "seed": 1, "pruner": "none", "space": space}
    (workspace.root / "threshold.yaml").write_text(yaml.safe_dump(content))

    killed = kill_when(lambda said: "trial 1, fold 1 of 3" in said, workspace, *SEARCH)
    said = workspace.run(*SEARCH, "--jobs", "2")
    assert {how for _, how in folds(killed) + folds(said)} == {"restored"}, "the table has trained them all"
    assert "trial 1 was interrupted: it is repeated" in said

    trials = pd.read_csv(workspace.root / "searches/threshold/trials.csv")
    assert trials["trial"].nunique() == 3
    assert set(trials["outcome"]) == {"params.yaml", "complete"}
    found = json.loads((workspace.root / "searches/threshold/selection.json").read_text())
    assert found["gain"] == pytest.approx(abs(dice["half"] - dice["low"]), abs=1e-6)
    assert "If no trial differed from params.yaml, the best of 3 would still seem" in " ".join(said.split())

    client = mlflow.MlflowClient(workspace.store)
    experiment = client.get_experiment_by_name("nerveseg")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = (run for run in runs if run.info.run_name == "search threshold")
    assert parent.data.metrics["values/gain"] == pytest.approx(found["gain"])
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["trial"] for run in nested) == sorted(trials["trial"].astype(str))
    assert str(better) in {run.data.params.get("model.threshold") for run in nested}
    assert all(f"values/{name}" in run.data.metrics for run in nested for name in ("validation/dice", "fold/dice"))


def test_another_machine_works_at_the_same_search(tabulated: tuple[Workspace, str], tmp_path: Path) -> None:
    """Another folder with its own caches stands for it; what it shares is the two databases."""
    workspace, _ = tabulated
    other = workspace.copy(tmp_path / "other", {"MLFLOW_TRACKING_URI": workspace.store})
    shutil.rmtree(other.root / "searches")
    (other.root / "search.db").unlink()
    content = yaml.safe_load((other.root / "threshold.yaml").read_text())
    (other.root / "threshold.yaml").write_text(yaml.safe_dump(content | {"trials": 4}))
    said = other.run(*SEARCH, "--storage", f"sqlite:///{workspace.root}/search.db")
    assert len(folds(said)) == 3, "one trial was left to run"
    assert "4 trials are complete" in said
    assert len(pd.read_csv(other.root / "searches/threshold/trials.csv")) == 4


def test_the_best_is_a_profile(tabulated: tuple[Workspace, str]) -> None:
    workspace, _ = tabulated
    before = params.load(workspace.root / "params.yaml").model.threshold
    workspace.run("nerveseg", "profile", "apply", "searches/threshold/best.yaml")
    assert {before, params.load(workspace.root / "params.yaml").model.threshold} == {0.3, 0.5}
    refused = " ".join(workspace.run(*SEARCH, ok=False).split())
    assert "The search threshold was begun with another params.yaml" in refused
