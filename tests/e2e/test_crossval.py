"""`nerveseg crossval`, killed once: every subject tested once, by folds that are trained once, beside the checkout.

Its networks are an ensemble, a version that is verified like others.
"""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation.scores import Scores
from nerveseg.workspace.commands import alone_in
from workspace import Workspace, wait_for

NAME = "nerve-segmentation"
COMMAND = ("nerveseg", "crossval", "--folds", "3", "--ensemble")
FILES = ("params.yaml", "dvc.lock", "models/model.safetensors", "reports/metrics.json", "data/packed/index.parquet")


def state(workspace: Workspace) -> list[bytes]:
    return [(workspace.root / file).read_bytes() for file in FILES]


@pytest.fixture(scope="module")
def crossed(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str, str]:
    """A workspace after a cross-validation that was killed in its first fold, what the next one said, and what a third
    one, with the leakage audit and a gate that no network passes. The ensemble was the champion of a single network
    meanwhile, and that one is its champion now."""
    workspace = trained.copy(tmp_path_factory.mktemp("crossval") / "project")
    workspace.set(**{"split.by": "fold", "split.validation_fold": 0, "split.test_fold": 1})
    workspace.set(**{"train.epochs": 4, "evaluate.overlays": 1, "evaluate.resamples": 200, "register.gate": "report"})
    before = state(workspace)
    log = workspace.root.parent / "killed.log"
    with log.open("w") as output:
        killed = subprocess.Popen(COMMAND, cwd=workspace.root, env=workspace.env, stdout=output, stderr=output)

    wait_for("the first checkpoint", lambda: any(workspace.root.glob("checkpoints/*/last.ckpt")), killed, seconds=600)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    first = workspace.run(*COMMAND)
    assert state(workspace) == before, "the checkout stays as it is"
    assert not workspace.git("stash", "list")
    client = mlflow.MlflowClient(workspace.store)
    client.set_registered_model_alias(NAME, "champion", "1")
    workspace.stage("register")
    client.set_registered_model_alias(NAME, "champion", "2")
    workspace.set(**{"register.gate": "enforce", "register.min_dice": 1.0})
    return workspace, first, workspace.run(*COMMAND, "--leakage")


def metrics(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.root / "crossval/metrics.json").read_text())
    return content


def test_a_killed_fold_goes_on_and_finished_ones_are_restored(crossed: tuple[Workspace, str, str]) -> None:
    workspace, *both = crossed
    ends = [re.findall(r"^fold \d of 3 by \w+: Dice.*?(trained|restored), run (\w+)", said, re.M) for said in both]
    assert [how for how, _ in ends[0]] == ["trained"] * 3
    assert [how for how, _ in ends[1]] == ["restored"] * 3 + ["trained"] * 3
    assert "epoch   1" not in both[0].partition("fold 1 of 3 by subject")[2].partition("fold 2 of 3")[0]
    client = mlflow.MlflowClient(workspace.store)
    experiment = client.get_experiment_by_name("nerveseg")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    alone = client.get_model_version(NAME, "2").run_id
    trainings = {
        run.info.run_id
        for run in runs
        if "train.epochs" in run.data.params and "split.by" not in run.data.params and "ensemble" not in run.data.tags
    } - {alone}
    assert trainings == {run for said in ends for _, run in said}, "each fold has one run, however often it was killed"


def test_every_frame_is_tested_once(crossed: tuple[Workspace, str, str]) -> None:
    workspace, *_ = crossed
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


def test_the_leakage_audit_is_paired_by_frame(crossed: tuple[Workspace, str, str]) -> None:
    workspace, _, said = crossed
    leakage = metrics(workspace)["leakage"]
    tables = [
        Scores.read(workspace.root / "crossval" / f"predictions{name}.parquet").table for name in ("", "_by_frame")
    ]
    assert tables[0]["image"].equals(tables[1]["image"])
    assert leakage["optimism"]["dice"] == pytest.approx((tables[1]["dice"] - tables[0]["dice"]).mean())
    low, high = leakage["optimism"]["dice_ci"]
    assert low <= leakage["optimism"]["dice"] <= high
    assert f"too high by {leakage['optimism']['dice']:.4f} ({low:.4f} to {high:.4f})" in said
    assert "are on two sides" in said


def test_folds_are_experiments_and_the_whole_is_a_run(crossed: tuple[Workspace, str, str]) -> None:
    workspace, _, said = crossed
    folds = pd.read_csv(workspace.root / "crossval/folds.csv")
    listed = workspace.run("dvc", "exp", "list", "--name-only")
    assert sorted(folds["experiment"]) == sorted(listed.split())
    client = mlflow.MlflowClient(workspace.store)
    run = client.get_run(re.findall(r"the MLflow run (\w{32})", said)[0])
    assert run.data.metrics["values/test/dice"] == pytest.approx(metrics(workspace)["test"]["dice"])
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


def test_the_networks_of_the_folds_are_one_version(crossed: tuple[Workspace, str, str]) -> None:
    from nerveseg.model.inference import Segmenter  # it imports torch

    workspace, first, second = crossed
    client = mlflow.MlflowClient(workspace.store)
    assert f"registered {NAME} version 1, alias challenger" in first
    assert all(criterion in first for criterion in ("dice_lower_bound", "worst_subject", "scorer"))
    assert "not registered: mean Dice" in second, "the gate of the second call enforces what none reaches"
    version = client.get_model_version(NAME, "1")
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2
    assert "1" not in client.get_registered_model(NAME).aliases.values()
    assert version.tags["Gate"].startswith("refused: mean Dice")
    folds = pd.read_csv(workspace.root / "crossval/folds.csv").head(3)
    assert version.tags["ensemble"] == "3"
    assert [version.tags[f"member_{number}"] for number in range(3)] == folds["run_id"].tolist()
    assert all(len(set(version.tags[tag].split())) == 3 for tag in ("dvc_split", "dvc_model"))
    (run,) = client.search_runs(["1"], "tags.ensemble = '3'")
    assert run.info.run_id == version.run_id, "it is logged once, however often it is called"
    assert run.data.metrics["values/test/dice"] == pytest.approx(metrics(workspace)["test"]["dice"])
    assert "out-of-fold frames of 8 subjects" in client.get_model_version(NAME, "1").description
    assert "An ensemble of 3 networks" in client.get_model_version(NAME, "1").description

    def network(run_id: str) -> Segmenter:
        (logged,) = client.search_logged_models(["1"], f"source_run_id = '{run_id}'")
        return Segmenter.load(Path(logged.artifact_location) / "artifacts")

    store = FrameStore.open(workspace.root / "data/packed")
    frames = [store.frame(row) for row in (0, len(store) // 2, len(store) - 1)]
    found = np.stack(network(run.info.run_id).probabilities(frames))
    members = [np.stack(network(run_id).probabilities(frames)) for run_id in folds["run_id"]]
    assert np.ptp(members, axis=0).max() > 0.01, "they differ"
    assert np.allclose(found, np.mean(members, axis=0), atol=1e-4)


def test_an_ensemble_and_a_champion_are_compared_on_what_neither_has_learnt(
    crossed: tuple[Workspace, str, str],
) -> None:
    workspace, *_ = crossed
    out_of_fold, single = (
        pd.read_csv(workspace.root / path).set_index("image")["dice"]
        for path in ("crossval/per_image.csv", "reports/per_image.csv")
    )
    gain = (single - out_of_fold).dropna()
    assert len(gain) == len(single) < len(out_of_fold)
    for path, champion, difference in (("reports", 1, gain.mean()), ("crossval", 2, -gain.mean())):
        receipt = json.loads((workspace.root / path / "registration.json").read_text())
        (found,) = [one for one in receipt["gate"]["criteria"] if one["name"] == "gain_over_champion"]
        assert f"for the champion, version {champion}, out of fold on {len(gain)} frames" in found["detail"]
        assert float(re.findall(r"difference (-?[\d.]+)", found["detail"])[0]) == pytest.approx(difference, abs=1e-4)
        assert found["passed"]


def test_the_page_shows_the_verdict_on_the_ensemble(crossed: tuple[Workspace, str, str]) -> None:
    workspace, *_ = crossed
    page, receipt = ((workspace.root / "crossval" / name).read_text() for name in ("index.html", "registration.json"))
    refused = json.loads(receipt)
    assert not refused["registered"]
    assert f"Not registered: {refused['reasons'][0]}" in page
    client = mlflow.MlflowClient(workspace.store)
    version = client.get_model_version(NAME, "1")
    assert refused["run_id"] == version.run_id
    (logged,) = workspace.root.glob(f"mlruns/*/{version.run_id}/artifacts/reports/index.html")
    assert logged.read_text() == page


def test_an_ensemble_comes_back_byte_for_byte(crossed: tuple[Workspace, str, str], tmp_path: Path) -> None:
    """It trains one fold again, whose weights are in no cache: that they are the same is what it is about."""
    workspace, *_ = crossed
    version = mlflow.MlflowClient(workspace.store).get_model_version(NAME, "1")
    digest = version.tags["dvc_model"].split()[1]  # of the second fold
    (workspace.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()
    before = state(workspace)
    said = workspace.run("nerveseg", "reproduce", "1", str(tmp_path / "clone"))
    assert re.findall(r"^fold (\d) of 3: (restored|trained again)", said, re.M) == [
        ("3", "restored"),
        ("2", "trained again"),
        ("1", "restored"),
    ]
    assert state(workspace) == before, "the checkout stays as it is"
    clone = Workspace.of(tmp_path / "clone", workspace.env)
    for file in ("model.safetensors", "model.json"):
        again, registered = (root / file for root in (clone.root / "crossval", Path(version.source) / "artifacts"))
        assert again.read_bytes() == registered.read_bytes()
    assert "Running stage" not in clone.run("dvc", "repro", "evaluate")
    assert clone.git("rev-parse", "HEAD").strip() == version.tags["git_commit"]


def test_an_ensemble_that_became_another_is_not_left_behind(
    crossed: tuple[Workspace, str, str], tmp_path: Path
) -> None:
    workspace, *_ = crossed
    client = mlflow.MlflowClient(workspace.store)
    tag = client.get_model_version(NAME, "1").tags["sha256_weights"]
    client.set_model_version_tag(NAME, "1", "sha256_weights", "0" * 64)
    refused = " ".join(workspace.run("nerveseg", "reproduce", "1", str(tmp_path / "clone"), ok=False).split())
    client.set_model_version_tag(NAME, "1", "sha256_weights", tag)
    assert f"model.safetensors, joined again from the 3 networks, has SHA-256 {tag}" in refused
    assert not list(tmp_path.iterdir()), "nothing half restored"


def test_an_ensemble_is_verified(crossed: tuple[Workspace, str, str]) -> None:
    workspace, *_ = crossed
    client = mlflow.MlflowClient(workspace.store)
    client.set_model_version_tag(NAME, "1", "Gate override", "Anna Berg: the gate was strict on purpose")
    verified = " ".join(workspace.run("nerveseg", "verify", "1").split())
    assert "FAILED" not in verified
    assert "for each of 3 folds" in verified
    assert "not compared" in verified, "there is no split of all folds here"
    version = client.get_model_version(NAME, "1")
    client.set_model_version_tag(NAME, "1", "dvc_split", version.tags["dvc_split"].split()[0])
    weights = Path(version.source) / "artifacts" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    tampered = " ".join(workspace.run("nerveseg", "verify", "1", ok=False).split())
    assert "hash of model.safetensors: model.safetensors has SHA-256" in tampered
    assert "lineage: the tag dvc_split is" in tampered


def test_what_cannot_be_crossed_is_refused_clearly(crossed: tuple[Workspace, str, str], tmp_path: Path) -> None:
    workspace, *_ = crossed

    def refused(*options: str) -> str:
        output = " ".join(workspace.run("nerveseg", "crossval", *options, ok=False).split())
        assert "Traceback" not in output
        return output

    assert "fold 1 of 50 by subject: Too few subjects: 8 cannot be divided into 50 folds" in refused("--folds", "50")
    with alone_in(workspace.root / ".dvc/tmp/crossval.lock", "nobody", print):
        log = tmp_path / "waiting.log"
        with log.open("w") as output:
            waiting = subprocess.Popen(COMMAND, cwd=workspace.root, env=workspace.env, stdout=output, stderr=output)
        wait_for("it waits", lambda: "another cross-validation is using this workspace" in log.read_text(), waiting)
        workspace.set(**{"evaluate.split": "validation"})
    assert waiting.wait() == 1
    assert "evaluate.split is validation, but a cross-validation scores test" in log.read_text(), "as it is by then"
    bare = Workspace.of(tmp_path, workspace.env)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((workspace.root / name).read_bytes())
    bare.set(**{"evaluate.split": "test"})
    assert "is not a git repository with a commit" in " ".join(bare.run("nerveseg", "crossval", ok=False).split())
