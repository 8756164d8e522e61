"""Promotion and delivery: real MLflow and Prefect servers, an S3 server, and processes that are killed."""

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from conftest import Bucket, aws_variables
from nerveseg.files import sha256
from nerveseg.modelcard import provenance
from nerveseg.modelcard.card import Card
from nerveseg.settings import settings
from workspace import Workspace, free_port, mlflow_server, prefect_server, wait_for

NAME = "nerve-segmentation"
GOOD, NEXT = "1", "2"
FILES = {
    *("model.onnx", "model.safetensors", "model.json", "reference.json"),
    *("card.json", "card.md", "metadata.json"),
}
CHAIN = {"chain", "dataset", "lineage", "params", "code", "weights", "figures", "logged figures", "gate"}
HERE = {"dataset here", "split here", "code here"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("delivery")


@pytest.fixture(scope="module")
def workspace(folder: Path, trained: Workspace, bucket: Bucket, s3_endpoint: str) -> Iterator[Workspace]:
    """Two versions of a small model on an MLflow server; bundles go to the bucket."""
    with mlflow_server(folder / "mlflow", free_port()) as tracking, prefect_server(folder / "prefect") as api:
        servers = {"MLFLOW_TRACKING_URI": tracking, "PREFECT_API_URL": api, "PREFECT_HOME": str(folder / "client")}
        workspace = trained.copy(folder / "project", servers | aws_variables(s3_endpoint, folder))
        workspace.set(**{"delivery.uri": bucket.uri("bundles")})
        workspace.stage("register")
        register_again(workspace)
        yield workspace


@pytest.fixture
def client(workspace: Workspace) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(workspace.env["MLFLOW_TRACKING_URI"])


@pytest.fixture
def inside(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is in the workspace and has its environment."""
    monkeypatch.chdir(workspace.root)
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()


@pytest.fixture
def deliver(workspace: Workspace, inside: None) -> Callable[[], tuple[str, str]]:
    """Runs the flow in this process, in the workspace; returns name and message of its state."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deliver import deliver as flow

    def run() -> tuple[str, str]:
        with temporary_settings({PREFECT_API_URL: workspace.env["PREFECT_API_URL"]}):
            state = flow(return_state=True)
        return state.name, state.message

    return run


def register_again(workspace: Workspace, change_weights: Callable[[dict[str, Any]], None] | None = None) -> str:
    """Registers `models/` as a version of its own, as a tracking server that lacks its run does; returns it."""
    record = workspace.root / "models" / "run.json"
    replace(record, json.dumps({**json.loads(record.read_text()), "run_id": os.urandom(16).hex()}).encode())
    with contextlib.ExitStack() as stack:
        if change_weights:
            weights, card = workspace.root / "models" / "model.safetensors", workspace.root / "reports" / "card.json"
            state = load_file(weights)
            change_weights(state)
            stack.enter_context(changed(weights, lambda _: save(state)))
            stack.enter_context(changed(card, lambda content: forge(content, weights=provenance.hashes([weights]))))
        workspace.stage("register")
    version: str = json.loads((workspace.root / "reports" / "registration.json").read_text())["version"]
    return version


def forge(card: bytes, **origins: Any) -> bytes:
    """The card with other origins and the chain that follows from them."""
    record = Card.model_validate_json(card)
    changed = record.origins.model_copy(update=origins)
    forged = record.model_copy(update={"origins": changed, "provenance": provenance.chain(changed)})
    return forged.model_dump_json().encode()


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """A file with other content, for a while."""
    content = path.read_bytes()
    replace(path, change(content))
    yield
    replace(path, content)


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.unlink()  # DVC may have linked it
    path.write_bytes(content)


def promote(client: mlflow.MlflowClient, version: str) -> None:
    """What a person does in the MLflow UI."""
    client.set_registered_model_alias(NAME, "champion", version)


def aliases(client: mlflow.MlflowClient) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


def weights_in_store(folder: Path, client: mlflow.MlflowClient, version: str) -> Path:
    source = client.get_model_version(NAME, version).source.removeprefix("mlflow-artifacts:/")
    return folder / "mlflow" / "artifacts" / source / "artifacts" / "model.safetensors"


@pytest.fixture
def reports(folder: Path, client: mlflow.MlflowClient) -> Path:
    """The artifacts of the second version's run, as the server keeps them."""
    run = client.get_run(str(client.get_model_version(NAME, NEXT).run_id))
    return folder / "mlflow" / "artifacts" / str(run.info.artifact_uri).removeprefix("mlflow-artifacts:/")


def tag(client: mlflow.MlflowClient, name: str, file: Path) -> None:
    """Says of the second version, and on its run, that a file has the hash that it has."""
    client.set_model_version_tag(NAME, NEXT, f"sha256_{name}", sha256(file))
    client.set_tag(str(client.get_model_version(NAME, NEXT).run_id), f"sha256_{name}", sha256(file))


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
    assert checks["dataset here"] == "data/raw/dataset.zip is what the card says"
    assert checks["split here"] == "data/packed is what the card says"
    assert checks["code here"].endswith("is what made the figures")
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
    assert "missing in MLflow's artifact store" in workspace.run("nerveseg", "verify", NEXT, ok=False)
    stored.write_bytes(content)


def test_a_tampered_hash_is_refused_and_a_mended_version_delivered_as_it_is_now(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket, reports: Path
) -> None:
    digest = client.get_model_version(NAME, NEXT).tags["sha256_weights"]
    client.set_model_version_tag(NAME, NEXT, "sha256_weights", "0" * 64)
    assert_refused(deliver, client, bucket, NEXT, f"the tag sha256_weights is {'0' * 64}")
    client.set_model_version_tag(NAME, NEXT, "sha256_weights", digest)
    card = reports / "reports" / "card.json"
    replace(card, card.read_bytes() + b"\n")  # as register does that meets another evaluation
    tag(client, "card", card)
    promote(client, NEXT)
    assert deliver()[0] == "Completed"
    assert read(bucket, f"{NEXT}/card.json") == card.read_bytes(), "not that of its first delivery"
    sums = read(bucket, f"{NEXT}/SHA256SUMS")
    assert hashlib.sha256(sums).hexdigest() == pointer(bucket)["sha256"]
    assert f"{sha256(card)}  card.json" in sums.decode()
    assert client.get_model_version(NAME, NEXT).description.startswith("Dice")
    assert "refused" not in client.get_model_version(NAME, NEXT).description
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
    put(bucket, f"{GOOD}/SHA256SUMS.sig", bytes(64))
    output = " ".join(workspace.run("nerveseg", "predict", str(frame), ok=False).split())
    assert "is no signature of its SHA256SUMS by the expected key" in output
    assert deliver()[1].startswith("delivered version"), "which signs it anew"
    monkeypatch.delenv("NERVESEG_SIGNING_KEY")
    settings.cache_clear()


@pytest.fixture
def found(inside: None) -> Callable[[], set[str]]:
    """Verifies the second version without its network; returns the names of the checks that fail."""
    from nerveseg import tracking
    from nerveseg.registry.verification import failures, of_record
    from nerveseg.registry.verify import of_repository

    def run() -> set[str]:
        with tempfile.TemporaryDirectory() as name:
            checks = of_record(tracking.connect(), NEXT, Path(name))
            checks += [] if failures(checks) else of_repository(Path(name))
        return {check.name for check in checks if not check.passed}

    return run


@pytest.mark.parametrize(
    ("file", "former", "new", "link"),
    [
        ("reports/metrics.json", b'"dice"', b'"dice" ', {"figures"}),
        ("reports/per_image.csv", b"0.", b"1.", {"figures"}),
        ("reports/card.json", b'"apache-2.0"', b'"other"', {"hash of card.json"}),
        ("reproduce/dvc.lock", b"path: models\n", b"path: other\n", {"hash of dvc.lock", "lineage"}),
        ("reproduce/dvc.lock", b"validation: 0.15", b"validation: 0.25", {"hash of dvc.lock", "params"}),
        ("reproduce/params.yaml", b"epochs: 6", b"epochs: 7", {"hash of params.yaml", "params"}),
        ("reproduce/params.yaml", b"prior_margin: 0.0", b"prior_margin: 0.1", {"hash of params.yaml"}),
        ("reproduce/gate.json", b'"off"', b'"report"', {"gate"}),
    ],
)
def test_a_tampered_artifact_is_named(
    found: Callable[[], set[str]], reports: Path, file: str, former: bytes, new: bytes, link: set[str]
) -> None:
    with changed(reports / file, lambda content: content.replace(former, new, 1)):
        assert found() == link
    assert found() == set()
    stored = reports / file
    stored.rename(stored.with_suffix(".gone"))
    assert link <= found(), "also one that is gone"
    stored.with_suffix(".gone").rename(stored)


def test_a_tampered_value_in_mlflow_is_named(
    found: Callable[[], set[str]], client: mlflow.MlflowClient, reports: Path
) -> None:
    version = client.get_model_version(NAME, NEXT)
    dice = client.get_run(str(version.run_id)).data.metrics["test.dice"]
    client.log_metric(str(version.run_id), "test.dice", 0.999)
    assert found() == {"logged figures"}
    client.log_metric(str(version.run_id), "test.dice", dice)
    assert found() == set()
    client.set_model_version_tag(NAME, NEXT, "dataset_sha256", "0" * 64)
    assert found() == {"dataset"}
    client.set_model_version_tag(NAME, NEXT, "dataset_sha256", version.tags["dataset_sha256"])
    for tag in ("gate", "gate.scorer"):
        client.set_model_version_tag(NAME, NEXT, tag, "passed")
        assert found() == {"gate"}
    client.delete_model_version_tag(NAME, NEXT, "gate.scorer")
    client.set_model_version_tag(NAME, NEXT, "gate", version.tags["gate"])


@pytest.mark.parametrize(
    ("former", "new"),
    [
        (b"subjects: 8", b"subjects: 9"),
        (b"frames: nonempty", b"frames: all"),
        (b"near_duplicate: 6", b"near_duplicate: 7"),
        (b"\nsplit:", b"\nother:"),
        (b"\nevaluate:", b"\nevaluate: {}\nother:"),
    ],
)
def test_params_are_held_against_dvcs_record_where_their_tags_were_forged(
    found: Callable[[], set[str]], client: mlflow.MlflowClient, reports: Path, former: bytes, new: bytes
) -> None:
    stored = reports / "reproduce" / "params.yaml"
    with changed(stored, lambda content: content.replace(former, new, 1)):
        tag(client, "params", stored)
        assert found() == {"params"}
    tag(client, "params", stored)
    assert found() == set()


def test_a_card_whose_tags_were_forged_too_is_found_by_its_links(
    found: Callable[[], set[str]], client: mlflow.MlflowClient, reports: Path
) -> None:
    """Whoever may write to MLflow can change a file and its hash; what else follows from it still tells."""
    stored = reports / "reports" / "card.json"
    code = Card.model_validate_json(stored.read_bytes()).origins.code.model_copy(update={"source": "0" * 64})
    for changes, link in (
        (lambda content: content.replace(b'"link": "split"', b'"link": "other"'), "chain"),
        (lambda content: forge(content, weights={"model.safetensors": "0" * 64}), "weights"),
        (lambda content: forge(content, split="0" * 64), "split here"),
        (lambda content: forge(content, code=code), "code here"),
    ):
        with changed(stored, changes):
            tag(client, "card", stored)
            assert found() == {link}
    tag(client, "card", stored)
    assert found() == set()


def test_what_is_here_is_compared_and_what_is_not_is_said(
    found: Callable[[], set[str]], workspace: Workspace, client: mlflow.MlflowClient
) -> None:
    masks = workspace.root / "data" / "packed" / "masks.npy"
    with changed(masks, lambda content: content[:-1] + bytes([1 - content[-1]])):
        assert found() == {"split here"}
    frames = workspace.root / "data" / "packed" / "frames.npy"
    with changed(frames, lambda content: content[:-1] + bytes([content[-1] ^ 1])):
        assert found() == {"split here"}
    with changed(workspace.root / "data" / "raw" / "dataset.zip", lambda content: content + b"0"):
        assert found() == {"dataset here"}
    with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
        assert found() == set(), "elsewhere, nothing but the registry can be asked"


def test_a_model_that_segments_nothing_is_refused(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket, workspace: Workspace
) -> None:
    def silence(state: dict[str, Any]) -> None:
        state["segmentation_head.0.bias"] = np.full_like(state["segmentation_head.0.bias"], -1000)

    version = register_again(workspace, silence)
    assert_refused(deliver, client, bucket, version, "smoke test: it segments nothing on")


def test_a_version_that_the_pipeline_did_not_register_is_refused(
    deliver: Callable[[], tuple[str, str]], client: mlflow.MlflowClient, bucket: Bucket
) -> None:
    run = client.get_run(str(client.get_model_version(NAME, GOOD).run_id))
    (logged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    created = client.create_model_version(NAME, logged.artifact_location, run.info.run_id, model_id=logged.model_id)
    version = str(created.version)
    assert_refused(deliver, client, bucket, version, "it was not registered by the pipeline")


def start(workspace: Workspace, log_file: Path) -> subprocess.Popen[str]:
    command = ("python", "-m", "flows.deliver")
    with log_file.open("a") as file:
        return subprocess.Popen(command, cwd=workspace.root, env=workspace.env, stdout=file, stderr=file, text=True)


@pytest.mark.parametrize("point", ["before the pointer", "before the log"])
def test_a_delivery_that_is_killed_is_completed_by_the_next(
    workspace: Workspace,
    client: mlflow.MlflowClient,
    deliver: Callable[[], tuple[str, str]],
    tmp_path: Path,
    point: str,
) -> None:
    """Whoever holds a file's lock stops a delivery before it writes that file."""
    bundles = tmp_path / "bundles"
    workspace.set(**{"delivery.uri": str(bundles)})
    client.delete_registered_model_alias(NAME, "previous")
    promote(client, NEXT)
    assert deliver()[0] == "Completed"
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
        process.kill()
        process.wait()
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
