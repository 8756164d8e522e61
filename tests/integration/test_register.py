"""The register stage and its gate: a small model, champions beside it, and an MLflow store."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from nerveseg import params
from nerveseg.errors import NervesegError
from nerveseg.registry import verification
from nerveseg.registry.verification import Check
from nerveseg.stages import evaluate, register
from workspace import Workspace, entered

NAME = "nerve-segmentation"
ABSOLUTE = ["dice_lower_bound", "gain_over_nothing", "gain_over_prior", "worst_subject", "scorer"]


@pytest.fixture(scope="module")
def workspace(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A trained workspace, the current folder, with an empty MLflow store of its own; version 1 is champion."""
    workspace = trained.copy(tmp_path_factory.mktemp("gate") / "project")
    with entered(workspace):
        workspace.set(**{"register.gate": "enforce", "register.champion_margin": 0.01})
        yield workspace


@pytest.fixture
def client(workspace: Workspace) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(workspace.store)


def ask(gate: str = "enforce") -> Any:
    """Runs the stage; returns its receipt."""
    Workspace.of(Path.cwd()).set(**{"register.gate": gate})
    register.run(params.load())
    return json.loads(Path("reports/registration.json").read_text())


def of_another_run() -> None:
    """Makes `models/` a model of its own, as another training's."""
    rewrite(Path("models/run.json"), run_id=os.urandom(16).hex())


def rewrite(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.unlink()  # DVC may have linked it
    path.write_text(json.dumps({**content, **changes}))


def verified(client: mlflow.MlflowClient, version: str, folder: Path) -> dict[str, Check]:
    """The checks of what is recorded of a version, by name."""
    folder.mkdir()
    return {check.name: check for check in verification.of_record(client, version, folder)}


def criteria(receipt: Any) -> dict[str, Any]:
    return {one["name"]: one for one in receipt["gate"]["criteria"]}


def test_without_a_champion_the_absolute_criteria_decide(
    workspace: Workspace, client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = ask()
    assert (receipt["registered"], receipt["version"], receipt["reasons"]) == (True, "1", [])
    assert (receipt["gate"]["mode"], receipt["gate"]["passed"]) == ("enforce", True)
    assert list(criteria(receipt)) == ABSOLUTE
    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert criteria(receipt)["dice_lower_bound"]["value"] == metrics["test"]["dice_ci"][0]
    assert criteria(receipt)["gain_over_prior"]["value"] == metrics["baseline"]["prior"]["gain_ci"][0]
    assert criteria(receipt)["scorer"]["value"] < 1e-5
    tags = client.get_model_version(NAME, "1").tags
    assert tags["gate"] == "passed"
    assert tags["gate.scorer"].endswith("<= 0.0001 passed")
    assert client.get_run(receipt["run_id"]).data.tags["gate.scorer"] == tags["gate.scorer"]
    printed = capsys.readouterr().err
    assert "No version is champion" in printed
    assert all(name in printed for name in ABSOLUTE)


def test_an_equal_model_passes_beside_the_champion(workspace: Workspace, client: mlflow.MlflowClient) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    split = client.get_model_version(NAME, "1").tags["dvc_split"]
    client.set_model_version_tag(NAME, "1", "dvc_split", "0" * 32)
    of_another_run()
    receipt = ask()
    client.set_model_version_tag(NAME, "1", "dvc_split", split)
    assert receipt["version"] == "2"
    found = criteria(receipt)["gain_over_champion"]
    assert found["passed"]
    assert found["value"] == pytest.approx(0, abs=1e-6)
    assert found["threshold"] == -0.01
    assert "may have seen these frames in training" in found["detail"]


def test_a_worse_model_is_refused_reported_or_let_in(
    workspace: Workspace, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    of_another_run()
    rewrite(Path("models/model.json"), threshold=0.99)  # hardly a pixel is as sure
    evaluate.run(params.load())
    refused = ask()
    assert (refused["registered"], refused["version"], refused["gate"]["passed"]) == (False, None, False)
    (reason,) = [one for one in refused["reasons"] if "for the champion, version 1," in one]
    assert "may have seen these frames in training" not in reason
    found = criteria(refused)["gain_over_champion"]
    assert (found["passed"], found["detail"]) == (False, reason)
    dice = json.loads(Path("reports/metrics.json").read_text())["test"]["dice"]
    assert f"mean Dice {dice:.4f} against" in reason
    assert reason in client.get_run(refused["run_id"]).data.tags["gate"]
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2

    reported = ask("report")
    assert (reported["version"], reported["reasons"], reported["gate"]["passed"]) == ("3", [], False)
    tags = client.get_model_version(NAME, "3").tags
    assert tags["gate"].startswith("reported: ")
    assert reason in tags["gate"]
    assert tags["gate.gain_over_champion"].endswith(">= -0.01 failed")
    checks = verified(client, "3", tmp_path / "reported")
    assert [check for check in checks.values() if not check.passed] == [], "what is only reported may be promoted"
    assert checks["gate"].found == tags["gate"]

    client.set_registered_model_alias(NAME, "champion", "3")
    assert list(criteria(ask("report"))) == ABSOLUTE, "a model is not compared with itself"
    client.set_registered_model_alias(NAME, "champion", "1")

    let_in = ask("off")
    assert (let_in["version"], let_in["gate"]) == ("3", {"mode": "off", "passed": None, "criteria": [], "note": ""})
    tags = client.get_model_version(NAME, "3").tags
    assert tags["gate"] == "off"
    assert not [key for key in tags if key.startswith("gate.")], "no figures of an earlier verdict"


@pytest.mark.parametrize(
    ("mode", "name"),
    [("off", "pyfunc.py"), ("report", "pyfunc.py"), ("enforce", "pyfunc.py"), ("report", "code/cv2.py")],
)
def test_changed_code_of_the_logged_model_is_refused_before_it_runs(
    workspace: Workspace, client: mlflow.MlflowClient, tmp_path: Path, mode: str, name: str
) -> None:
    before = Path("reports/registration.json").read_text()
    file = Path(str(client.get_model_version(NAME, "3").source).removeprefix("file://")) / name
    former = file.read_bytes() if file.exists() else None
    with file.open("a") as code:
        code.write(f"\nopen({str(tmp_path / 'payload')!r}, 'w')\n")
    with pytest.raises(NervesegError, match="Nothing is registered, and nothing of the logged model was run") as caught:
        ask(mode)
    assert f"{name} was {'changed' if former else 'added'}" in str(caught.value)
    assert not (tmp_path / "payload").exists()
    assert Path("reports/registration.json").read_text() == before
    file.write_bytes(former) if former else file.unlink()


def test_a_model_whose_code_no_hash_covers_is_logged_anew(workspace: Workspace, client: mlflow.MlflowClient) -> None:
    """As one that an older nerveseg logged."""
    version = client.get_model_version(NAME, "3")
    client.delete_tag(str(version.run_id), "sha256_code")
    receipt = ask("off")
    client.set_tag(str(version.run_id), "sha256_code", version.tags["sha256_code"])
    assert (receipt["version"], receipt["run_id"]) != ("3", version.run_id)
    covered = client.get_model_version(NAME, receipt["version"])
    assert covered.tags["sha256_code"] == client.get_run(receipt["run_id"]).data.tags["sha256_code"]
    assert covered.tags["sha256_code"] != version.tags["sha256_code"]
    client.delete_model_version(NAME, receipt["version"])
    client.delete_run(receipt["run_id"])
    assert ask("off")["version"] == "3"


def test_another_evaluation_reaches_a_version_by_register_alone(
    workspace: Workspace, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    former = json.loads(Path("reports/metrics.json").read_text())["test"]["nsd"]
    workspace.set(**{"evaluate.nsd_tolerance": 20.0})
    evaluate.run(params.load())
    nsd = json.loads(Path("reports/metrics.json").read_text())["test"]["nsd"]
    assert nsd > former
    assert [check for check in verified(client, "3", tmp_path / "3").values() if not check.passed] == []
    receipt = ask("off")
    assert receipt["version"] == "3"
    assert client.get_run(receipt["run_id"]).data.metrics["values/test/nsd"] == nsd


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_a_tampered_champion_is_an_error_and_nothing_is_registered(
    workspace: Workspace, client: mlflow.MlflowClient, mode: str
) -> None:
    of_another_run()
    before = Path("reports/registration.json").read_text()
    source = Path(str(client.get_model_version(NAME, "1").source).removeprefix("file://"))
    weights = source / "artifacts" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(NervesegError, match=r"The champion, version 1, cannot be loaded.*has SHA-256") as error:
        ask(mode)
    weights.write_bytes(content)
    assert "register.gate: off" in str(error.value)
    assert Path("reports/registration.json").read_text() == before
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 3


def test_a_champion_that_has_learnt_from_all_frames_is_held_by_what_is_recorded_of_it(
    workspace: Workspace, client: mlflow.MlflowClient
) -> None:
    client.set_model_version_tag(NAME, "1", "ensemble", "1")
    version = client.get_model_version(NAME, "1")
    frames = len(pd.read_csv("reports/per_image.csv"))
    found = criteria(ask("report"))["gain_over_champion"]
    assert f"for the champion, version 1, out of fold on {frames} frames" in found["detail"]

    client.set_model_version_tag(NAME, "1", "dataset_sha256", "0" * 64)
    client.set_model_version_tag(NAME, "1", "dvc_split", "0" * 32)
    elsewhere = criteria(ask("report"))["gain_over_champion"]
    assert elsewhere["value"] == pytest.approx(found["value"], abs=1e-5), "its network scores these frames anew"
    assert f"on the same {frames} frames (trained on all frames of another dataset" in elsewhere["detail"]
    client.set_model_version_tag(NAME, "1", "dataset_sha256", version.tags["dataset_sha256"])

    (table,) = workspace.root.glob(f"mlruns/*/{version.run_id}/artifacts/reports/per_image.csv")
    table.write_text(table.read_text().replace("0.", "0.9"))
    with pytest.raises(NervesegError, match=r"The champion, version 1, cannot be loaded.*per_image.csv has SHA-256"):
        ask("report")
