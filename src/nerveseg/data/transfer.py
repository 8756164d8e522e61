"""One download of a source, which continues after an interruption."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import lock_descriptor
from rich.filesize import decimal
from rich.progress import Progress, TaskID

from nerveseg import files
from nerveseg.console import console, progress
from nerveseg.data.sources import FileSource, Identity, Reply, Source
from nerveseg.errors import ChangedError, NervesegError, TransientError

TRIES = 5  # in a row without getting any further
FIRST_PAUSE = 0.5  # seconds before the second try; doubles with every further one
Result = TypeVar("Result")


def download(source: Source, target: Path, sha256: str | None = None) -> dict[str, Any]:
    """Downloads `source` to `target`, which appears only when complete.

    Bytes go to `target`.part, and `target`.part.json says which object they belong to. A later call, even after a
    SIGKILL, continues there if the source still has the same object; otherwise it starts over and says so. It does the
    same when the object is replaced between two tries of one call. A lost connection is retried, up to TRIES times in
    a row without progress.

    Args:
        source: what to download.
        target: the file to write; its folder is created.
        sha256: the only content to accept, as 64 hexadecimal digits; None: any.

    Returns:
        uri, etag, version_id, sha256, size (bytes) and last_modified of the file; None where the source has none.

    Raises:
        NervesegError: the source cannot be read, is empty, is the target itself or has another checksum; the disk
            is full or not writable; or another download into `target` is running.
    """
    part = partial_file(target)
    if isinstance(source, FileSource) and source.path.resolve() in (target.resolve(), part.resolve()):
        raise NervesegError(f"{source.uri} is the file that the download writes: point data.uri elsewhere.")
    with alone(part) as file:
        identity = _Partial(source, file).complete(must_know_size=sha256 is None)
        digest, size = finish(part, target, source.uri, sha256)
    return {
        "uri": identity.uri,
        "etag": identity.etag,
        "version_id": identity.version_id,
        "sha256": digest,
        "size": size,
        "last_modified": identity.last_modified,
    }


def persistently(step: Callable[[], Result], size: Callable[[], int], outlook: Callable[[], str]) -> Result:
    """Calls `step` until it succeeds, at most TRIES times in a row without getting any further, with growing pauses.

    Args:
        step: may raise TransientError, after which it is called again, or ChangedError, after which it is not.
        size: bytes that there are.
        outlook: what is said when it is given up: what is kept, and what to do.
    """
    furthest = failures = 0
    while True:
        try:
            return step()
        except ChangedError:
            raise
        except TransientError as error:
            if (here := size()) > furthest:
                furthest, failures = here, 0
            failures += 1
            if failures == TRIES:
                raise TransientError(f"{error} Gave up after {TRIES} tries; {outlook()}") from None
            pause = FIRST_PAUSE * 2 ** (failures - 1)
            say(f"{error} Trying again in {pause:g} s.")
            time.sleep(pause)


class _Partial:
    """The partial file of one download, with the identity it belongs to in a file beside it."""

    def __init__(self, source: Source, file: BinaryIO) -> None:
        self._source = source
        self._file = file
        self._belongs = _identity_file(Path(file.name))

    def complete(self, *, must_know_size: bool) -> Identity:
        """Downloads the rest, with retries; returns the identity of the whole."""
        with progress("bytes") as bar:
            task = bar.add_task(Path(self._source.uri).name, total=None)
            return persistently(lambda: self._read_on(bar, task, must_know_size), lambda: self._size, self._progress)

    def _read_on(self, bar: Progress, task: TaskID, must_know_size: bool) -> Identity:
        reply = self._open()
        size = reply.identity.size
        if size == 0:
            raise NervesegError(f"{reply.identity.uri} is empty: check data.uri.")
        if size is None and must_know_size:
            raise NervesegError(
                f"{reply.identity.uri}: the server does not say how large the file is, so a lost connection could "
                "pass for its end: set data.sha256, or download it by hand and point data.uri at the file."
            )
        self._file.truncate(reply.offset)  # first: the identity must never stand beside bytes of another object
        if reply.offset == 0:
            files.write_json(self._belongs, asdict(reply.identity))
        bar.update(task, total=size, completed=reply.offset)
        for chunk in reply.chunks:
            self._file.write(chunk)
            bar.advance(task, len(chunk))
        self._file.flush()
        if size is not None and self._size < size:
            raise TransientError(f"{reply.identity.uri}: the connection ended early.")
        if size is not None and self._size > size:
            discard(Path(self._file.name))
            raise NervesegError(
                f"{reply.identity.uri} grew from {size} bytes while it was read: run again once it is complete."
            )
        return reply.identity

    def _open(self) -> Reply:
        """Opens the source where the partial file ends, or at 0 if it belongs to another object."""
        kept = self._kept()
        if kept is None or kept.size is None:
            return self._source.open()
        # For a complete file, request the last byte again: an empty range is invalid.
        offset = min(self._size, kept.size - 1)
        try:
            reply = self._source.open(offset, kept)
        except ChangedError:
            reply = None
        if reply is not None and reply.identity == kept and reply.offset == offset:
            say(f"{kept.uri}: continues at {decimal(offset)} of {decimal(kept.size)}.")
            return reply
        why = (
            "the server has no byte ranges" if reply is not None and reply.identity == kept else "it has been replaced"
        )
        say(f"{kept.uri}: {why}, so the {decimal(self._size)} downloaded so far are discarded.")
        return self._source.open()

    def _kept(self) -> Identity | None:
        """The identity of the bytes downloaded so far; None if there is nothing to continue from."""
        if self._size == 0:
            return None
        try:
            kept = Identity(**json.loads(self._belongs.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            kept = None
        if kept is None or kept.uri != self._source.uri or not kept.resumable:
            say(f"{self._file.name} cannot be continued from {self._source.uri} and is discarded.")
            return None
        return kept

    @property
    def _size(self) -> int:
        self._file.flush()  # so that also the bytes of an incomplete chunk count
        return os.fstat(self._file.fileno()).st_size

    def _progress(self) -> str:
        kept = self._kept()
        if kept is None or kept.size is None:
            return "run again to start over."
        return f"{decimal(self._size)} of {decimal(kept.size)} are kept, run again to continue."


def partial_file(target: Path) -> Path:
    """Where a download writes until `target` is complete."""
    return target.with_name(f"{target.name}.part")


def _identity_file(part: Path) -> Path:
    """Says which object the bytes in a partial file belong to."""
    return part.with_name(f"{part.name}.json")


def discard(part: Path) -> None:
    """Removes a partial file that cannot be completed, and its identity."""
    part.unlink(missing_ok=True)
    discard_identity(part)


def discard_identity(part: Path) -> None:
    """Removes what is said of the bytes in a partial file."""
    _identity_file(part).unlink(missing_ok=True)


def finish(part: Path, target: Path, uri: str, sha256: str | None) -> tuple[str, int]:
    """Gives a complete partial file its name; returns its SHA-256 and its size in bytes.

    Raises:
        NervesegError: it is not the content that `sha256` expects, and was discarded.
    """
    digest = files.sha256(part)
    if sha256 not in (None, digest):
        discard(part)
        raise NervesegError(
            f"{uri} has SHA-256 {digest}, but data.sha256 expects {sha256}. The file was discarded: "
            "correct data.sha256, or find out who changed the file."
        )
    size = part.stat().st_size
    part.replace(target)
    discard_identity(part)  # not `part`: the next download may already own that name
    return digest, size


@contextmanager
def alone(part: Path) -> Iterator[BinaryIO]:
    """Opens a partial file for appending, which no other download has open then.

    Raises:
        NervesegError: another has, or the disk is full or not writable.
    """
    try:
        with _locked(part) as file:
            yield file
    except OSError as error:
        kept = "what was downloaded is kept"
        said = files.disk_error(error, part, kept)
        raise NervesegError(
            said or f"{part} cannot be written ({error.strerror}): fix that and run again; {kept}."
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for appending, created if missing, that no other process has locked by this function."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            mine = lock_descriptor(file.fileno(), blocking=False)
            # The other process may have finished and renamed it between our open and our lock.
            mine = mine and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            mine = False
        if not mine:
            raise NervesegError(f"Another download is writing {path}: wait for it to end, or stop it.")
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                path.unlink(missing_ok=True)


def say(text: str) -> None:
    console.print(text, soft_wrap=True)
