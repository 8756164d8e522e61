"""The flow against a real Prefect server with a worker and a real MLflow server, step after step in one workspace."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import mlflow
import psutil
import pytest
import requests
from moto.server import ThreadedMotoServer
from ruamel.yaml import YAML

from conftest import aws_variables
from prefect_api import Prefect, await_
from workspace import Workspace, free_port, mlflow_server

STAGES = ["download", "split", "train", "calibrate", "evaluate", "register", "report"]
NAME = "nerve-segmentation"
EPOCHS = 3
CACHED = dict.fromkeys(STAGES[1:5], "Cached")


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A loopback webhook: its Apprise address, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"json://127.0.0.1:{server.server_port}/", told
    server.shutdown()


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with webhook() as hook:
        yield hook


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("servers")
    with mlflow_server(folder / "mlflow", free_port()) as tracking:
        yield {
            "MLFLOW_TRACKING_URI": tracking,
            "PREFECT_API_URL": prefect_api,
            "PREFECT_HOME": str(folder / "client"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }


@pytest.fixture(scope="module")
def workspace(
    servers: dict[str, str], told: tuple[str, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workspace]:
    """A deployed workspace with a worker."""
    folder = tmp_path_factory.mktemp("flows")
    aws = aws_variables(f"http://127.0.0.1:{free_port()}", folder)  # an S3 server that a test starts
    own = {"NERVESEG_NOTIFY": told[0], "DVC_GLOBAL_CONFIG_DIR": str(folder / "dvc"), "DO_NOT_TRACK": "true"}
    workspace = Workspace(folder / "project", servers | aws | own)
    workspace.set(**{"train.epochs": EPOCHS})
    workspace.run("dvc", "cache", "dir", "--global", str(folder / "cache"))
    workspace.run("dvc", "remote", "add", "--default", "store", str(folder / "remote"))
    workspace.commit()
    workspace.run("python", "-m", "flows.deploy")
    with (workspace.root.parent / "worker.log").open("a") as log:
        worker = subprocess.Popen(
            ("python", "-m", "prefect", "worker", "start", "--pool", "nerveseg"),
            cwd=workspace.root,
            env=workspace.env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        yield workspace
        os.killpg(worker.pid, signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:  # it may wait for its server
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


@pytest.fixture(scope="module")
def prefect(servers: dict[str, str]) -> Prefect:
    return Prefect(servers["PREFECT_API_URL"])


@pytest.fixture(scope="module")
def client(servers: dict[str, str]) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(servers["MLFLOW_TRACKING_URI"])


def mlflow_runs(client: mlflow.MlflowClient) -> list[mlflow.entities.Run]:
    experiment = client.get_experiment_by_name("nerveseg")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def stage_processes(workspace: Workspace) -> list[psutil.Process]:
    """Every process of a flow run's DVC and stages, by the variable that all of them carry."""
    found = []
    for process in psutil.process_iter():
        try:
            belongs = str(workspace.root) in process.environ().get("NERVESEG_CHECKPOINTS", "")
            if belongs and process.status() != psutil.STATUS_ZOMBIE and "prefect" not in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def training_process(workspace: Workspace) -> psutil.Process:
    """The process that DVC started; loaders of frames would be its children."""
    return next(one for one in stage_processes(workspace) if one.cmdline()[-2:] == ["-m", "nerveseg.stages.train"])


def flow_process(run: str) -> psutil.Process:
    """The process of a flow run, which the worker started."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run and process.cmdline()[-1] == "prefect.engine":
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no process runs {run}")


def test_a_flow_run_registers_a_version(workspace: Workspace, prefect: Prefect, client: mlflow.MlflowClient) -> None:
    run = prefect.start("train")
    assert prefect.finish(run) == ("Completed", "registered version 1")
    prefect.expect(run, dict.fromkeys([*STAGES, "push"], "Completed"))
    assert list(prefect.tasks(run)) == [*STAGES, "push"], "in this order"
    assert "everything is up to date" in workspace.run("dvc", "push").lower(), "data and model are on the remote"
    log = prefect.log(run, "train")
    assert all(f"epoch   {epoch} " in log for epoch in (1, EPOCHS)), "the stage's output is the task run's log"
    assert "Running stage 'train'" in log
    (trained,) = mlflow_runs(client)
    page = prefect.page(run)
    assert "# registered version 1" in page
    assert f"| Dice, mean over frames | {trained.data.metrics['values/test/dice']:.4f} |" in page
    assert (
        f"/#/experiments/{trained.info.experiment_id}/runs/{trained.info.run_id}?workflowType=machine_learning" in page
    )
    assert f"/#/models/{NAME}/versions/1?workflowType=machine_learning" in page
    recorded = {info.path for info in client.list_artifacts(trained.info.run_id, "reproduce")}
    assert recorded == {f"reproduce/{name}" for name in ("params.yaml", "dvc.lock", "gate.json", "code.sha256")}
    workspace.commit()


def test_an_unchanged_dataset_trains_nothing(
    workspace: Workspace, prefect: Prefect, client: mlflow.MlflowClient
) -> None:
    run = prefect.start("retrain")
    assert prefect.finish(run) == ("Completed", "nothing to do")
    prefect.expect(run, dict.fromkeys(STAGES, "Cached"))
    assert len(mlflow_runs(client)) == 1
    assert "up to date" in workspace.run("dvc", "status")


def test_parameters_are_described_in_the_form(workspace: Workspace, prefect: Prefect) -> None:
    fields = prefect.deployment("train")["parameter_openapi_schema"]["properties"]
    assert [*fields] == [
        *("epochs", "learning_rate", "height", "width", "seed", "subject", "overrides", "force", "revision")
    ]
    assert all(len(field["description"]) > 20 for field in fields.values())
    assert fields["epochs"]["type"] == "integer"
    assert "default" not in fields["epochs"], "the form would submit it"


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"overrides": {"train.epoch": 3}}, "'train.epoch' is not one of ['train."),
        ({"overrides": {"training.epochs": 3}}, "'training.epochs' does not match '^(phantom|data|"),
        ({"overrides": {"train.epochs": "three"}}, "'three' is not of type 'integer'"),
        ({"overrides": {"model.height": 100}}, "100 is not a multiple of 32"),
        ({"epochs": 0}, "0 is less than the minimum of 1"),
        ({"epoch": 3}, "'epoch' was unexpected"),
    ],
)
def test_wrong_parameters_are_refused_when_a_run_is_submitted(
    workspace: Workspace, prefect: Prefect, parameters: dict[str, Any], why: str
) -> None:
    with pytest.raises(requests.HTTPError, match="409") as refused:
        prefect.start("train", **parameters)
    assert why in refused.value.response.json()["detail"]


def test_what_only_python_can_check_fails_before_anything_starts(workspace: Workspace, prefect: Prefect) -> None:
    run = prefect.start("train", epochs=None, subject="(?P<person>.+)")
    name, message = prefect.finish(run)
    assert name == "Failed"
    assert "data.subject: a pattern has one group (?P<subject>...)" in message
    assert prefect.tasks(run) == {}
    logged = prefect.call("POST", "/logs/filter", logs={"flow_run_id": {"any_": [run]}})
    assert not [line for line in logged if "Traceback" in line["message"]]


def test_a_refusal_completes_and_is_told(
    workspace: Workspace, prefect: Prefect, told: tuple[str, list[dict[str, Any]]]
) -> None:
    before = (workspace.root / "params.yaml").read_bytes(), (workspace.root / "dvc.lock").read_bytes()
    run = prefect.start("train", overrides={"register.gate": "enforce", "register.min_dice": 0.999})
    name, message = prefect.finish(run)
    assert name == "Refused"
    assert message.startswith("refused: mean Dice")
    prefect.expect(
        run, dict.fromkeys(STAGES[:5], "Cached") | {"register": "Refused", "report": "Completed", "push": "Completed"}
    )
    assert prefect.tasks(run)["register"]["state"]["type"] == "FAILED", "which the page shows in red"
    assert prefect.run(run)["state"]["type"] == "COMPLETED", "a refusal is an answer, and no flow run that failed"
    assert prefect.run(run)["name"] == "train: register.gate=enforce, register.min_dice=0.999"
    assert before == ((workspace.root / "params.yaml").read_bytes(), (workspace.root / "dvc.lock").read_bytes())
    page = prefect.page(run)
    assert page.startswith(f"# refused\n\n- {message.removeprefix('refused: ').split('; ')[0]}")
    assert "| dice_lower_bound | **failed** | mean Dice" in page
    assert page.count("](data:image/webp;base64,") == 3
    assert len(page) < 100_000
    await_("the notification", lambda: any("below register.min_dice" in one["message"] for one in told[1]))


def test_a_failing_stage_fails_the_flow_with_its_own_error_and_is_told(
    workspace: Workspace, prefect: Prefect, told: tuple[str, list[dict[str, Any]]]
) -> None:
    run = prefect.start(
        "train", overrides={"split.by": "fold", "split.validation_fold": 99, "evaluate.split": "validation"}
    )
    name, message = prefect.finish(run)
    assert name == "Failed"
    assert "split: split.validation_fold is 99, but the existing folds are" in message
    prefect.expect(run, {"download": "Cached", "split": "Failed"})
    assert prefect.tasks(run)["split"]["run_count"] == 1, "what the user has to mend is not retried"
    await_("the notification", lambda: any("validation_fold is 99" in one["message"] for one in told[1]))


def test_a_network_that_fails_is_tried_again(workspace: Workspace, prefect: Prefect) -> None:
    run = prefect.start("train", overrides={"data.uri": "s3://late/nerves.zip"})
    await_("the first failure", lambda: "download" in prefect.tasks(run) and "Retry" in prefect.log(run, "download"))
    endpoint = workspace.env["AWS_ENDPOINT_URL"]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(endpoint.rpartition(":")[2]), verbose=False)
    server.start()
    try:
        client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test")
        client.create_bucket(Bucket="late")
        client.upload_file(str(workspace.root / "data" / "phantom.zip"), "late", "nerves.zip")
        assert prefect.finish(run) == ("Completed", "nothing to do"), "the very same data"
    finally:
        server.stop()
    prefect.expect(run, dict.fromkeys(["download", "register", "report", "push"], "Completed") | CACHED)


def test_a_revision_is_run_as_it_was(workspace: Workspace, prefect: Prefect) -> None:
    commit = workspace.git("rev-parse", "HEAD").strip()
    workspace.set(**{"evaluate.overlays": 2})
    workspace.commit()
    assert prefect.finish(prefect.start("train", revision=commit)) == ("Completed", "nothing to do")
    workspace.git("reset", "--quiet", "--hard", commit)
    name, message = prefect.finish(prefect.start("train", revision="no-such-branch"))
    assert name == "Failed"
    assert "Revision no-such-branch is neither in" in message


def test_a_training_that_is_cancelled_killed_and_killed_again_is_trained_once(
    workspace: Workspace, prefect: Prefect, client: mlflow.MlflowClient
) -> None:
    epochs = 11
    # Slow enough to be met in its midst.
    overrides = {"model.architecture": "Unet", "model.height": 128, "model.width": 128, "train.epochs": epochs}

    def epochs_logged() -> int:
        """Of the newest training; the flow's log comes seconds later."""
        newest, *former = mlflow_runs(client)
        return len(client.get_metric_history(newest.info.run_id, "validation/dice")) if former else 0

    def start_and_train_two_epochs() -> str:
        former = epochs_logged()
        run = prefect.start("train", overrides=overrides)
        await_("the second epoch", lambda: epochs_logged() >= former + 2)
        return run

    def assert_ended(run: str, state: str) -> None:
        assert prefect.finish(run)[0] == state
        await_("the end of every process", lambda: not stage_processes(workspace), 30)
        assert mlflow_runs(client)[0].info.status == "KILLED"

    cancelled = start_and_train_two_epochs()
    assert stage_processes(workspace)
    prefect.call("POST", f"/flow_runs/{cancelled}/set_state", state={"type": "CANCELLING"})
    assert_ended(cancelled, "Cancelled")

    killed = start_and_train_two_epochs()
    flow_process(killed).kill()
    assert_ended(killed, "Crashed")

    retried = start_and_train_two_epochs()
    training_process(workspace).kill()
    assert prefect.finish(retried) == ("Completed", "registered version 2")
    prefect.expect(
        retried, {"download": "Cached", "split": "Cached"} | dict.fromkeys([*STAGES[2:], "push"], "Completed")
    )
    assert prefect.tasks(retried)["train"]["run_count"] == 2, "a training that a signal ended is retried"

    assert not [*(workspace.root / ".dvc" / "tmp" / "flows").glob("*/")], "the killed run's clone is gone too"
    assert "epoch   1 " not in prefect.log(killed, "train"), "it goes on after the last whole epoch"
    assert "epoch   2 " not in prefect.log(retried, "train")
    assert [run.info.status for run in mlflow_runs(client)] == ["FINISHED", "FINISHED"]
    history = client.get_metric_history(mlflow_runs(client)[0].info.run_id, "validation/dice")
    # Each of the three endings may come after an epoch is logged and before its checkpoint is written.
    assert sorted({int(point.step) for point in history}) == list(range(1, epochs + 1))
    assert len(history) <= epochs + 3


def test_two_runs_in_one_workspace_wait_for_one_another(workspace: Workspace, prefect: Prefect) -> None:
    runs = [prefect.start(name, force=["register"]) for name in ("retrain", "train")]
    assert [prefect.finish(run)[0] for run in runs] == ["Completed", "Completed"]
    first, second = sorted((prefect.run(run) for run in runs), key=lambda run: str(run["start_time"]))
    assert second["start_time"] >= first["end_time"]


def test_a_run_whose_worker_died_before_it_began_frees_its_queue(
    workspace: Workspace, prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import lost

    monkeypatch.setattr(lost, "START", timedelta())
    path = f"/deployments/{prefect.deployment('predict', 'predict')['id']}/create_flow_run"
    taken = prefect.call("POST", path, state={"type": "PENDING"})["id"]
    waiting = prefect.start("predict", "predict")
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        with subprocess.Popen(("sleep", "600"), env={"PREFECT__FLOW_RUN_ID": taken}) as cloning:
            lost.main()
            assert [prefect.run(run)["state"]["type"] for run in (taken, waiting)] == ["PENDING", "SCHEDULED"]
            cloning.kill()
        lost.main()
    for run in (taken, waiting):
        assert prefect.finish(run) == ("Completed", "nothing to do: predict.input in params.yaml is null")


def test_the_watch_for_lost_runs_survives_a_server_that_is_down_and_ends_with_its_worker() -> None:
    """With processes, because it is about their ends; a `sleep` stands for the worker."""
    with subprocess.Popen(
        ("sh", "-c", f"{sys.executable} -m flows.lost --watch & exec sleep 600"),
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert "lost runs could not be looked for, trying again in 60 s" in worker.stdout.readline()
        worker.kill()
        assert "Traceback" not in worker.stdout.read(), "it returns once all have ended that write there"


def test_the_flow_needs_no_server(workspace: Workspace, tmp_path: Path) -> None:
    env = {name: value for name, value in workspace.env.items() if name != "PREFECT_API_URL"}
    command = ("python", "-m", "flows.pipeline")
    done = subprocess.run(
        command, cwd=workspace.root, env=env | {"PREFECT_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Completed('nothing to do')" in done.stderr


def test_two_runs_in_two_clones_share_the_cache(workspace: Workspace, prefect: Prefect, tmp_path: Path) -> None:
    flows = []
    for number in range(2):
        clone = tmp_path / f"clone{number}"
        workspace.git("clone", "--quiet", str(workspace.root), str(clone))
        log = (tmp_path / f"log{number}").open("w")
        (clone / "flows" / "milder.py").write_text(
            "from flows.pipeline import pipeline; pipeline(overrides={'register.min_dice': 0.001})"
        )
        command = ("python", "-m", "flows.milder")
        flows.append(subprocess.Popen(command, cwd=clone, env=workspace.env, stdout=log, stderr=log))
    assert [flow.wait(300) for flow in flows] == [0, 0], [(tmp_path / f"log{n}").read_text() for n in range(2)]
    for number in range(2):
        clone = tmp_path / f"clone{number}"
        subprocess.run(("dvc", "checkout"), cwd=clone, env=workspace.env, check=True)
    status = workspace.run("dvc", "status")
    assert "up to date" in status


def test_the_schedule_is_due_and_goes_with_its_lines(workspace: Workspace, prefect: Prefect) -> None:
    deployment = prefect.deployment("retrain")
    assert [schedule["slug"] for schedule in deployment["schedules"]] == ["nightly"]

    def scheduled() -> list[Any]:
        path, names = "/flow_runs/filter", {"any_": [deployment["id"]]}
        found: list[Any] = prefect.call(
            "POST", path, deployments={"id": names}, flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}
        )
        return found

    due = min(run["expected_start_time"] for run in await_("a scheduled run", scheduled))
    when = datetime.fromisoformat(due.replace("Z", "+00:00"))
    assert (when.hour, when.minute) == (2, 0)
    assert when - datetime.now(UTC) < timedelta(hours=24)

    yaml = YAML()
    content = yaml.load(workspace.root / "prefect.yaml")
    retrain, *_ = content["deployments"]
    del retrain["schedules"]
    content["deployments"] = [retrain]
    yaml.dump(content, workspace.root / "prefect.yaml")
    workspace.run("python", "-m", "flows.deploy")
    assert prefect.deployment("retrain")["schedules"] == []
    await_("the end of its scheduled runs", lambda: not scheduled())
    with pytest.raises(requests.HTTPError, match="404"):
        prefect.deployment("train")


def test_a_server_that_is_missing_is_named(workspace: Workspace) -> None:
    workspace.env["PREFECT_API_URL"] = f"http://127.0.0.1:{free_port()}/api"
    output = workspace.run("python", "-m", "flows.deploy", ok=False)
    assert "does not answer" in output
    assert "Traceback" not in output
