"""Retries after a network or server failure, for every task of the flows that may meet one."""

from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from nerveseg.errors import TransientError
from nerveseg.workspace.commands import StageError

PAUSES = [10.0, 30.0, 90.0]  # seconds before each retry


def transient(_task: Any, _run: Any, state: State) -> bool:
    """Whether a task failed because of a network or server failure."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError) or (isinstance(error, StageError) and error.transient)


def transient_or_killed(_task: Any, _run: Any, state: State) -> bool:
    """Like `transient`; also if a signal ended its stage, which can resume."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and (error.transient or error.killed)


# A decorator. Prefect caches and persists nothing: DVC, MLflow and the storage know what is done.
retrying_task = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(PAUSES),
    retry_delay_seconds=PAUSES,
    retry_condition_fn=transient,
)
