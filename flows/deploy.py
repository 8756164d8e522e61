"""Registers the content of prefect.yaml on a Prefect server: `python -m flows.deploy`, called by `make deploy`.

In addition to `prefect deploy`, it creates the work pool and its queues, makes the server refuse unknown parameters,
deletes schedules and deployments that are no longer in the file, and sets up notifications.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr
from ruamel.yaml import YAML

from flows.pipeline import REFUSED
from flows.summary import WARNING
from nerveseg.console import console, readable_errors
from nerveseg.errors import NervesegError
from nerveseg.settings import settings

PREFECT_YAML = Path("prefect.yaml")
BLOCK = "nerveseg-notify"
FAILURES = "nerveseg: a flow run failed or warns"
REFUSALS = "nerveseg: the gate refused a model"


def main() -> None:
    """Registers everything on the server at PREFECT_API_URL.

    Raises:
        NervesegError: there is no server, or `prefect deploy` failed.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise NervesegError(
            "PREFECT_API_URL is not set: start a server with `prefect server start`, and set it to its URL."
        )
    config = YAML(typ="safe", pure=True).load(PREFECT_YAML)
    with get_client(sync_client=True) as client:
        _reach(client)
        queues = [
            (entry["work_pool"]["name"], entry["work_pool"]["work_queue_name"]) for entry in config["deployments"]
        ]
        for pool, queue in sorted(set(queues)):
            _make_queue(client, pool, queue)
        _deploy(config)
        for deployment in _prune(client, config):
            _close(client, deployment)
        _notify(client)


def _reach(client: SyncPrefectClient) -> None:
    failure = client.api_healthcheck()
    if failure is not None:
        raise NervesegError(
            f"The Prefect server at {client.api_url} does not answer: {failure}. Start it with `prefect server start`."
        )


def _make_queue(client: SyncPrefectClient, pool: str, queue: str) -> None:
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
    try:
        found = client.read_work_queue_by_name(queue, work_pool_name=pool)
    except ObjectNotFound:
        found = client.create_work_queue(queue, work_pool_name=pool)
    client.update_work_queue(found.id, concurrency_limit=1)


def _deploy(config: dict[str, Any]) -> None:
    repository = settings().repository
    if repository:
        config = {**config, "pull": config["definitions"]["clone"]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PREFECT_YAML.name
        YAML().dump(config, file)
        command = (sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
        done = subprocess.run(command, env=os.environ | {"CHECKOUT": str(Path.cwd())})
    if done.returncode:
        raise NervesegError("`prefect deploy` failed; see its message above.")


def _prune(client: SyncPrefectClient, config: dict[str, Any]) -> list[DeploymentResponse]:
    """Deletes deployments in the pools, and their schedules, that are not in the file; returns those that are left."""
    wanted = {entry["name"]: {one["slug"] for one in entry.get("schedules", [])} for entry in config["deployments"]}
    pools = WorkPoolFilter(
        name=WorkPoolFilterName(any_=[entry["work_pool"]["name"] for entry in config["deployments"]])
    )
    left = []
    for deployment in client.read_deployments(work_pool_filter=pools):
        if deployment.name not in wanted:
            client.delete_deployment(deployment.id)
            console.print(f"removed deployment {deployment.name}: it is not in {PREFECT_YAML}")
            continue
        left.append(deployment)
        for schedule in client.read_deployment_schedules(deployment.id):
            if schedule.slug not in wanted[deployment.name]:
                client.delete_deployment_schedule(deployment.id, schedule.id)
                console.print(f"removed schedule {schedule.slug} of {deployment.name}: it is not in {PREFECT_YAML}")
    return left


def _close(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Completes the schema of a deployment's parameters by what `prefect deploy` cannot derive from a signature.

    The server then refuses a run with a parameter that the flow does not have. A field with the default None gets none,
    because the form would submit null for it.
    """
    schema = dict(deployment.parameter_openapi_schema or {})
    properties = {
        name: {key: value for key, value in about.items() if (key, value) != ("default", None)}
        for name, about in schema.get("properties", {}).items()
    }
    closed = schema | {"properties": properties, "additionalProperties": False}
    client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=closed))


def _notify(client: SyncPrefectClient) -> None:
    """Sets up notifications of failures and refusals if NERVESEG_NOTIFY is set, and removes them otherwise."""
    url = settings().notify
    for name in (FAILURES, REFUSALS):
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
    if url is None:
        console.print("no notifications: NERVESEG_NOTIFY is not set")
        return
    # This block accepts any Apprise URL; the others accept only URLs of their own service.
    block = SlackWebhook(url=SecretStr(url.get_secret_value()), notify_type="failure").save(BLOCK, overwrite=True)
    flow = {"prefect.resource.role": "flow", "prefect.resource.name": ["pipeline", "deliver", "predict"]}
    failed = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut", WARNING)}
    for name, trigger, body in (
        (
            FAILURES,
            EventTrigger(expect=failed, match_related=flow, posture=Posture.Reactive, threshold=1),
            "{{ flow_run.name }} of {{ flow.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
        ),
        (
            REFUSALS,
            EventTrigger(expect={REFUSED}, posture=Posture.Reactive, threshold=1),
            "{{ event.payload.reasons }}",
        ),
    ):
        action = SendNotification(block_document_id=block, subject=name, body=body)
        Automation(name=name, trigger=trigger, actions=[action]).create()
    console.print("notifications of failures and refusals are set up")


if __name__ == "__main__":
    with readable_errors():
        main()
