"""What the flows have in common: the names of their runs, and how runs end."""

import logging
import sys
import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec

from prefect import Flow, State, get_client, get_run_logger, runtime
from prefect.context import FlowRunContext
from prefect.exceptions import FailedRun
from prefect.logging import get_logger
from prefect.states import Failed

from nerveseg.errors import NervesegError
from nerveseg.workspace.commands import StageError

P = ParamSpec("P")
REFUSED = "Refused"  # state of a run of the pipeline, and of a task whose check failed
_LONGEST = 120  # characters of a name


def name() -> str:
    """The name of the current flow run: its deployment or flow, and the parameters it was given.

    Such as `train: epochs=8, train.batch_size=4`, or `retrain: scheduled`.
    """
    context = FlowRunContext.get()
    assert context is not None, "Prefect calls this in a flow run"
    assert context.flow_run is not None
    assert context.flow is not None
    defaults = {key: about.get("default") for key, about in context.flow.parameters.properties.items()}
    given: dict[str, Any] = {}
    for key, value in context.flow_run.parameters.items():
        if value != defaults.get(key):
            given |= value if isinstance(value, dict) else {key: value}
    said = [f"{key}={_shown(value)}" for key, value in given.items()]
    how = "scheduled" if context.flow_run.auto_scheduled else "as in params.yaml"
    return _shortened(f"{runtime.deployment.name or runtime.flow_run.flow_name}: {', '.join(said) or how}")


def rename(to: str) -> None:
    """Gives the current flow run a name that says what it found to do."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(runtime.flow_run.id, _shortened(to))


def readable(run: Callable[P, State]) -> Callable[P, State]:
    """Makes a flow end as Failed with the message of an error that the user can fix, without a traceback."""

    @wraps(run)
    def ends(*args: P.args, **kwargs: P.kwargs) -> State:
        try:
            return run(*args, **kwargs)
        except (NervesegError, StageError) as error:
            get_run_logger().error("%s", error)
            return Failed(message=str(error))

    return ends


def main(flow: Flow[[], State]) -> NoReturn:
    """Runs a flow here, with its defaults; the exit status says whether it completed. Prefect's log says the rest."""
    sys.exit(0 if flow(return_state=True).is_completed() else 1)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of a flow run's log is not Prefect's traceback of a failed state that the flow returned."""
    return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


get_logger("prefect.flow_runs").addFilter(_is_news)


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _shortened(text: str) -> str:
    return textwrap.shorten(text, _LONGEST, placeholder=" ...")
