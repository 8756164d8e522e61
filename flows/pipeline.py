"""The flow `pipeline`: from dataset to registered model, one task per stage. `python -m flows.pipeline` runs it here.

DVC decides which stages are stale and restores the others from its cache, so Prefect caches and persists nothing.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from prefect import State, allow_failure, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows import form, lost, runs, summary
from flows.retries import retrying_task, transient, transient_or_killed
from nerveseg import params, paths, profiles
from nerveseg.files import read_json
from nerveseg.workspace import clones, commands, dvc

CLONES = Path(".dvc/tmp/flows")
REGISTER: dvc.Stage = "register"  # the stage that asks the gate
REFUSED = "nerveseg.model.refused"  # the event if the gate refuses a model


@retrying_task
def repro(root: Path, stage: str, stale: bool, force: bool, lock: BinaryIO) -> State:
    """Runs `dvc repro` for a stage; its output goes to this task run's log. Failed where the gate refuses a model."""
    ran = stale and dvc.repro(root, stage, force=force, lock=lock, say=get_run_logger().info)
    if not ran:
        return Completed(name="Cached", message=f"{stage}: nothing it depends on has changed")
    if stage == REGISTER and not (receipt := read_json(root / paths.REGISTRATION_JSON))["registered"]:
        return Failed(name=runs.REFUSED, message=summary.refusal(receipt))
    return Completed(message=f"{stage} ran")


@retrying_task
def push(root: Path, lock: BinaryIO) -> None:
    """Pushes data, model and reports to the DVC remote."""
    dvc.push(root, lock=lock, say=get_run_logger().info)


@flow(persist_result=False, on_running=[lost.sign], flow_run_name=runs.name)
@runs.readable
def pipeline(
    epochs: Annotated[int | None, form.field("train.epochs")] = None,
    learning_rate: Annotated[float | None, form.field("train.learning_rate")] = None,
    height: Annotated[int | None, form.field("model.height")] = None,
    width: Annotated[int | None, form.field("model.width")] = None,
    seed: Annotated[int | None, form.field("train.seed")] = None,
    subject: Annotated[str | None, form.field("data.subject")] = None,
    # These defaults are never modified; with None, the form in the UI would ask for a type before the value.
    overrides: Annotated[dict[str, Any], form.dictionary()] = {},  # noqa: B006
    force: list[dvc.Stage] = [],  # noqa: B006
    revision: str = "",
) -> State:
    """Download, split, train, calibrate, evaluate, register and report what is stale; the gate decides about a version.

    Args:
        epochs, learning_rate, height, width, seed, subject: Parameters for this run only; None: as in params.yaml.
        overrides: Other parameters for this run only, by the names that `nerveseg params show` prints, such as
            {"train.batch_size": 8}. params.yaml is not changed.
        force: Stages to run even if nothing they depend on has changed.
        revision: Git commit, branch or tag whose code, params.yaml and dvc.lock are used; empty: those here.
    """
    say = get_run_logger().info
    fields = {
        "train.epochs": epochs,
        "train.learning_rate": learning_rate,
        "model.height": height,
        "model.width": width,
        "train.seed": seed,
        "data.subject": subject,
    }
    changes = form.combine(fields, overrides)
    with _workspace(changes, revision) as root, commands.alone_in(root / dvc.LOCK, "another flow run", say) as lock:
        begun = time.time()
        if not (root / paths.REGISTRATION_JSON).exists() and (root / paths.DVC_LOCK).exists():
            dvc.restore(root)
        former = read_json(paths.REGISTRATION_JSON) if paths.REGISTRATION_JSON.exists() else None
        stale = bool(force) or not dvc.up_to_date(root)
        states: dict[str, State] = {}
        for stage in dvc.STAGES:
            run = repro.with_options(
                name=stage,
                task_run_name=stage,
                retry_condition_fn=transient_or_killed if stage == "train" else transient,
            )
            waits = [allow_failure(state) for state in list(states.values())[-1:]]  # report follows a refusal, too
            states[stage] = run(root, stage, stale, stage in force, lock, return_state=True, wait_for=waits)
            if states[stage].name != runs.REFUSED:
                states[stage].result()  # raises the error of the stage
        ran = [stage for stage, state in states.items() if state.name != "Cached"]
        receipt = read_json(root / paths.REGISTRATION_JSON)
        message = summary.verdict(receipt, former, ran)
        if ran and commands.remote(root):
            push.with_options(task_run_name="push")(root, lock)
        create_markdown_artifact(
            summary.markdown(root, {stage: str(state.name) for stage, state in states.items()}, message, begun),
            key="pipeline",
            description=message,
        )
        is_refused = states[REGISTER].name == runs.REFUSED
        if is_refused:
            emit_event(
                REFUSED,
                resource={"prefect.resource.id": f"nerveseg.model.{receipt['name']}"},
                payload={"reasons": "; ".join(receipt["reasons"])},
            )
    return Completed(name=runs.REFUSED if is_refused else "Completed", message=message)


@contextmanager
def _workspace(changes: dict[str, Any], revision: str) -> Iterator[Path]:
    """The folder for this flow run: the current one, or a clone if it needs its own params or code.

    Raises:
        NervesegError: the revision is not available, or the changed parameters are invalid.
    """
    here = Path.cwd()
    clones.keep_outside(here)
    if not changes and not revision:
        params.load()
        yield here
        return
    with clones.scratch(here / CLONES) as root:
        clones.clone(here, root, revision or "HEAD")
        if not revision:
            clones.bring_state(here, root)
        profiles.override(changes, root / paths.PARAMS)
        clones.link_dataset(here, root)
        yield root


if __name__ == "__main__":
    runs.main(pipeline)
