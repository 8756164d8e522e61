"""The register stage and its gate: a small model, champions beside it, and an MLflow store."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from nerveseg import params
from nerveseg.compare.run import compare
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import paired
from nerveseg.evaluation.scores import Scores
from nerveseg.files import sha256, sums_text
from nerveseg.registry import delivery, verification
from nerveseg.registry.bundle import Pointer
from nerveseg.registry.verification import Check
from nerveseg.report import sections
from nerveseg.stages import evaluate, register
from workspace import Workspace, entered

NAME = "nerve-segmentation"
PREDICTIONS = "reports/predictions.parquet"
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


def artifact(workspace: Workspace, client: mlflow.MlflowClient, version: str, name: str) -> Path:
    """A file of a version's run in the artifact store."""
    run_id = client.get_model_version(NAME, version).run_id
    (path,) = workspace.root.glob(f"mlruns/*/{run_id}/artifacts/{name}")
    return path


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
    assert tags["Gate"] == "passed"
    assert tags["Gate.scorer"].endswith("<= 0.0001 passed")
    assert client.get_run(receipt["run_id"]).data.tags["Gate.scorer"] == tags["Gate.scorer"]
    assert sorted(key for key in tags if not key.startswith("mlflow."))[0] == "Gate", "MLflow's page sorts like this"
    said = client.get_model_version(NAME, "1").description
    experiment = client.get_run(receipt["run_id"]).info.experiment_id
    page = f"#/experiments/{experiment}/runs/{receipt['run_id']}/artifacts/reports/index.html"
    assert said.splitlines()[0] == f"**Gate passed.** [Report]({page}?workflowType=machine_learning)"
    printed = capsys.readouterr().err
    assert "No version is champion" in printed
    assert all(name in printed for name in ABSOLUTE)


def test_frames_that_were_set_aside_are_said_by_all_that_describes_the_model(
    workspace: Workspace, client: mlflow.MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings, former = Path("data/packed/findings.json"), Path("data/packed/findings.json").read_bytes()
    aside = [{"image": "1_1.png", "reasons": ["unreadable: it is damaged"]}]
    rewrite(findings, frames=80, frames_set_aside=1, set_aside=aside)
    receipt = ask()
    said = "Frames set aside because of errors: 1 of 80 (data.quarantine)."
    assert (receipt["gate"]["passed"], receipt["gate"]["set_aside"]) == (True, "1 of 80")
    assert receipt["gate"]["note"].startswith(said)
    assert said in " ".join(capsys.readouterr().err.split())
    version = client.get_model_version(NAME, receipt["version"])
    assert version.tags["Gate.frames_set_aside"] == "1 of 80"
    assert said in version.description
    assert "Frames set aside because of errors in the dataset: 1 of 80." in Path("reports/card.md").read_text()
    assert verified(client, receipt["version"], tmp_path / "verified")["gate"].passed
    findings.write_bytes(former)
    ask()
    assert "Gate.frames_set_aside" not in client.get_model_version(NAME, receipt["version"]).tags


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
    assert reason in client.get_run(refused["run_id"]).data.tags["Gate"]
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2

    reported = ask("report")
    champion = pd.read_parquet("reports/champion.parquet")
    masks = pd.read_parquet(artifact(workspace, client, "1", PREDICTIONS))
    assert champion["rle_mask"].tolist() == masks["rle_mask"].tolist()
    assert f"against {champion['dice'].mean():.4f} for the champion" in reason
    assert (reported["version"], reported["reasons"], reported["gate"]["passed"]) == ("3", [], False)
    tags = client.get_model_version(NAME, "3").tags
    assert tags["Gate"].startswith("failed: ")
    assert reason in tags["Gate"]
    assert tags["Gate.gain_over_champion"].endswith(">= -0.01 failed")
    failed = ", ".join(one["name"] for one in reported["gate"]["criteria"] if not one["passed"])
    said = client.get_model_version(NAME, "3").description
    assert said.startswith(f"**Gate failed: {failed}.** [Report](#/experiments/")
    champion = json.loads(client_artifact(client, "1", "reports/metrics.json"))["test"]
    assert "| | this version | champion, version 1 |" in said
    assert f"| Dice, mean over frames | {dice:.3f} (" in said
    assert f"| {champion['dice']:.3f} ({champion['dice_ci'][0]:.3f} to {champion['dice_ci'][1]:.3f}) |" in said
    assert f"Compared by the gate: {reason}." in said

    assert_delivered_only_if_overridden(client, "3", tmp_path)
    client.set_registered_model_alias(NAME, "champion", "3")
    assert list(criteria(ask("report"))) == ABSOLUTE, "a model is not compared with itself"
    client.set_registered_model_alias(NAME, "champion", "1")

    let_in = ask("off")
    assert pd.read_parquet("reports/champion.parquet").empty, "no champion is loaded"
    assert "Gate override" not in client.get_model_version(NAME, "3").tags, "it was of another verdict"
    assert (let_in["version"], let_in["gate"]) == ("3", {"mode": "off", "passed": None, "criteria": [], "note": ""})
    tags = client.get_model_version(NAME, "3").tags
    assert tags["Gate"] == "off"
    assert not [key for key in tags if key.startswith("Gate.")], "no figures of an earlier verdict"
    assert client.get_model_version(NAME, "3").description.startswith("**Gate off: no criterion was checked.**")


def client_artifact(client: mlflow.MlflowClient, version: str, name: str) -> str:
    run = client.get_run(str(client.get_model_version(NAME, version).run_id))
    return (Path(str(run.info.artifact_uri).removeprefix("file://")) / name).read_text()


def assert_delivered_only_if_overridden(client: mlflow.MlflowClient, version: str, folder: Path) -> None:
    def failed(number: int, **more: bool) -> dict[str, str]:
        (part := folder / f"{version}-{number}").mkdir()
        checks = verification.of_record(client, version, part, **more)
        return {check.name: check.found for check in checks if not check.passed}

    (reason,) = failed(1).items()
    assert reason[0] == "gate override"
    assert "the gate says failed: " in reason[1]
    assert "its tag `Gate override` must say who decides that, and why, as `NAME: REASON`" in reason[1]
    assert failed(2, is_delivered=True) == {}, "one that was delivered by an older nerveseg stays so"
    for number, wrong in enumerate(("", " : ", "Anna Berg", "Anna Berg:", ": she knows why"), 3):
        client.set_model_version_tag(NAME, version, "Gate override", wrong)
        assert failed(number)["gate override"].endswith(f"as `NAME: REASON`, but is {wrong!r} now")
    client.delete_model_version_tag(NAME, version, "Gate override")
    client.set_model_version_tag(NAME, version, "gate_override", "Anna Berg: a trial")
    assert failed(8)["gate override"].endswith("; there is a tag `gate_override`, which is another name")
    client.delete_model_version_tag(NAME, version, "gate_override")
    client.set_model_version_tag(NAME, version, "Gate override", " Anna Berg:a trial: one day ")
    assert failed(9) == {}
    checks = verified(client, version, folder / "overridden")
    assert checks["gate override"].found == "Anna Berg: a trial: one day"

    pointer = Pointer(version, "run", version, "0" * 64, None, 1, "2026-01-01T00:00:00+00:00", [])
    said = client.get_model_version(NAME, version).description
    found = [{"name": check.name, "found": check.found} for check in checks.values()]
    delivery.finish(client, replace(pointer, checks=found))
    delivery.finish(client, replace(pointer, checks=found))
    remark = "\n\n**Delivery despite the gate** by Anna Berg: a trial: one day"
    assert client.get_model_version(NAME, version).description == said + remark


def test_the_report_shows_the_candidate_beside_the_champion(workspace: Workspace) -> None:
    """It needs a trained workspace and a champion: the frame browser has the masks of both."""
    receipt, scoring = ask("report"), params.load().evaluate
    store, scores = FrameStore.open(Path("data/packed")), Scores.read(Path(PREDICTIONS))
    html = sections.render(receipt, scoring, store, scores, Path("models"), Path("reports")).html
    _, section = html.split("<h2>Beside the champion</h2>")
    assert criteria(receipt)["gain_over_champion"]["detail"][1:] in unescape(section)
    browser = browser_data(html)
    assert browser["labels"] == ["prediction", "champion"]
    assert all(len(frame["outlines"]) == 3 for frame in browser["frames"])
    paired.write(paired.read(Path("reports/champion.parquet")).iloc[:0], Path("reports/champion.parquet"))
    without = sections.render(receipt, scoring, store, scores, Path("models"), Path("reports"))
    assert "Beside the champion" not in without.html
    assert browser_data(without.html)["labels"] == ["prediction"]


def test_versions_runs_and_bundles_are_compared_on_the_same_frames(
    workspace: Workspace, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    """It needs versions with networks, which score the frames anew."""
    first, second = (pd.read_parquet(artifact(workspace, client, version, PREDICTIONS)) for version in ("1", "3"))
    run_id = str(client.get_model_version(NAME, "3").run_id)
    found = compared("champion", run_id, tmp_path / "found")
    assert (found["a"], found["b"]) == ("version 1 (champion)", f"run {run_id}")
    assert found["compared_on"] == f"{len(first)} frames that both were scored on"
    assert found["figures"]["dice"]["a"] == pytest.approx(first["dice"].mean())
    assert found["figures"]["dice"]["difference"] == pytest.approx(second["dice"].mean() - first["dice"].mean())
    assert browser_data((tmp_path / "found" / "index.html").read_text())["labels"] == ["A", "B"]

    bundle = tmp_path / "delivery" / "3"
    bundle.mkdir(parents=True)
    for path in ("models/model.safetensors", "models/model.json", "reports/card.json"):
        shutil.copy(path, bundle)
    (bundle / "SHA256SUMS").write_bytes(sums_text({path.name: sha256(path) for path in sorted(bundle.iterdir())}))
    first.iloc[4:].to_parquet(tmp_path / "masks.parquet")
    found = compared(str(tmp_path / "masks.parquet"), str(bundle), tmp_path / "bundle")
    assert found["compared_on"] == f"{len(first) - 4} frames that A was scored on"
    assert found["figures"]["dice"]["a"] == pytest.approx(first["dice"].iloc[4:].mean())
    assert found["figures"]["dice"]["b"] == pytest.approx(second["dice"].iloc[4:].mean())
    assert found["remarks"] == [], "its card names the split of data/packed"

    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps({**card, "owner": "somebody"}))
    with pytest.raises(NervesegError, match=r"3/card.json is not what SHA256SUMS says of it"):
        compare("1", str(bundle), tmp_path / "refused")


def compared(a: str, b: str, folder: Path) -> Any:
    compare(a, b, folder)
    return json.loads((folder / "comparison.json").read_text())


def browser_data(html: str) -> Any:
    """What the frame browser of a page reads."""
    return json.loads(re.findall(r'<script type="application/json" id="frame-data">(.*?)</script>', html, re.S)[0])


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
    champion = pd.read_parquet("reports/champion.parquet")
    masks = pd.read_parquet(artifact(workspace, client, "1", PREDICTIONS))
    assert champion["rle_mask"].tolist() == masks["rle_mask"].tolist(), "those that were recorded"
    assert set(champion["version"]) == {"1"}

    client.set_model_version_tag(NAME, "1", "dataset_sha256", "0" * 64)
    client.set_model_version_tag(NAME, "1", "dvc_split", "0" * 32)
    elsewhere = criteria(ask("report"))["gain_over_champion"]
    assert elsewhere["value"] == pytest.approx(found["value"], abs=1e-5), "its network scores these frames anew"
    assert f"on the same {frames} frames (trained on all frames of another dataset" in elsewhere["detail"]
    client.set_model_version_tag(NAME, "1", "dataset_sha256", version.tags["dataset_sha256"])

    table = artifact(workspace, client, "1", "reports/per_image.csv")
    table.write_text(table.read_text().replace("0.", "0.9"))
    with pytest.raises(NervesegError, match=r"The champion, version 1, cannot be loaded.*per_image.csv has SHA-256"):
        ask("report")
