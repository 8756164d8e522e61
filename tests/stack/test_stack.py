"""The team stack, from its first training to a restored backup, step after step in one project."""

import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import httpx
import mlflow
import psycopg2
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from playwright.sync_api import Browser, Page, expect

from native_stack import FRAMES, Stack
from nerveseg.data.archive import Archive
from nerveseg.params import load
from nerveseg.phantom import dataset as phantom
from prefect_api import await_

NAME = "nerve-segmentation"
EPOCHS = 24
LONG = 600  # seconds


@pytest.fixture(scope="module")
def frame(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frame of the phantom; all of them are on S3, for the flow predict."""
    folder = tmp_path_factory.mktemp("frame")
    phantom.write(folder / "phantom.zip", load(stack.root / "params.yaml").phantom)
    s3(stack).upload_file(str(folder / "phantom.zip"), "nerveseg", FRAMES.rpartition("/")[2])
    archive = Archive(folder / "phantom.zip")
    content = archive.read(next(name for name in archive.names if name.endswith(".png")))
    (folder / "frame.png").write_bytes(content)
    return folder / "frame.png"


def artifacts(client: mlflow.MlflowClient, version: str, folder: Path) -> dict[str, bytes]:
    """The registered files of a version."""
    path = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/{version}", dst_path=str(folder)))
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def ready(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{stack.address('predictor')}/readyz", timeout=30).json()
    return found


def test_without_credentials_every_service_refuses(stack: Stack) -> None:
    def status(service: str, path: str, auth: tuple[str, str] | None = None) -> int:
        return requests.get(stack.address(service) + path, auth=auth, timeout=30).status_code

    for auth in (None, ("admin", "password"), ("admin", "password1234")):
        assert status("mlflow", f"/api/2.0/mlflow/registered-models/get?name={NAME}", auth) == 401
        assert status("mlflow", "/", auth) == 401
        assert status("prefect", "/api/deployments/name/pipeline/train", auth) == 401
        assert all(status("predictor", path, auth) == 401 for path in ("/", "/docs", "/metrics", "/openapi.json"))
    with pytest.raises(ClientError, match=r"403|Forbidden"):
        s3(stack, config=Config(signature_version=UNSIGNED)).list_objects_v2(Bucket="nerveseg")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3(stack, aws_access_key_id=stack.env["S3_ACCESS_KEY_ID"], aws_secret_access_key="x").list_buckets()
    with pytest.raises(psycopg2.OperationalError, match="password"):
        database(stack, "postgres", "postgres", "postgres")


def test_the_databases_are_kept_apart(stack: Stack) -> None:
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        database(stack, "prefect", "mlflow", stack.env["MLFLOW_DATABASE_PASSWORD"])
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        database(stack, "mlflow", "prefect", stack.env["PREFECT_DATABASE_PASSWORD"])
    database(stack, "mlflow_auth", "mlflow", stack.env["MLFLOW_DATABASE_PASSWORD"])


def database(stack: Stack, name: str, user: str, password: str) -> None:
    port = stack.env["POSTGRES_PORT"]
    psycopg2.connect(host="127.0.0.1", port=port, dbname=name, user=user, password=password).close()


def s3(stack: Stack, **more: Any) -> Any:
    keys = {
        "aws_access_key_id": stack.env["S3_ACCESS_KEY_ID"],
        "aws_secret_access_key": stack.env["S3_SECRET_ACCESS_KEY"],
    }
    return boto3.client("s3", endpoint_url=stack.address("s3"), region_name="us-east-1", **(keys | more))


def test_a_training_outlives_every_service(stack: Stack, client: mlflow.MlflowClient, tmp_path: Path) -> None:
    run = stack.prefect.start("train", overrides={"train.epochs": EPOCHS})

    def is_training(epoch: int = 1) -> bool:
        return "train" in stack.prefect.tasks(run) and f"epoch {epoch:>3} " in stack.prefect.log(run, "train")

    await_("the first epoch", is_training, LONG)
    for services in (("postgres",), ("s3", "predictor"), ("mlflow",), ("prefect",), ("worker",)):
        assert stack.prefect.run(run)["state"]["type"] == "RUNNING", (
            "the training is to be cut off, and takes too short"
        )
        stack.kill(*services)
    await_("its return", lambda: stack.prefect.run(run)["run_count"] == 2, LONG)
    assert stack.prefect.finish(run, LONG) == ("Completed", "registered version 1")

    (trained,) = client.search_runs([client.get_experiment_by_name("nerveseg").experiment_id])
    assert trained.info.status == "FINISHED"
    history = client.get_metric_history(trained.info.run_id, "validation/dice")
    assert {int(point.step) for point in history} == set(range(1, EPOCHS + 1)), "no epoch is lost"
    assert any(name.endswith("model.safetensors") for name in artifacts(client, "1", tmp_path))
    assert s3(stack).list_objects_v2(Bucket="nerveseg", Prefix="dvc/files/md5/")["KeyCount"] > 0, "pushed"


def test_a_person_promotes_in_the_browser(stack: Stack, browser: Browser, frame: Path) -> None:
    page = signed_in(stack, browser, "admin")
    promote(page, stack, "1")
    page.get_by_text("champion").first.wait_for()
    await_("the delivery on its schedule", lambda: ready(stack).get("version") == "1", LONG)
    assert ready(stack)["problem"] is None

    # The delivery's event starts a prediction.
    deployment = stack.prefect.deployment("predict", "predict")["id"]
    started = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
    (run,) = await_(
        "the prediction",
        lambda: stack.prefect.call(
            "POST", "/flow_runs/filter", deployments={"id": {"any_": [deployment]}}, flow_runs=started
        ),
    )
    assert run["parameters"]["model"] == "1"
    assert "with version 1 into s3://nerveseg/predictions/1" in stack.prefect.finish(run["id"])[1]
    assert s3(stack).head_object(Bucket="nerveseg", Key="predictions/1/predictions.parquet")["ContentLength"] > 0
    assert "| intensity |" in stack.prefect.page(run["id"])


def signed_in(stack: Stack, browser: Browser, user: str) -> Page:
    account = {"username": user, "password": stack.env[f"MLFLOW_{user.upper()}_PASSWORD"]}
    return browser.new_context(http_credentials=account).new_page()


def promote(page: Page, stack: Stack, version: str, alias: str = "champion") -> None:
    page.goto(f"{stack.address('mlflow')}/#/models/{NAME}/versions/{version}")
    page.get_by_title("Edit aliases").click()
    page.locator("[role=dialog] input").first.click()
    page.keyboard.type(alias)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save aliases").click()


def test_a_person_drops_a_frame(stack: Stack, browser: Browser, frame: Path) -> None:
    account = {"username": "predictor", "password": stack.env["PREDICTOR_PASSWORD"]}
    page = browser.new_context(http_credentials=account).new_page()
    page.goto(stack.address("predictor"))
    content = list(frame.read_bytes())
    data = page.evaluate_handle(
        """content => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "frame.png", {type: "image/png"}));
            return data;
        }""",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(page.locator("#result")).to_be_visible(timeout=30_000)
    expect(page.locator("#version")).to_have_text("1")
    params = load(stack.root / "params.yaml").phantom
    expect(page.locator("#frame")).to_have_js_property("naturalHeight", params.height)
    expect(page.locator("#frame")).to_have_js_property("naturalWidth", params.width)


def test_a_reviewer_only_reads(stack: Stack, browser: Browser, client: mlflow.MlflowClient) -> None:
    address = f"{stack.address('mlflow')}/api/2.0/mlflow/registered-models/get?name={NAME}"
    assert stack.mlflow("reviewer").get(address, timeout=30).json()["registered_model"]["name"] == NAME
    assert stack.set_alias("reviewer", "1") == 403
    page = signed_in(stack, browser, "reviewer")
    page.goto(f"{stack.address('mlflow')}/#/models/{NAME}/versions/1")
    page.get_by_text("champion").first.wait_for()
    promote(page, stack, "1", "champion2")
    page.get_by_text("INTERNAL_ERROR").wait_for()  # docs/stack.md says what MLflow means
    experiment = client.get_experiment_by_name("nerveseg").experiment_id
    path = f"{stack.address('mlflow')}/api/2.0/mlflow/experiments/delete"
    assert stack.mlflow("reviewer").post(path, json={"experiment_id": experiment}, timeout=30).status_code == 403


def test_no_request_is_dropped_while_versions_switch(stack: Stack, frame: Path) -> None:
    run = stack.prefect.start("train", overrides={"train.epochs": 6})
    assert stack.prefect.finish(run, LONG) == ("Completed", "registered version 2")
    content, answers, done = frame.read_bytes(), Counter[tuple[int, str | None]](), threading.Event()
    account = ("predictor", stack.env["PREDICTOR_PASSWORD"])

    def ask() -> list[tuple[int, str | None]]:
        found = []
        with httpx.Client(base_url=stack.address("predictor"), auth=account, timeout=60, trust_env=False) as client:
            while not done.is_set():
                reply = client.post("/v1/segment", files={"frame": ("frame.png", content)})
                found.append((reply.status_code, reply.json().get("model_version")))
                time.sleep(0.05)
        return found

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            assert stack.set_alias("admin", "2") == 200
            await_("the switch", lambda: ready(stack)["version"] == "2", LONG)
            time.sleep(2)
        finally:
            done.set()
        for one in clients:
            answers.update(one.result())
    assert {status for status, _ in answers} <= {200, 429}
    assert {version for status, version in answers if status == 200} == {"1", "2"}


def test_a_backup_brings_everything_back(
    stack: Stack, client: mlflow.MlflowClient, folder: Path, tmp_path: Path
) -> None:
    def everything() -> dict[str, Any]:
        model = client.get_registered_model(NAME)
        experiment = client.get_experiment_by_name("nerveseg").experiment_id
        return {
            "aliases": model.aliases,
            "runs": {one.info.run_id: one.data.metrics for one in client.search_runs([experiment])},
            "versions": {one.version: one.tags for one in client.search_model_versions(f"name = '{NAME}'")},
            "schedules": [one["schedule"]["cron"] for one in stack.prefect.deployment("retrain")["schedules"]],
            "flow runs": {run for run in flow_runs if stack.prefect.run(run)["state"]["type"] == "COMPLETED"},
        }

    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    flow_runs = [one["id"] for one in stack.prefect.call("POST", "/flow_runs/filter", flow_runs=completed)]
    before, files = everything(), artifacts(client, "2", tmp_path / "before")
    assert before["aliases"]["champion"] == "2"
    assert before["aliases"]["previous"] == "1"
    stack.make("stack-backup", BACKUP=folder / "backup")
    assert {path.name for path in (folder / "backup").iterdir()} == {"databases", "bucket"}
    stack.project.run("python", "-m", "stack.native", "down")
    shutil.rmtree(stack.root / ".stack")
    with stack.up():
        assert not client.get_registered_model(NAME).aliases, "wiped"
        assert ready(stack)["version"] is None
        stack.make("stack-restore", BACKUP=folder / "backup")
        assert everything() == before
        assert artifacts(client, "2", tmp_path / "after") == files
        await_("the champion", lambda: ready(stack)["version"] == "2")
