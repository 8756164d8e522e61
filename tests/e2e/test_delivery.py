"""Promotion and delivery: real MLflow and Prefect servers, an S3 server, and processes that are killed."""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest

from conftest import Bucket, aws_variables
from nerveseg.files import sha256
from nerveseg.registry.gate import Criterion, Verdict
from nerveseg.settings import settings
from tampering import register_again, replace, tag
from workspace import Workspace, entered, free_port, kill, mlflow_server, wait_for

NAME = "nerve-segmentation"
GOOD, NEXT = "1", "2"
FILES = {
    *("model.onnx", "model.safetensors", "model.json", "reference.json"),
    *("card.json", "card.md", "metadata.json", "code.sha256"),
}
CHAIN = {"chain", "dataset", "lineage", "params", "code", "weights", "figures", "logged figures", "gate"}
HERE = {"dataset here", "split here", "code here"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("delivery")


@pytest.fixture(scope="module")
def workspace(
    folder: Path, trained: Workspace, bucket: Bucket, s3_endpoint: str, prefect_api: str
) -> Iterator[Workspace]:
    """Two versions of a small model on an MLflow server; bundles go to the bucket."""
    with mlflow_server(folder / "mlflow", free_port()) as tracking:
        servers = {
            "MLFLOW_TRACKING_URI": tracking,
            "PREFECT_API_URL": prefect_api,
            "PREFECT_HOME": str(folder / "client"),
        }
        workspace = trained.copy(folder / "project", servers | aws_variables(s3_endpoint, folder))
        workspace.set(**{"delivery.uri": bucket.uri("bundles")})
        workspace.stage("register")
        register_again(workspace)
        yield workspace


@pytest.fixture
def client(workspace: Workspace) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(workspace.env["MLFLOW_TRACKING_URI"])


@pytest.fixture
def deliver(workspace: Workspace) -> Iterator[Callable[[], tuple[str, str]]]:
    """Runs the flow in this process, in the workspace; returns name and message of its state."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deliver import deliver as flow

    def run() -> tuple[str, str]:
        with temporary_settings({PREFECT_API_URL: workspace.env["PREFECT_API_URL"]}):
            state = flow(return_state=True)
        return state.name, state.message

    with entered(workspace):
        yield run


def promote(client: mlflow.MlflowClient, version: str) -> None:
    """What a person does in the MLflow UI."""
    client.set_registered_model_alias(NAME, "champion", version)


def aliases(client: mlflow.MlflowClient) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


def weights_in_store(folder: Path, client: mlflow.MlflowClient, version: str) -> Path:
    source = client.get_model_version(NAME, version).source.removeprefix("mlflow-artifacts:/")
    return folder / "mlflow" / "artifacts" / source / "artifacts" / "model.safetensors"


def read(bucket: Bucket, name: str) -> bytes:
    content: bytes = bucket.client.get_object(Bucket=bucket.name, Key=f"bundles/{name}")["Body"].read()
    return content


def put(bucket: Bucket, name: str, content: bytes) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key=f"bundles/{name}", Body=content)


def pointer(bucket: Bucket) -> Any:
    return json.loads(read(bucket, "current.json"))


def log(bucket: Bucket) -> list[tuple[str | None, str]]:
    """From and to of every promotion in the log."""
    found = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="bundles/promotions/").get("Contents", [])
    entries = [json.loads(read(bucket, item["Key"].removeprefix("bundles/"))) for item in found]
    return [(entry["from"], entry["to"]) for entry in entries]


def test_nothing_happens_before_a_person_promotes(deliver: Callable[[], tuple[str, str]], bucket: Bucket) -> None:
    assert deliver() == ("Completed", f"nothing to do: no version of {NAME} is champion")
    assert log(bucket) == []


def test_an_alias_that_differs_in_case_only_is_named(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient
) -> None:
    client.set_registered_model_alias(NAME, "Champion", GOOD)
    name, message = deliver()
    client.delete_registered_model_alias(NAME, "Champion")
    assert name == "Completed"
    assert f"version {GOOD} has the alias Champion, but aliases are case-sensitive: set champion instead" in message


def test_a_refused_first_champion_leaves_none(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket
) -> None:
    digest = client.get_model_version(NAME, NEXT).tags["dvc_split"]
    client.set_model_version_tag(NAME, NEXT, "dvc_split", "0" * 32)
    promote(client, NEXT)
    name, message = deliver()
    client.set_model_version_tag(NAME, NEXT, "dvc_split", digest)
    assert name == "Failed"
    assert f"refused version {NEXT}: lineage: the tag dvc_split is {'0' * 32}" in message
    assert "champion" not in aliases(client)
    assert log(bucket) == []


def test_a_promoted_version_is_delivered(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket
) -> None:
    promote(client, GOOD)
    assert deliver() == ("Completed", f"delivered version {GOOD} to {bucket.uri('bundles')}/{GOOD}")
    current = pointer(bucket)
    assert (current["version"], current["path"]) == (GOOD, GOOD)
    sums = read(bucket, f"{GOOD}/SHA256SUMS")
    assert hashlib.sha256(sums).hexdigest() == current["sha256"]
    listed = {name: digest for digest, name in (line.split("  ") for line in sums.decode().splitlines())}
    assert set(listed) == FILES | {
        f"licences/{name}.txt" for name in ("nerveseg", "segmentation-models-pytorch", "timm", "torchvision")
    }
    for name, digest in listed.items():
        assert hashlib.sha256(read(bucket, f"{GOOD}/{name}")).hexdigest() == digest, name
    assert b"Apache License" in read(bucket, f"{GOOD}/licences/nerveseg.txt")
    assert b"## Intended use" in read(bucket, f"{GOOD}/card.md")
    assert log(bucket) == [(None, GOOD)]
    entry = json.loads(read(bucket, "promotions/000001.json"))
    checks = {one["name"]: one["found"] for one in entry["checks"]}
    assert {"hash of model.safetensors", "hash of card.json", "smoke test", "export", *CHAIN, *HERE} <= set(checks)
    assert checks["dataset here"] == "data/raw/dataset.zip matches the card"
    assert checks["split here"] == "data/packed matches the card"
    assert checks["code here"].endswith("matches the card")
    assert checks["gate"] == "off"
    assert client.get_model_version(NAME, GOOD).tags["delivery"].startswith("delivered 20")
    assert aliases(client)["champion"] == GOOD


def test_nothing_is_done_twice(deliver: Callable[[], tuple[str, str]], bucket: Bucket) -> None:
    assert deliver() == ("Completed", f"nothing to do: version {GOOD} is delivered")
    assert len(log(bucket)) == 1


def test_two_deliveries_at_once_make_one_promotion(
    workspace: Workspace, client: mlflow.MlflowClient, bucket: Bucket
) -> None:
    promote(client, NEXT)
    both = [start(workspace, workspace.root.parent / f"both-{number}.log") for number in range(2)]
    assert [process.wait(180) for process in both] == [0, 0]
    assert pointer(bucket)["version"] == NEXT
    assert log(bucket) == [(None, GOOD), (GOOD, NEXT)]
    assert (aliases(client)["champion"], aliases(client)["previous"]) == (NEXT, GOOD)


def test_rolling_back_on_purpose_is_the_same_act(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket
) -> None:
    promote(client, GOOD)
    assert deliver()[0] == "Completed"
    assert pointer(bucket)["version"] == GOOD
    assert log(bucket)[-1] == (NEXT, GOOD)
    assert (aliases(client)["champion"], aliases(client)["previous"]) == (GOOD, NEXT)


def assert_refused(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket, version: str, reason: str
) -> None:
    before, entries = read(bucket, "current.json"), log(bucket)
    promote(client, version)
    name, message = deliver()
    assert name == "Failed"
    assert f"refused version {version}" in message
    assert reason in message
    assert f"Champion is version {GOOD} again" in message
    assert aliases(client)["champion"] == GOOD
    assert read(bucket, "current.json") == before
    assert log(bucket) == entries
    page = client.get_model_version(NAME, version)
    assert page.tags["delivery"].startswith("refused 20")
    assert reason in page.tags["delivery"]
    assert "**Delivery refused**" in page.description
    assert reason in page.description
    keys = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=f"bundles/{version}/")
    assert version == NEXT or keys["KeyCount"] == 0, "nothing of it is published"


def test_tampered_weights_are_refused(
    deliver: Callable[[], tuple[str, str]],
    client: mlflow.MlflowClient,
    bucket: Bucket,
    folder: Path,
    workspace: Workspace,
) -> None:
    stored = weights_in_store(folder, client, NEXT)
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_refused(deliver, client, bucket, NEXT, "model.safetensors has SHA-256")
    output = workspace.run("nerveseg", "verify", NEXT, ok=False)
    assert "FAILED" in output
    assert f"Version {NEXT} must not be delivered" in output
    stored.unlink()
    assert "missing from MLflow's artifact store" in workspace.run("nerveseg", "verify", NEXT, ok=False)
    stored.write_bytes(content)


def artifacts(folder: Path, client: mlflow.MlflowClient, version: str) -> Path:
    """The artifacts of a version's run, in the server's folder."""
    run = client.get_run(str(client.get_model_version(NAME, version).run_id))
    return folder / "mlflow" / "artifacts" / str(run.info.artifact_uri).removeprefix("mlflow-artifacts:/")


def test_a_version_that_failed_the_gate_is_refused_until_a_person_overrides_it(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket, folder: Path
) -> None:
    """The next test delivers it."""
    verdict = Verdict("report", (Criterion("worst_subject", 0.1, ">=", 0.5, False, "mean Dice 0.1 is below 0.5"),))
    (artifacts(folder, client, NEXT) / "reproduce" / "gate.json").write_text(json.dumps(verdict.record))
    for key, value in verdict.tags.items():
        client.set_model_version_tag(NAME, NEXT, key, value)
    assert_refused(deliver, client, bucket, NEXT, "gate override: the gate says failed: worst_subject.")
    client.set_model_version_tag(NAME, NEXT, "Gate override", "Anna Berg: the trial of March needs it")


def test_a_refused_version_that_was_mended_is_delivered_as_it_is_now(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket, folder: Path
) -> None:
    assert "refused" in client.get_model_version(NAME, NEXT).description
    card = artifacts(folder, client, NEXT) / "reports" / "card.json"
    replace(card, card.read_bytes() + b"\n")  # as register does that meets another evaluation
    tag(client, NEXT, "card", card)
    promote(client, NEXT)
    assert deliver()[0] == "Completed"
    assert read(bucket, f"{NEXT}/card.json") == card.read_bytes(), "not that of its first delivery"
    sums = read(bucket, f"{NEXT}/SHA256SUMS")
    assert hashlib.sha256(sums).hexdigest() == pointer(bucket)["sha256"]
    assert f"{sha256(card)}  card.json" in sums.decode()
    assert client.get_model_version(NAME, NEXT).description.startswith("**Gate")
    assert "refused" not in client.get_model_version(NAME, NEXT).description
    overridden = "Anna Berg: the trial of March needs it"
    assert client.get_model_version(NAME, NEXT).description.endswith(f"**Delivery despite the gate** by {overridden}")
    entry = json.loads(read(bucket, f"promotions/{pointer(bucket)['promotion']:06}.json"))
    assert {"name": "gate override", "found": overridden} in entry["checks"]
    promote(client, GOOD)
    assert deliver()[0] == "Completed"


def test_a_key_signs_what_is_delivered_already_and_only_that_is_used(
    deliver: Callable[[], tuple[str, str]],
    workspace: Workspace,
    client: mlflow.MlflowClient,
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private, public = tmp_path / "signing.pem", tmp_path / "verify.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    promote(client, GOOD)
    deliver()
    monkeypatch.setitem(workspace.env, "NERVESEG_VERIFY_KEY", str(public))
    (frame := tmp_path / "frame.png").write_bytes(cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes())
    for command in (("verify", GOOD), ("predict", str(frame))):
        output = " ".join(workspace.run("nerveseg", *command, ok=False).split())
        assert f"{bucket.uri('bundles')}/{GOOD} is not signed: set NERVESEG_SIGNING_KEY" in output

    monkeypatch.setenv("NERVESEG_SIGNING_KEY", str(private))
    settings.cache_clear()
    promotions, previous = len(log(bucket)), pointer(bucket)["previous"]
    assert deliver() == ("Completed", f"delivered version {GOOD} to {bucket.uri('bundles')}/{GOOD}")
    assert len(log(bucket)) == promotions + 1
    assert pointer(bucket)["previous"] == previous
    assert deliver() == ("Completed", f"nothing to do: version {GOOD} is delivered")
    assert "files as signed" in " ".join(workspace.run("nerveseg", "verify", GOOD).split())
    workspace.run("nerveseg", "predict", str(frame))
    assert (tmp_path / "frame_predicted_mask.png").exists()

    network = read(bucket, f"{GOOD}/model.onnx")
    put(bucket, f"{GOOD}/model.onnx", network + b"0")
    assert "model.onnx in" in " ".join(workspace.run("nerveseg", "verify", GOOD, ok=False).split())
    put(bucket, f"{GOOD}/model.onnx", network)
    monkeypatch.delenv("NERVESEG_SIGNING_KEY")
    settings.cache_clear()


def test_a_model_that_segments_nothing_is_refused(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket, workspace: Workspace
) -> None:
    def silence(state: dict[str, Any]) -> None:
        state["segmentation_head.0.bias"] = np.full_like(state["segmentation_head.0.bias"], -1000)

    version = register_again(workspace, silence)
    assert_refused(deliver, client, bucket, version, "smoke test: it segments nothing on")


def start(workspace: Workspace, log_file: Path) -> subprocess.Popen[str]:
    with log_file.open("a") as file:
        command = ("python", "-m", "flows.deliver")
        return subprocess.Popen(command, cwd=workspace.root, env=workspace.env, stdout=file, stderr=file, text=True)


@pytest.fixture(scope="module")
def delivered(workspace: Workspace, folder: Path) -> Path:
    """A folder with version NEXT and a pointer to it; only to be copied."""
    bundles = folder / "bundles"
    promote(mlflow.MlflowClient(workspace.env["MLFLOW_TRACKING_URI"]), NEXT)
    workspace.set(**{"delivery.uri": str(bundles)})
    workspace.run("python", "-m", "flows.deliver")
    return bundles


@pytest.mark.parametrize("point", ["before the pointer", "before the log"])
def test_a_delivery_that_is_killed_is_completed_by_the_next(
    workspace: Workspace,
    client: mlflow.MlflowClient,
    deliver: Callable[[], tuple[str, str]],
    delivered: Path,
    tmp_path: Path,
    point: str,
) -> None:
    """Whoever holds a file's lock stops a delivery before it writes that file."""
    bundles = Path(shutil.copytree(delivered, tmp_path / "bundles"))
    workspace.set(**{"delivery.uri": str(bundles)})
    client.delete_registered_model_alias(NAME, "previous")
    promote(client, GOOD)
    held = bundles / (".current.json.lock" if point == "before the pointer" else "promotions/.000002.json.lock")
    with held.open("w") as lock:
        flock(lock, LOCK_EX)
        process = start(workspace, tmp_path / "killed.log")
        published = bundles / GOOD / "SHA256SUMS"
        if point == "before the pointer":
            wait_for("the bundle", published.exists, process)
            time.sleep(2)  # it reads the bundle back and comes to the pointer
        else:
            wait_for("the alias", lambda: "previous" in aliases(client), process)
        kill(process, workspace.root)
    moved = json.loads((bundles / "current.json").read_text())["version"] == GOOD
    if moved:  # as if it had been killed between pointer and alias
        client.delete_registered_model_alias(NAME, "previous")
    assert moved == (point == "before the log")
    name, message = deliver()
    assert name == "Completed"
    assert ("which had been cut off" in message) == moved
    assert json.loads((bundles / "current.json").read_text())["version"] == GOOD
    assert sorted(path.name for path in bundles.glob("promotions/*.json")) == ["000001.json", "000002.json"]
    assert (aliases(client)["champion"], aliases(client)["previous"]) == (GOOD, NEXT)
    assert deliver()[1].startswith("nothing to do")


def test_servers_that_are_missing_change_nothing(
    workspace: Workspace, deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket
) -> None:
    """A storage that cannot be reached is no reason to refuse a version."""
    workspace.set(**{"delivery.uri": f"s3://no-such-bucket-{free_port()}/x"})
    promote(client, NEXT)
    name, message = deliver()
    assert name == "Failed"
    assert "NoSuchBucket" in message
    assert aliases(client)["champion"] == NEXT
    assert "refused" not in client.get_model_version(NAME, NEXT).description
