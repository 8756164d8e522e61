"""Delivery of the version that a person made champion: its bundle, the pointer to the current one, the promotion log.

A delivery storage holds

    current.json                    the pointer, replaced in one step: what is delivered, and by which promotion
    VERSION/                        a bundle: model.onnx, model.safetensors, model.json, reference.json, card.json,
                                    card.md, metadata.json, licences/, code.sha256, which has the hashes of the
                                    version's code in MLflow, and SHA256SUMS, which names them all
                                    (`sha256sum -c SHA256SUMS`); with a key, SHA256SUMS.sig
    promotions/000001.json ...      the log, one file per promotion, written once and last

The pointer is the truth. A promotion is complete once its entry is in the log; what comes before, `finish`, can be
done again as often as one likes.
"""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from nerveseg import paths
from nerveseg.errors import ChangedError, NervesegError, TransientError
from nerveseg.files import parse_sums, sha256, sums_text
from nerveseg.registry.bundle import (
    CODE,
    POINTER,
    SIGNATURE,
    SUMS,
    Pointer,
    altered,
    current,
    is_signed,
    read_sums,
)
from nerveseg.registry.verification import OVERRIDE_CHECK, Check
from nerveseg.registry.versions import CHAMPION, NAME, PREVIOUS, holder, is_missing
from nerveseg.storage import Storage

LOG = "promotions/"
_LONGEST = 5000  # characters of a version's description in MLflow's database
TAG = "delivery"  # on a version: DELIVERED or refused, when and why
DELIVERED = "delivered"
_VERIFIED = ("model.safetensors", "model.json", "reference.json", "card.json", "card.md", "metadata.json")
# Whose architectures or weights are in the network, beside our own.
_LICENSED = ("segmentation-models-pytorch", "timm", "torchvision")
_REMARK = "\n\n**Delivery "  # begins the paragraph of a version's description that says what became of it


def is_complete(storage: Storage, pointer: Pointer) -> bool:
    """Whether all that follows a moved pointer was done."""
    return any(entry.name == _entry(pointer.promotion) for entry in storage.entries(LOG))


def publish(storage: Storage, version: str, folder: Path, key: Ed25519PrivateKey | None = None) -> str:
    """Writes the bundle of a verified version, signs it where there is a key, and reads it back.

    One that is there and whole stays as it is, unless it holds other files than were verified, those of the version
    before it was registered anew; or `key` did not sign it: only what was verified just now is signed.

    Args:
        folder: holds the version's files and `model.onnx`.
        key: signs the bundle.

    Returns:
        The SHA-256 of its SHA256SUMS.

    Raises:
        NervesegError: a whole bundle of other weights is there.
        TransientError: what was read back is not what was written.
    """
    _add_licences(folder / "licences")
    verified = [*_VERIFIED, *[CODE] * (folder / CODE).exists()]
    names = ["model.onnx", *verified, *sorted(f"licences/{path.name}" for path in (folder / "licences").iterdir())]
    sums = {name: sha256(folder / name) for name in names}
    found = _published(storage, version) or {}
    if found and found.get("model.safetensors") != sums["model.safetensors"]:
        raise NervesegError(
            f"{storage.uri}/{version} is a bundle of other weights: another registry delivers there. Give each its "
            "own delivery.uri."
        )
    is_trusted = key is None or is_signed(storage, version, key.public_key())
    if is_trusted and all(found.get(name) == sums[name] for name in verified):
        sums = found
    else:
        for name in names:
            storage.upload(f"{version}/{name}", folder / name)
        storage.write(f"{version}/{SUMS}", sums_text(sums))
        if key is not None:
            storage.write(f"{version}/{SIGNATURE}", key.sign(sums_text(sums)))
        is_trusted = key is None or is_signed(storage, version, key.public_key())
        if not is_trusted or _published(storage, version) != sums:
            raise TransientError(f"{storage.uri}/{version} is not what was written; another process may write it too.")
    return hashlib.sha256(sums_text(sums)).hexdigest()


def point(
    storage: Storage,
    former: Pointer | None,
    stamp: str | None,
    version: str,
    run_id: str,
    digest: str,
    checks: list[Check],
) -> Pointer:
    """Moves the pointer to a published version, in one step.

    Raises:
        ChangedError: somebody else moved it since `former` was read.
        NervesegError: the storage refuses or fails.
    """
    logged = [int(PurePosixPath(entry.name).stem) for entry in storage.entries(LOG)]
    pointer = Pointer(
        version=version,
        run_id=run_id,
        path=version,
        sha256=digest,
        previous=_former_version(former, version),
        promotion=max([former.promotion if former else 0, *logged]) + 1,  # also where the pointer was lost
        at=_now(),
        checks=[{"name": check.name, "found": check.found} for check in checks],
    )
    storage.replace(POINTER, _json(asdict(pointer)), stamp)
    return pointer


def _former_version(former: Pointer | None, version: str) -> str | None:
    """The version to roll back to; delivering the current one again, to sign it, does not change which that is."""
    if former is None:
        return None
    return former.previous if former.version == version else former.version


def finish(client: MlflowClient, pointer: Pointer) -> None:
    """Says on a version that it is delivered, and moves the alias `previous`; nothing where they are deleted."""
    try:
        client.set_model_version_tag(NAME, pointer.version, TAG, f"{DELIVERED} {pointer.at}")
        said = next((each["found"] for each in pointer.checks if each["name"] == OVERRIDE_CHECK), None)
        _describe(client, pointer.version, f"{_REMARK}despite the gate** by {said}" if said else "")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    if pointer.previous is not None:
        _move_alias(client, PREVIOUS, pointer.previous)


def log(storage: Storage, pointer: Pointer) -> None:
    """Writes the entry of a promotion, which completes it: from, to, and all that the pointer says."""
    entry = {"from": pointer.previous, "to": pointer.version, **asdict(pointer)}
    with suppress(ChangedError):  # written by another delivery
        storage.replace(_entry(pointer.promotion), _json(entry), None)


def refuse(client: MlflowClient, storage: Storage, version: str, reason: str) -> str:
    """Says on a version why it is not delivered, and gives its alias `champion` back to the one that is.

    Returns:
        What became of the alias, as the end of a sentence.
    """
    said = f"{_now()}: {reason}"
    client.set_model_version_tag(NAME, version, TAG, f"refused {said}"[:_LONGEST])
    _describe(client, version, f"{_REMARK}refused** {said}")
    champion = holder(client, CHAMPION)
    if champion is None or champion[0] != version:
        return "the alias champion has been moved meanwhile"
    former, _ = current(storage)  # of this moment: another delivery may have moved it
    if former is not None and _move_alias(client, CHAMPION, former.version):
        return f"champion is version {former.version} again"
    client.delete_registered_model_alias(NAME, CHAMPION)
    return "nothing is champion now: no version was delivered before, or it was deleted"


def _move_alias(client: MlflowClient, alias: str, version: str) -> bool:
    """Whether it could be moved: not to a version that was deleted."""
    try:
        client.set_registered_model_alias(NAME, alias, version)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return False
    return True


def _describe(client: MlflowClient, version: str, remark: str) -> None:
    description = (client.get_model_version(NAME, version).description or "").partition(_REMARK)[0]
    client.update_model_version(NAME, version, (description + remark)[:_LONGEST])


def _published(storage: Storage, version: str) -> dict[str, str] | None:
    """Hashes of the files of a bundle by name, if it is there and each file is what SHA256SUMS says."""
    try:
        sums = parse_sums(read_sums(storage, version, None))
        return None if altered(storage, version, sums) else sums
    except (FileNotFoundError, ValueError):
        return None


def _add_licences(folder: Path) -> None:
    """The project's licence, and those of the packages that the network was built with."""
    folder.mkdir(exist_ok=True)
    shutil.copy(paths.LICENSE, folder / "nerveseg.txt")
    for name in _LICENSED:
        file = next(path for path in distribution(name).files or [] if path.name == "LICENSE")
        (folder / f"{name}.txt").write_text(file.read_text(), encoding="utf-8")


def _entry(promotion: int) -> str:
    return f"{LOG}{promotion:06}.json"


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
