"""One download of a source, which continues after an interruption."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor
from rich.filesize import decimal
from rich.progress import Progress, TaskID

from nerveseg import files
from nerveseg.console import console, progress
from nerveseg.data.sources import FileSource, Identity, Reply, Source
from nerveseg.errors import ChangedError, NervesegError, TransientError

TRIES = 5  # in a row without getting any further
FIRST_PAUSE = 0.5  # seconds before the second try; doubles with every further one


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
    part = target.with_name(f"{target.name}.part")
    if isinstance(source, FileSource) and source.path.resolve() in (target.resolve(), part.resolve()):
        raise NervesegError(f"{source.uri} is the file that the download writes: point data.uri elsewhere.")
    try:
        with _locked(part) as file:
            belongs = part.with_name(f"{part.name}.json")
            partial = _Partial(source, file, belongs)
            identity = partial.complete(must_know_size=sha256 is None)
            digest = files.sha256(part)
            if sha256 not in (None, digest):
                partial.remove()
                raise NervesegError(
                    f"{source.uri} has SHA-256 {digest}, but data.sha256 expects {sha256}. The file was discarded: "
                    "correct data.sha256, or find out who changed the file."
                )
            size = part.stat().st_size
            part.replace(target)
            belongs.unlink(missing_ok=True)  # not `part`: the next download may already own that name
    except OSError as error:
        kept = "what was downloaded is kept"
        said = files.disk_error(error, part, kept)
        raise NervesegError(
            said or f"{part} cannot be written ({error.strerror}): fix that and run again; {kept}."
        ) from None
    return {
        "uri": identity.uri,
        "etag": identity.etag,
        "version_id": identity.version_id,
        "sha256": digest,
        "size": size,
        "last_modified": identity.last_modified,
    }


class _Partial:
    """The partial file of one download, with the identity it belongs to in a file beside it."""

    def __init__(self, source: Source, file: BinaryIO, belongs: Path) -> None:
        self._source = source
        self._file = file
        self._belongs = belongs

    def complete(self, *, must_know_size: bool) -> Identity:
        """Downloads the rest, with retries; returns the identity of the whole."""
        furthest = failures = 0
        with progress("bytes") as bar:
            task = bar.add_task(Path(self._source.uri).name, total=None)
            while True:
                try:
                    return self._read_on(bar, task, must_know_size)
                except TransientError as error:
                    if self._size > furthest:
                        furthest, failures = self._size, 0
                    failures += 1
                    if failures == TRIES:
                        raise TransientError(f"{error} Gave up after {TRIES} tries; {self._progress()}") from None
                    pause = FIRST_PAUSE * 2 ** (failures - 1)
                    _say(f"{error} Trying again in {pause:g} s.")
                    time.sleep(pause)

    def remove(self) -> None:
        """Removes the partial file, which cannot be completed, and its identity."""
        Path(self._file.name).unlink(missing_ok=True)
        self._belongs.unlink(missing_ok=True)

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
            self.remove()
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
            _say(f"{kept.uri}: continues at {decimal(offset)} of {decimal(kept.size)}.")
            return reply
        why = (
            "the server has no byte ranges" if reply is not None and reply.identity == kept else "it has been replaced"
        )
        _say(f"{kept.uri}: {why}, so the {decimal(self._size)} downloaded so far are discarded.")
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
            _say(f"{self._file.name} cannot be continued from {self._source.uri} and is discarded.")
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


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)
