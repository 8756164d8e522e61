"""The flow `deliver`: a version that a person made champion is verified and delivered, or refused and rolled back.

`python -m flows.deliver` runs it here. It looks at the alias and at the pointer, so that it can be run as often as one
likes; what a run that was cut off left undone, the next one does.
"""

import tempfile
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows import lost
from flows.retries import retrying_task
from nerveseg import params, tracking
from nerveseg.registry import bundle, delivery, signatures, verify, versions
from nerveseg.registry.bundle import Pointer
from nerveseg.registry.verification import Check, failures
from nerveseg.storage import ChangedError, Storage
from nerveseg.workspace import clones

DELIVERED = "nerveseg.model.delivered"  # the event that starts `predict`
_LATER = "The next run of `deliver` goes on from here."


@retrying_task
def check(version: str, folder: Path) -> list[Check]:
    """Fetches a version's files into `folder`, checks them and exports the network there."""
    checks = verify.check(version, folder)
    for one in checks:
        get_run_logger().info(f"{'passed' if one.passed else 'FAILED'}  {one.name}: {one.found}")
    return checks


@retrying_task
def publish(storage: Storage, version: str, folder: Path) -> str:
    """Writes and signs the version's bundle and reads it back; returns the hash of its SHA256SUMS."""
    return delivery.publish(storage, version, folder, signatures.signing_key())


@retrying_task
def finish(pointer: Pointer) -> None:
    """Says on the version that it is delivered, and moves the alias `previous`."""
    with tracking.reachable(_LATER):
        delivery.finish(tracking.connect(), pointer)


@retrying_task
def refuse(storage: Storage, version: str, reason: str) -> str:
    """Writes the reason on the version and gives the alias back; returns what became of it."""
    with tracking.reachable(_LATER):
        return delivery.refuse(tracking.connect(), storage, version, reason)


@flow(persist_result=False, on_running=[lost.sign])
def deliver() -> State:
    """Deliver the version that has the alias champion, if it is not delivered yet."""
    completed, key = "", signatures.signing_key()
    while True:
        champion = _champion()
        if champion is None:
            return Completed(message=f"nothing to do: no version of {versions.NAME} is champion")
        version, run_id = champion
        storage = clones.lasting_storage(params.load().delivery.uri, "delivery.uri")
        former, stamp = bundle.current(storage)
        if former is not None and not delivery.is_complete(storage, former):
            _complete(storage, former)
            completed = f"completed the delivery of version {former.version}, which had been cut off"
        is_delivered = former is not None and (former.version, former.run_id) == champion
        if is_delivered and (key is None or bundle.is_signed(storage, version, key.public_key())):
            return Completed(message=completed or f"nothing to do: version {version} is delivered")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            checks = check.with_options(task_run_name=f"check version {version}")(version, folder)
            if reason := failures(checks):
                outcome = refuse.with_options(task_run_name=f"refuse version {version}")(storage, version, reason)
                return Failed(message=f"refused version {version}: {reason}. {outcome.capitalize()}.")
            digest = publish.with_options(task_run_name=f"publish version {version}")(storage, version, folder)
        if _champion() != champion:
            get_run_logger().info("the alias champion was moved meanwhile: looking again")
            continue
        try:
            pointer = delivery.point(storage, former, stamp, version, run_id, digest, checks)
        except ChangedError:
            get_run_logger().info("another delivery moved the pointer meanwhile: looking again")
            continue
        _complete(storage, pointer)
        return Completed(message=f"delivered version {version} to {storage.uri}/{pointer.path}")


def _complete(storage: Storage, pointer: Pointer) -> None:
    """What follows a moved pointer. The entry in the log comes last: until it is there, the next run does it again."""
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


if __name__ == "__main__":
    deliver()
