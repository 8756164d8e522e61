"""What another try may help: a network or a server that failed. Every task of the flows that meets one is made here."""

from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from nerveseg.errors import TransientError
from nerveseg.workspace.commands import StageError

PAUSES = [10.0, 30.0, 90.0]  # seconds before another try


def transient(_task: Any, _run: Any, state: State) -> bool:
    """Whether a task failed for a reason that may pass by itself."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError) or (isinstance(error, StageError) and error.transient)


def transient_or_killed(_task: Any, _run: Any, state: State) -> bool:
    """The same, or a signal ended its stage, which goes on where it was."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and (error.transient or error.killed)


# A decorator. Nothing is cached or persisted: DVC, MLflow and the storages know what is done.
retrying_task = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(PAUSES),
    retry_delay_seconds=PAUSES,
    retry_condition_fn=transient,
)
