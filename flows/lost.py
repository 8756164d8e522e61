"""Flow runs whose process died without a report: `python -m flows.lost` reschedules those of this host.

A worker reports how its runs end, but if its whole host or container stops, nobody does. The run would stay Running and
occupy its queue's only slot for ever. So a run records its host and process, and beside a worker on that host, this
checks every minute whether the process still exists (`--watch`). The rescheduled pipeline resumes from its last
checkpoint.

Prefect's own solution, an automation that waits for missing heartbeats, is not used: docs/adr/0016-lost-runs.md.
"""

import argparse
import os
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Scheduled

from nerveseg.console import console

POOL = "nerveseg"
HOST, PROCESS = "nerveseg.host", "nerveseg.process"  # labels on a flow run
START = timedelta(minutes=3)  # until a run that no process here has begun is taken for lost: docs/adr/0026
EVERY = 60.0  # seconds between two checks


def sign(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """Labels a flow run with its host and process: the flows' `on_running` hook."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {HOST: socket.gethostname(), PROCESS: os.getpid()})


def main() -> None:
    """Reschedules the lost runs of this host, and cancels those that were being cancelled."""
    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        for run in filter(_is_lost, runs):
            message = "its process no longer existed"
            if run.state_type == StateType.CANCELLING:
                state: State[Any] = Cancelled(message=message)
            else:
                state = Scheduled(name="AwaitingRetry", message=message)
            client.set_flow_run_state(run.id, state, force=True)
            console.print(f"{run.name} was lost and is now {state.name}")


def watch() -> None:
    """Checks every minute, for as long as the process that started this one lives: the worker."""
    worker, due = os.getppid(), time.monotonic()
    while os.getppid() == worker:
        if time.monotonic() >= due:
            try:
                main()
            except Exception as error:  # of any kind: the server may be down, and the next check comes
                console.print(f"lost runs could not be looked for, trying again in {EVERY:g} s: {error}")
            due = time.monotonic() + EVERY
        time.sleep(1)


def _is_lost(run: FlowRun) -> bool:
    if run.state_type == StateType.PENDING:
        waited = run.state is not None and datetime.now(UTC) - run.state.timestamp > START
        return waited and not any(_runs(process, run) for process in psutil.process_iter())  # it may clone at length
    return run.labels.get(HOST) == socket.gethostname() and not _lives(run)


def _lives(run: FlowRun) -> bool:
    """Whether the run's process exists, rather than another process that has reused its id."""
    try:
        return _runs(psutil.Process(int(run.labels[PROCESS])), run)
    except psutil.NoSuchProcess:
        return False


def _runs(process: psutil.Process, run: FlowRun) -> bool:
    try:
        return bool(process.environ().get("PREFECT__FLOW_RUN_ID") == str(run.id))
    except psutil.Error:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watch", action="store_true", help="check every minute, until the parent process ends")
    watch() if parser.parse_args().watch else main()
