"""Folders and S3 prefixes behind one interface, for delivered bundles, frames to predict and predicted masks."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from filelock import FileLock

from nerveseg.errors import ChangedError, NervesegError
from nerveseg.files import replacing
from nerveseg.s3 import Bucket


@dataclass(frozen=True)
class Entry:
    """A file: its name relative to the storage's root, and a stamp that changes with its content."""

    name: str
    stamp: str


class Storage(Protocol):
    """Files by name, with forward slashes. A written file appears complete or not at all.

    Every method raises NervesegError if a name leads out of the root or the storage refuses, TransientError if it
    cannot be reached.
    """

    uri: str

    def entries(self, below: str = "") -> list[Entry]:
        """All files in the folder `below`, such as "masks/", sorted by name; hidden ones (.name) are left out."""

    def read(self, name: str) -> tuple[bytes, str]:
        """Content and stamp. Raises FileNotFoundError if there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, or overwrites it."""

    def replace(self, name: str, content: bytes, stamp: str | None) -> None:
        """Writes a file only if it still has this stamp; None: only if there is none. Otherwise raises ChangedError."""

    def upload(self, name: str, path: Path) -> None:
        """Copies a file from this machine."""

    def download(self, name: str, path: Path) -> None:
        """Copies a file to this machine; `path` appears when complete. Raises FileNotFoundError if there is none."""


def leads_out(name: str) -> bool:
    """Whether a name could be that of a file outside the storage's root: it is absolute, or climbs with `..`."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _require_inside(name: str, uri: str) -> None:
    if leads_out(name):
        raise NervesegError(f"{name} is no name of a file in {uri}: it leads out of it. Rename what it belongs to.")


def open_storage(uri: str) -> Storage:
    """The storage of `uri`: s3://bucket/prefix, s3://bucket or a folder, which need not exist yet.

    Raises:
        NervesegError: another scheme, or an invalid S3 profile or endpoint.
    """
    if uri.startswith("s3://"):
        return S3Storage(uri)
    if "://" in uri:
        raise NervesegError(f"{uri} is neither s3://bucket/prefix nor a folder.")
    return FolderStorage(Path(uri))


class FolderStorage:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.uri = str(root)
        self._root = root

    def entries(self, below: str = "") -> list[Entry]:
        found = []
        with self._readable(self._root):
            for path in sorted(self._path(below).rglob("*")):
                name = path.relative_to(self._root).as_posix()
                if path.is_file() and not _is_hidden(name):
                    found.append(Entry(name, self._stamp(path)))
        return found

    def read(self, name: str) -> tuple[bytes, str]:
        path = self._path(name)
        with self._readable(path):
            stamp = self._stamp(path)
            return path.read_bytes(), stamp

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._readable(path), replacing(path) as beside:
            beside.write_bytes(content)

    def replace(self, name: str, content: bytes, stamp: str | None) -> None:
        path = self._path(name)
        with self._readable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent / f".{path.name}.lock"):
                if (self._stamp(path) if path.exists() else None) != stamp:
                    raise ChangedError.of(str(path))
                self.write(name, content)

    def upload(self, name: str, path: Path) -> None:
        target = self._path(name)
        with self._readable(target), replacing(target) as beside:
            shutil.copyfile(path, beside)

    def download(self, name: str, path: Path) -> None:
        source = self._path(name)
        with self._readable(source), replacing(path) as beside:
            shutil.copyfile(source, beside)

    def _path(self, name: str) -> Path:
        _require_inside(name, self.uri)
        return self._root / name

    @staticmethod
    def _stamp(path: Path) -> str:
        state = path.stat()
        return f"{state.st_size}-{state.st_mtime_ns}"

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise NervesegError(f"{path}: {error.strerror or error}.") from None


class S3Storage:
    """A prefix of an S3 bucket."""

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise NervesegError(f"{uri} names no bucket: use s3://bucket/prefix.")
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = Bucket(bucket)
        self._prefix = f"{prefix}/" if prefix else ""

    def entries(self, below: str = "") -> list[Entry]:
        found = []
        for key, etag in self._bucket.etags(self._key(below)):
            name = key.removeprefix(self._prefix)
            if name and not name.endswith("/") and not _is_hidden(name):
                found.append(Entry(name, etag))
        return sorted(found, key=lambda entry: entry.name)

    def read(self, name: str) -> tuple[bytes, str]:
        found = self._bucket.get(self._key(name))
        return b"".join(found.chunks), found.etag or ""

    def write(self, name: str, content: bytes) -> None:
        self._bucket.put(self._key(name), content)

    def replace(self, name: str, content: bytes, stamp: str | None) -> None:
        self._bucket.replace(self._key(name), content, stamp)

    def upload(self, name: str, path: Path) -> None:
        self._bucket.upload(self._key(name), path)

    def download(self, name: str, path: Path) -> None:
        self._bucket.download(self._key(name), path)

    def _key(self, name: str) -> str:
        _require_inside(name, self.uri)
        return self._prefix + name


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
