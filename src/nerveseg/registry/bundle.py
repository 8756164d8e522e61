"""What a delivery holds, for those who read it: the pointer to the current bundle and the bundle's files. No mlflow."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nerveseg.errors import NervesegError
from nerveseg.files import sha256
from nerveseg.storage import Storage

POINTER = "current.json"
SUMS = "SHA256SUMS"


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


def fetch(storage: Storage, pointer: Pointer, names: Iterable[str], folder: Path) -> None:
    """Brings files of the bundle that `pointer` names into `folder`, verified from the pointer on.

    Raises:
        NervesegError: a file is missing, or is not what the pointer and SHA256SUMS say of it; the storage refuses.
        TransientError: the storage cannot be reached.
    """
    place = f"{storage.uri}/{pointer.path}"
    try:
        listed, _ = storage.read(f"{pointer.path}/{SUMS}")
        if hashlib.sha256(listed).hexdigest() != pointer.sha256:
            raise NervesegError(
                f"{place}/{SUMS} is not what {POINTER} says of it: deliver version {pointer.version} anew."
            )
        sums = parse_sums(listed)
        for name in names:
            storage.download(f"{pointer.path}/{name}", folder / name)
            if sha256(folder / name) != sums.get(name):
                raise NervesegError(
                    f"{place}/{name} is not what {SUMS} says of it: deliver version {pointer.version} anew."
                )
    except FileNotFoundError as error:
        raise NervesegError(f"{place} lacks a file ({error}): deliver version {pointer.version} anew.") from None


def parse_sums(content: bytes) -> dict[str, str]:
    """Hashes by file name, of the content of SHA256SUMS. Raises ValueError where it is no such list."""
    return {name: digest for digest, name in (line.split("  ", 1) for line in content.decode().splitlines())}


def sums_text(sums: dict[str, str]) -> bytes:
    """The content of SHA256SUMS, as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()
