"""What a delivery holds, for those who read it: the pointer to the current bundle and the bundle's files. No mlflow."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from nerveseg import logged_code
from nerveseg.errors import NervesegError, TransientError
from nerveseg.files import parse_sums, sha256
from nerveseg.storage import Storage

POINTER = "current.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"  # Ed25519, 64 bytes, over the content of SHA256SUMS
_NETWORK = ("model.safetensors", "model.json", "reference.json")  # what predictions from MLflow's files depend on
CODE = logged_code.SUMS.name  # hashes of the code in MLflow; older versions lack it


@dataclass(frozen=True)
class Pointer:
    """What `current.json` holds.

    Attributes:
        version: the delivered version.
        run_id: its training run; the same number in another registry is another version.
        path: its bundle, below the storage's root.
        sha256: of the bundle's SHA256SUMS, 64 hexadecimal digits.
        previous: the version that was delivered before; None for the first one.
        promotion: number of this promotion, from 1.
        at: when, ISO 8601 in UTC.
        checks: what was checked before, `name` and `found` of each.
    """

    version: str
    run_id: str
    path: str
    sha256: str
    previous: str | None
    promotion: int
    at: str
    checks: list[dict[str, str]]


def current(storage: Storage) -> tuple[Pointer | None, str | None]:
    """The pointer and its stamp; None and None before the first delivery.

    Raises:
        NervesegError: the pointer is damaged, or the storage refuses or fails.
    """
    try:
        content, stamp = storage.read(POINTER)
    except FileNotFoundError:
        return None, None
    try:
        return Pointer(**json.loads(content)), stamp
    except (ValueError, TypeError) as error:
        raise NervesegError(f"{storage.uri}/{POINTER} is damaged ({error}): restore it from promotions/.") from None


def fetch(
    storage: Storage, pointer: Pointer, names: Iterable[str], folder: Path, key: Ed25519PublicKey | None = None
) -> None:
    """Brings files of the bundle that `pointer` names into `folder`, verified from the pointer on.

    Args:
        key: whose signature the bundle must have; None: none is asked for.

    Raises:
        NervesegError: a file is missing, or is not what the pointer and SHA256SUMS say of it; the signature is missing
            or not by `key`; the storage refuses.
        TransientError: the storage cannot be reached.
    """
    try:
        listed = read_sums(storage, pointer.path, key)
        if hashlib.sha256(listed).hexdigest() != pointer.sha256:
            raise NervesegError(
                f"{storage.uri}/{pointer.path}/{SUMS} is not what {POINTER} says of it: deliver version "
                f"{pointer.version} anew."
            )
        bring(storage, pointer.path, parse_sums(listed), names, folder)
    except FileNotFoundError as error:
        place = f"{storage.uri}/{pointer.path}"
        raise NervesegError(f"{place} lacks a file ({error}): deliver version {pointer.version} anew.") from None


def bring(storage: Storage, path: str, sums: Mapping[str, str], names: Iterable[str], folder: Path) -> None:
    """Brings files of the bundle at `path` into `folder`.

    Args:
        sums: hashes by file name, from `read_sums`.

    Raises:
        FileNotFoundError: a file is missing.
        NervesegError: a file does not have its hash; the storage refuses or fails.
    """
    for name in names:
        storage.download(f"{path}/{name}", folder / name)
        if sha256(folder / name) != sums.get(name):
            raise NervesegError(
                f"{storage.uri}/{path}/{name} is not what {SUMS} says of it: deliver version {path} anew."
            )


def read_sums(storage: Storage, path: str, key: Ed25519PublicKey | None) -> bytes:
    """The content of SHA256SUMS of the bundle at `path`; with a `key`, only if that key signed it.

    Raises:
        FileNotFoundError: there is none.
        NervesegError: it is not signed, or not with that key; the storage refuses or fails.
    """
    sums, _ = storage.read(f"{path}/{SUMS}")
    if key is None:
        return sums
    place = f"{storage.uri}/{path}"
    try:
        key.verify(storage.read(f"{path}/{SIGNATURE}")[0], sums)
    except FileNotFoundError:
        raise NervesegError(
            f"{place} is not signed: set NERVESEG_SIGNING_KEY where `deliver` runs, and deliver the version again."
        ) from None
    except InvalidSignature:
        raise NervesegError(
            f"{place}/{SIGNATURE} is no signature of its {SUMS} by the expected key: either file was changed, or "
            "another key signed it. Find out which before you deliver the version again."
        ) from None
    return sums


def is_signed(storage: Storage, path: str, key: Ed25519PublicKey) -> bool:
    """Whether there is a bundle at `path` whose SHA256SUMS `key` signed. Raises TransientError."""
    try:
        read_sums(storage, path, key)
    except TransientError:
        raise
    except (FileNotFoundError, NervesegError):
        return False
    return True


def altered(storage: Storage, path: str, sums: dict[str, str]) -> list[str]:
    """The files of the bundle at `path` that do not have their hash in `sums`.

    Raises:
        FileNotFoundError: one is missing.
        NervesegError: the storage refuses or fails.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, digest in sums.items():
            storage.download(f"{path}/{name}", Path(folder) / "file")
            if sha256(Path(folder) / "file") != digest:
                found.append(name)
    return found


def require_signed(storage: Storage, version: str | None, folder: Path, key: Ed25519PublicKey) -> dict[str, str]:
    """Holds a version's files from the registry against its signed bundle.

    Args:
        version: its number; None: of a run that is no version, which nobody signs.
        folder: holds its weights, spec and reference, and the hashes of its code if they were recorded.

    Returns:
        The signed hashes by file name.

    Raises:
        NervesegError: there is no bundle, it is not signed with `key`, or what is signed are other files.
    """
    if version is None:
        raise NervesegError("Only versions are signed, and this is a run: use a version, or unset NERVESEG_VERIFY_KEY.")
    place = f"{storage.uri}/{version}"
    try:
        sums = parse_sums(read_sums(storage, version, key))
    except FileNotFoundError:
        raise NervesegError(
            f"{place} does not exist, so nothing of version {version} is signed: deliver it first, or unset "
            "NERVESEG_VERIFY_KEY."
        ) from None
    found = {name: sha256(folder / name) for name in (*_NETWORK, CODE) if (folder / name).exists()}
    if others := [name for name in (*_NETWORK, CODE) if sums.get(name) != found.get(name)]:
        raise NervesegError(
            f"{', '.join(others)} of version {version} in MLflow differ from the signed bundle {place}: deliver the "
            "version again if it was registered anew."
        )
    return sums
