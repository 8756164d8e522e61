"""`nerveseg crossval`, killed once: every subject tested once, by folds that are trained once, beside the checkout."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from nerveseg.evaluation.scores import Scores
from workspace import Workspace, wait_for

COMMAND = ("nerveseg", "crossval", "--folds", "3", "--leakage")
FILES = ("params.yaml", "dvc.lock", "models/model.safetensors", "reports/metrics.json", "data/packed/index.parquet")


def state(workspace: Workspace) -> list[bytes]:
    return [(workspace.root / file).read_bytes() for file in FILES]


@pytest.fixture(scope="module")
def crossed(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace after a cross-validation that was killed in its second fold, and what the next one said."""
    workspace = trained.copy(tmp_path_factory.mktemp("crossval") / "project")
    workspace.set(**{"train.epochs": 3, "split.by": "fold", "split.validation_fold": 0, "split.test_fold": 1})
    before = state(workspace)
    log = workspace.root.parent / "killed.log"
    with log.open("w") as output:
        killed = subprocess.Popen(COMMAND, cwd=workspace.root, env=workspace.env, stdout=output, stderr=output)

    def is_in_second_training() -> bool:
        return "fold 2 of 3" in log.read_text() and any(workspace.root.glob("checkpoints/*/last.ckpt"))

    wait_for("the second fold's first checkpoint", is_in_second_training, killed, seconds=600)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    said = workspace.run(*COMMAND)
    assert state(workspace) == before, "the checkout stays as it is"
    assert not workspace.git("stash", "list")
    return workspace, said


def metrics(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.root / "crossval/metrics.json").read_text())
    return content


def test_a_killed_fold_goes_on_and_finished_ones_are_restored(crossed: tuple[Workspace, str]) -> None:
    workspace, said = crossed
    ends = re.findall(r"^(fold \d of 3 by \w+): Dice.*?(trained|restored), run (\w+)", said, re.MULTILINE)
    assert [how for _, how, _ in ends] == ["restored"] + ["trained"] * 5
    assert "epoch   1" not in said.partition("fold 2 of 3 by subject")[2].partition("fold 3 of 3")[0]
    client = mlflow.MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    experiment = client.get_experiment_by_name("nerveseg")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trainings = {
        run.info.run_id for run in runs if "train.epochs" in run.data.params and "split.by" not in run.data.params
    }
    assert trainings == {run for _, _, run in ends}, "each fold has one run, however often it was killed"


def test_every_frame_is_tested_once(crossed: tuple[Workspace, str]) -> None:
    workspace, _ = crossed
    index = pd.read_parquet(workspace.root / "data/packed/index.parquet")
    images = pd.read_csv(workspace.root / "crossval/per_image.csv", dtype={"subject": str})
    assert images["image"].tolist() == index["image"].tolist()
    assert (images.groupby("subject")["fold"].nunique() == 1).all()
    subjects = pd.read_csv(workspace.root / "crossval/per_subject.csv", dtype={"subject": str})
    assert sorted(subjects["subject"]) == sorted(index["subject"].unique())
    test = metrics(workspace)["test"]
    assert (test["frames"], test["subjects"]) == (len(index), index["subject"].nunique())
    assert test["dice"] == pytest.approx(images["dice"].mean(), abs=1e-6)
    assert test["dice_ci"][0] <= test["dice"] <= test["dice_ci"][1]
    folds = pd.read_csv(workspace.root / "crossval/folds.csv")
    assert folds.groupby("by")["frames"].sum().to_dict() == {"frame": len(index), "subject": len(index)}
    assert (folds["frames"] * folds["dice"])[folds["by"] == "subject"].sum() == pytest.approx(
        images["dice"].sum(), 1e-4
    )


def test_the_leakage_audit_is_paired_by_frame(crossed: tuple[Workspace, str]) -> None:
    workspace, said = crossed
    leakage = metrics(workspace)["leakage"]
    tables = [
        Scores.read(workspace.root / "crossval" / f"predictions{name}.parquet").table for name in ("", "_by_frame")
    ]
    assert tables[0]["image"].equals(tables[1]["image"])
    assert leakage["optimism"]["dice"] == pytest.approx((tables[1]["dice"] - tables[0]["dice"]).mean())
    low, high = leakage["optimism"]["dice_ci"]
    assert low <= leakage["optimism"]["dice"] <= high
    assert f"{leakage['optimism']['dice']:.4f} too much (95 % interval {low:.4f} to {high:.4f})" in said
    assert "are on two sides" in said


def test_folds_are_experiments_and_the_whole_is_a_run(crossed: tuple[Workspace, str]) -> None:
    workspace, said = crossed
    folds = pd.read_csv(workspace.root / "crossval/folds.csv")
    listed = workspace.run("dvc", "exp", "list", "--name-only")
    assert sorted(folds["experiment"]) == sorted(listed.split())
    client = mlflow.MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    run = client.get_run(re.findall(r"the MLflow run (\w{32})", said)[0])
    assert run.data.metrics["test.dice"] == pytest.approx(metrics(workspace)["test"]["dice"])
    assert run.data.tags["subject_fold_0"] == folds["run_id"][0]
    assert run.data.tags["git_commit"] == workspace.git("rev-parse", "HEAD").strip()
    stored = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "crossval")}
    assert {
        "metrics.json",
        "per_image.csv",
        "per_subject.csv",
        "predictions.parquet",
        "folds.csv",
        "index.html",
    } <= stored


def test_what_cannot_be_crossed_is_refused_clearly(crossed: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, _ = crossed

    def refused(*options: str) -> str:
        output = " ".join(workspace.run("nerveseg", "crossval", *options, ok=False).split())
        assert "Traceback" not in output
        return output

    assert "fold 1 of 50 by subject: Too few subjects: 8 cannot be divided into 50 folds" in refused("--folds", "50")
    workspace.set(**{"evaluate.split": "validation"})
    assert "evaluate.split is validation, but a cross-validation scores test frames" in refused()
    bare = Workspace.of(tmp_path, workspace.env)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((workspace.root / name).read_bytes())
    bare.set(**{"evaluate.split": "test"})
    assert "is no git repository with a commit" in " ".join(bare.run("nerveseg", "crossval", ok=False).split())
