"""Flow runs whose process is gone without a word: `python -m flows.lost` schedules those of this host again.

A worker reports how its runs end; but where the whole host stops, or its container, nobody does. The run would stay
Running and hold its queue's only slot for ever. So a run writes down where it runs, and whoever starts the next worker
on that host looks whether the process is still there. The pipeline then goes on from its last checkpoint.

Prefect's own way, an automation that waits for heartbeats to stop, was given up: docs/adr/0016-lost-runs.md.
"""

import os
import socket
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
HOST, PROCESS = "nerveseg.host", "nerveseg.process"  # labels of a flow run
START = timedelta(minutes=10)  # that a run may take from its worker's hand to its first line: it clones


def sign(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """Writes on a flow run which process of which host it is: the flows' hook `on_running`."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {HOST: socket.gethostname(), PROCESS: os.getpid()})


def main() -> None:
    """Schedules the lost runs of this host again; those that were being cancelled become cancelled."""
    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        for run in filter(_is_lost, runs):
            message = "its process was gone"
            if run.state_type == StateType.CANCELLING:
                state: State[Any] = Cancelled(message=message)
            else:
                state = Scheduled(name="AwaitingRetry", message=message)
            client.set_flow_run_state(run.id, state, force=True)
            console.print(f"{run.name} was lost, and is {state.name} now")


def _is_lost(run: FlowRun) -> bool:
    if run.state_type == StateType.PENDING:
        return run.state is not None and datetime.now(UTC) - run.state.timestamp > START
    return run.labels.get(HOST) == socket.gethostname() and not _lives(run)


def _lives(run: FlowRun) -> bool:
    """Whether the process that signed the run is there, and no other one has its number meanwhile."""
    try:
        environment = psutil.Process(int(run.labels[PROCESS])).environ()
    except psutil.Error:
        return False
    return bool(environment.get("PREFECT__FLOW_RUN_ID") == str(run.id))


if __name__ == "__main__":
    main()
