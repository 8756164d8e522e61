"""The flow `deliver`: a version that a person made champion is verified and delivered, or refused and rolled back.

`python -m flows.deliver` runs it here. It looks at the alias and at the pointer, so that it can be run as often as one
likes; what a run that was cut off left undone, the next one does.
"""

import tempfile
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows.retries import patient_task
from nerveseg import params, tracking, workspace
from nerveseg.registry import delivery, versions
from nerveseg.registry.delivery import Pointer
from nerveseg.registry.verification import Check, failures, verify
from nerveseg.storage import ChangedError, Storage

DELIVERED = "nerveseg.model.delivered"  # the event that starts `predict`
_LATER = "The next run of `deliver` goes on from here."


@patient_task
def check(version: str, folder: Path) -> list[Check]:
    """Fetches a version's files into `folder`, checks them and exports the network there."""
    say = get_run_logger().info
    with tracking.reachable(_LATER):
        checks = verify(tracking.connect(), version, folder)
    for one in checks:
        say(f"{'passed' if one.passed else 'FAILED'}  {one.name}: {one.found}")
    return checks


@patient_task
def publish(storage: Storage, version: str, folder: Path) -> str:
    """Writes the version's bundle and reads it back; returns the hash of its SHA256SUMS."""
    return delivery.publish(storage, version, folder)


@patient_task
def finish(storage: Storage, pointer: Pointer) -> None:
    """Tells everybody: the version, the alias `previous`, the event, the log."""
    with tracking.reachable(_LATER):
        client = tracking.connect()
        emit_event(
            DELIVERED,
            resource={"prefect.resource.id": f"nerveseg.model.{versions.NAME}"},
            payload={"version": pointer.version, "previous": pointer.previous},
        )
        delivery.finish(client, storage, pointer)


@patient_task
def refuse(version: str, former: Pointer | None, reason: str) -> str:
    """Writes the reason on the version and gives the alias back; returns what became of it."""
    with tracking.reachable(_LATER):
        return delivery.refuse(tracking.connect(), version, former, reason)


@flow(persist_result=False)
def deliver() -> State:
    """Deliver the version that has the alias champion, if it is not delivered yet."""
    completed = ""
    while True:
        champion = _champion()
        if champion is None:
            return Completed(message=f"nothing to do: no version of {versions.NAME} is champion")
        storage = workspace.lasting_storage(params.load().delivery.uri, "delivery.uri")
        former, stamp = delivery.current(storage)
        if former is not None and not delivery.is_complete(storage, former):
            finish.with_options(task_run_name="finish")(storage, former)
            completed = f"completed the delivery of version {former.version}, which had been cut off"
        if former is not None and former.version == champion:
            return Completed(message=completed or f"nothing to do: version {champion} is delivered")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            checks = check.with_options(task_run_name=f"check version {champion}")(champion, folder)
            if reason := failures(checks):
                outcome = refuse.with_options(task_run_name=f"refuse version {champion}")(champion, former, reason)
                return Failed(message=f"refused version {champion}: {reason}. {outcome.capitalize()}.")
            digest = publish.with_options(task_run_name=f"publish version {champion}")(storage, champion, folder)
        if _champion() != champion:
            get_run_logger().info("the alias champion was moved meanwhile: looking again")
            continue
        try:
            pointer = delivery.point(storage, former, stamp, champion, digest, checks)
        except ChangedError:
            get_run_logger().info("another delivery moved the pointer meanwhile: looking again")
            continue
        finish.with_options(task_run_name="finish")(storage, pointer)
        return Completed(message=f"delivered version {champion} to {storage.uri}/{pointer.path}")


def _champion() -> str | None:
    with tracking.reachable(_LATER):
        return versions.holder(tracking.connect(), versions.CHAMPION)


if __name__ == "__main__":
    deliver()
