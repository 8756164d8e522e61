"""Outputs that appear complete or not at all, JSON, and hashes of files."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nerveseg.errors import NervesegError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota, or a limit on the size of files
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EEXIST)


def disk_error(error: OSError, path: Path | None = None, kept: str = "earlier files are unchanged") -> str | None:
    """What the user is told of a disk that is full or refuses a file; None for any other error.

    Args:
        path: the file that was being written; None: the one that the error names, if it names one.
        kept: what has become of the files that were there.
    """
    if error.errno is None or error.errno not in _FULL + _REFUSED:
        return None
    reason = os.strerror(error.errno)  # libraries put texts of their own in `error.strerror`
    if error.errno in _FULL:
        return f"{path or error.filename or 'A file'} cannot be written ({reason}): make room and run again; {kept}."
    name = error.filename or path or "A file"
    return f"{name} cannot be read or written ({reason}): fix that and run again; {kept}."


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises NervesegError where there is no room for `path`, or the disk refuses a file."""
    try:
        yield
    except OSError as error:
        if (said := disk_error(error, path)) is None:
            raise
        raise NervesegError(said) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path next to `path` to write to; renames it to `path` on success, removes it on error.

    Raises:
        NervesegError: the disk is full or refuses a file.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # threads may write the same file
    try:
        with writing(path):
            yield beside
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder next to `path` to fill; replaces `path` with it on success, removes it on error.

    The next call removes what a killed process left behind.

    Raises:
        NervesegError: the disk is full or refuses a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, former = (path.with_name(f".{path.name}.{part}") for part in ("partial", "former"))
    for leftover in (beside, former):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir()
    try:
        with writing(path):
            yield beside
            with suppress(FileNotFoundError):
                path.replace(former)  # removing it in place could leave half of it if interrupted
            beside.replace(path)
    finally:
        for leftover in (beside, former):
            shutil.rmtree(leftover, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_sums(content: bytes) -> dict[str, str]:
    """Hashes by file name, from the content of a list that `sha256sum` wrote. Raises ValueError for anything else."""
    return {name: digest for digest, name in (line.split("  ", 1) for line in content.decode().splitlines())}


def sums_text(sums: dict[str, str]) -> bytes:
    """The content of a list of hashes by file name, as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def write_json(path: Path, record: Any) -> None:
    """Writes `record` as indented JSON, completely or not at all. Raises ValueError for NaN and infinity."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file written by an earlier stage.

    Raises:
        NervesegError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NervesegError(f"{path} is missing: `dvc repro` creates it, `dvc pull` fetches it.") from None
    except ValueError as error:  # not JSON, or not text
        raise NervesegError(f"{path} is not JSON ({error}): `dvc checkout {path}` restores it.") from None
