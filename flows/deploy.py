"""Registers what prefect.yaml says on a Prefect server: `python -m flows.deploy`, which `make deploy` calls.

Beyond `prefect deploy` it makes the work pool and its queue, removes schedules and deployments that left the file, and
sets up notifications and the return of runs whose worker died.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
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
LOST = "nerveseg: a run whose worker died goes on"
HEARTBEAT = "prefect.flow-run.heartbeat"
HEARTBEAT_SECONDS = 30  # the least that there is
SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS + 5)
START = timedelta(minutes=10)  # that a run may take from its worker's hand to its first line: it clones


def main() -> None:
    """Makes the server that PREFECT_API_URL names hold what prefect.yaml says.

    Raises:
        NervesegError: there is no server, or `prefect deploy` failed.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise NervesegError("PREFECT_API_URL names no server: `prefect server start`, then set it to its address.")
    config = YAML(typ="safe", pure=True).load(PREFECT_YAML)
    with get_client(sync_client=True) as client:
        _reach(client)
        queues = [
            (entry["work_pool"]["name"], entry["work_pool"]["work_queue_name"]) for entry in config["deployments"]
        ]
        for pool, queue in sorted(set(queues)):
            _make_queue(client, pool, queue)
        _deploy(config)
        _prune(client, config)
        for name in (FAILURES, REFUSALS, LOST):
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)
        _resume()
        _notify()


def _reach(client: SyncPrefectClient) -> None:
    failure = client.api_healthcheck()
    if failure is not None:
        raise NervesegError(
            f"The Prefect server at {client.api_url} does not answer: {failure}. `prefect server start`"
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
    for entry in config["deployments"]:
        entry["work_pool"]["job_variables"] = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}}
    repository = settings().repository
    if repository:
        config = {**config, "pull": config["definitions"]["clone"]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PREFECT_YAML.name
        YAML().dump(config, file)
        command = (sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
        done = subprocess.run(command, env=os.environ | {"CHECKOUT": str(Path.cwd())})
    if done.returncode:
        raise NervesegError("`prefect deploy` failed; its message is above.")


def _prune(client: SyncPrefectClient, config: dict[str, Any]) -> None:
    """Removes deployments of the pools and their schedules that the file does not hold."""
    wanted = {entry["name"]: {one["slug"] for one in entry.get("schedules", [])} for entry in config["deployments"]}
    pools = WorkPoolFilter(
        name=WorkPoolFilterName(any_=[entry["work_pool"]["name"] for entry in config["deployments"]])
    )
    for deployment in client.read_deployments(work_pool_filter=pools):
        if deployment.name not in wanted:
            client.delete_deployment(deployment.id)
            console.print(f"removed deployment {deployment.name}: it is not in {PREFECT_YAML}")
            continue
        for schedule in client.read_deployment_schedules(deployment.id):
            if schedule.slug not in wanted[deployment.name]:
                client.delete_deployment_schedule(deployment.id, schedule.id)
                console.print(f"removed schedule {schedule.slug} of {deployment.name}: it is not in {PREFECT_YAML}")


def _resume() -> None:
    """A run that went silent without an end is scheduled again: its worker died, and it would hold its queue's slot.

    Where only the run's own process ended, its worker says so and nothing is done here.
    """
    states = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "AwaitingConcurrencySlot", WARNING)
    ends = {f"prefect.flow-run.{state}" for state in states}
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED, name="AwaitingRetry", message="its worker died; the next one goes on", force=True
    )
    for after, alive, within in (
        (HEARTBEAT, HEARTBEAT, SILENCE),
        ("prefect.flow-run.Pending", "prefect.flow-run.Running", START),
    ):
        trigger = EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            after={after},
            expect={alive} | ends,
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        )
        Automation(name=LOST, trigger=trigger, actions=[again]).create()


def _notify() -> None:
    """Notifications on failures and refusals where NERVESEG_NOTIFY is set, none where it is not."""
    url = settings().notify
    if url is None:
        console.print("no notifications: NERVESEG_NOTIFY is not set")
        return
    # Prefect's block for any address that Apprise knows; the others accept only their own service's.
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
    console.print("notifications on failure and refusal are set up")


if __name__ == "__main__":
    with readable_errors():
        main()
