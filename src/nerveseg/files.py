"""Outputs that appear whole or not at all, and the digests that tell files apart."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nerveseg.errors import NervesegError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write a file at; renames it to `path` on success, removes it on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` to fill; puts it in the place of `path` on success, removes it on error.

    What a killed process left there goes with the next call.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, former = (path.with_name(f".{path.name}.{part}") for part in ("partial", "former"))
    for leftover in (beside, former):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        with suppress(FileNotFoundError):
            path.replace(former)  # removing it in place would leave half of it, were this cut short
        beside.replace(path)
    finally:
        for leftover in (beside, former):
            shutil.rmtree(leftover, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, record: Any) -> None:
    """Writes `record` as indented JSON, whole or not at all. NaN and infinity are refused (ValueError)."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file that an earlier stage wrote.

    Raises:
        NervesegError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NervesegError(f"{path} is missing: `dvc repro` makes it, `dvc pull` brings it.") from None
    except ValueError as error:  # no JSON, or no text
        raise NervesegError(f"{path} is not JSON ({error}): `dvc checkout {path}` restores it.") from None
