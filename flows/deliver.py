"""The flow `deliver`: verifies and delivers the version that a person made champion, or refuses it and rolls back.

`python -m flows.deliver` runs it immediately. It compares the alias with the pointer, so it can run as often as you
like, and a run completes what an interrupted one left undone.
"""

import tempfile
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows import lost, runs
from flows.retries import retrying_task
from nerveseg import params, tracking
from nerveseg.errors import ChangedError
from nerveseg.registry import bundle, delivery, signatures, verify, versions
from nerveseg.registry.bundle import Pointer
from nerveseg.registry.verification import Check, failures
from nerveseg.storage import Storage
from nerveseg.workspace import clones

DELIVERED = "nerveseg.model.delivered"  # the event that starts `predict`
_LATER = "The next run of `deliver` continues from here."


@retrying_task
def check(version: str, folder: Path, is_delivered: bool) -> list[Check] | State:
    """Fetches a version's files into `folder`, checks them and exports the network there.

    Returns:
        The checks; or a failed state with the reasons why the version is refused.
    """
    checks = verify.check(version, folder, is_delivered=is_delivered)
    for one in checks:
        get_run_logger().info(f"{'passed' if one.passed else 'FAILED'}  {one.name}: {one.found}")
    reason = failures(checks)
    return Failed(name=runs.REFUSED, message=reason) if reason else checks


@retrying_task
def publish(storage: Storage, version: str, folder: Path) -> str:
    """Writes and signs the version's bundle and reads it back; returns the hash of its SHA256SUMS."""
    return delivery.publish(storage, version, folder, signatures.signing_key())


@retrying_task
def finish(pointer: Pointer) -> None:
    """Tags the version as delivered, and moves the alias `previous`."""
    with tracking.reachable(_LATER):
        delivery.finish(tracking.connect(), pointer)


@retrying_task
def refuse(storage: Storage, version: str, reason: str) -> str:
    """Tags the version with the reason and moves the alias back; returns where it is now."""
    with tracking.reachable(_LATER):
        return delivery.refuse(tracking.connect(), storage, version, reason)


@flow(persist_result=False, on_running=[lost.sign], flow_run_name="deliver")
@runs.readable
def deliver() -> State:
    """Deliver the version with the alias champion, unless it has been delivered."""
    completed, key = "", signatures.signing_key()
    while True:
        champion = _champion()
        if champion is None:
            return Completed(message=f"nothing to do: no version of {versions.NAME} is champion{_misspelt()}")
        version, run_id = champion
        storage = clones.lasting_storage(params.load().delivery.uri, "delivery.uri")
        former, stamp = bundle.current(storage)
        if former is not None and not delivery.is_complete(storage, former):
            _complete(storage, former)
            completed = f"completed the delivery of version {former.version}, which had been cut off"
        is_delivered = former is not None and (former.version, former.run_id) == champion
        if is_delivered and (key is None or bundle.is_signed(storage, version, key.public_key())):
            said = completed or f"nothing to do: version {version} is delivered"
            return Completed(message=f"{said}{_misspelt()}")
        runs.rename(f"deliver version {version}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            checks = check.with_options(task_run_name=f"check version {version}")(version, folder, is_delivered)
            if isinstance(checks, State):
                reason = str(checks.message)
                outcome = refuse.with_options(task_run_name=f"refuse version {version}")(storage, version, reason)
                return Failed(message=f"refused version {version}: {reason}. {outcome.capitalize()}.")
            digest = publish.with_options(task_run_name=f"publish version {version}")(storage, version, folder)
        if _champion() != champion:
            get_run_logger().info("the alias champion has moved meanwhile: starting over")
            continue
        try:
            pointer = delivery.point(storage, former, stamp, version, run_id, digest, checks)
        except ChangedError:
            get_run_logger().info("another delivery has moved the pointer meanwhile: starting over")
            continue
        _complete(storage, pointer)
        return Completed(message=f"delivered version {version} to {storage.uri}/{pointer.path}")


def _complete(storage: Storage, pointer: Pointer) -> None:
    """The steps after moving the pointer. The log entry comes last: without it, the next run repeats them."""
    finish.with_options(task_run_name="finish")(pointer)
    emit_event(
        DELIVERED,
        resource={"prefect.resource.id": f"nerveseg.model.{versions.NAME}"},
        payload={"version": pointer.version, "previous": pointer.previous},
    )
    delivery.log(storage, pointer)


def _champion() -> tuple[str, str] | None:
    """The version that is champion, and its run."""
    with tracking.reachable(_LATER):
        return versions.holder(tracking.connect(), versions.CHAMPION)


def _misspelt() -> str:
    with tracking.reachable(_LATER):
        said = versions.misspelt(tracking.connect(), versions.CHAMPION)
    return f"; {said}" if said else ""


if __name__ == "__main__":
    runs.main(deliver)
