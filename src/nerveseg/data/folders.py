"""A folder or an S3 prefix as a dataset: its files become one zip, the same bytes for the same files.

So all that comes after the download works as with a zip. What is fetched is what was listed: each object by its ETag.
"""

import csv
import io
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256 as hashed
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from zipfile import ZipFile

from rich.progress import Progress

from nerveseg import s3
from nerveseg.console import progress
from nerveseg.data import transfer, walk, zips
from nerveseg.data.sources import UNSIGNED, open_source
from nerveseg.errors import ChangedError, NervesegError, TransientError

THREADS = 8  # that fetch objects
_COLUMNS = ("name", "size", "etag", "version_id")  # of the manifest


@dataclass(frozen=True)
class Item:
    """A file of a folder, or an object.

    Attributes:
        name: relative to the folder, with forward slashes.
        size: bytes.
        etag: of an object, without its quotes.
        version_id: of an object that was fetched from a bucket with versioning.
        last_modified: ISO 8601.
    """

    name: str
    size: int
    etag: str | None = None
    version_id: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a folder at one time; equal if none was changed, added or removed.

    Attributes:
        items: sorted by name, without hidden files.
        hidden: how many files and folders are left out because their name begins with a dot.
    """

    items: list[Item]
    hidden: int = field(default=0, compare=False)


class Folder(Protocol):
    """A folder on this machine or on S3."""

    @property
    def uri(self) -> str:
        """Its address."""

    def listing(self) -> Listing:
        """Its files.

        Raises:
            TransientError: no connection.
            NervesegError: it cannot be listed, or holds what is neither a file nor a folder.
        """

    def contents(self, items: Sequence[Item], kept: Path, bar: Progress) -> Generator[tuple[Item, BinaryIO]]:
        """Each of `items` with its version, and a file that begins with its content.

        Args:
            items: of a listing.
            kept: a folder for what is fetched; what is there already, by an earlier call, is not fetched again.
            bar: counts bytes.

        Raises:
            ChangedError: a file is no longer what was listed.
            TransientError: no connection, after several tries.
            NervesegError: a file cannot be read.
        """


def is_folder(uri: str) -> bool:
    """Whether an address is that of a folder: it ends with a slash, or is the path of one. On http(s), none is."""
    if "://" in uri:
        return uri.startswith("s3://") and uri.endswith("/")
    return uri.endswith("/") or Path(uri).is_dir()


def open_folder(uri: str, *, anonymous: bool = False) -> Folder:
    """The folder of `uri`: s3://bucket/prefix/ or a path.

    Args:
        anonymous: do not sign S3 requests, for public buckets.

    Raises:
        NervesegError: the S3 profile or endpoint is invalid.
    """
    return Prefix(uri, anonymous=anonymous) if uri.startswith("s3://") else LocalFolder(uri)


def fetch(
    uri: str, target: Path, *, version_id: str | None = None, sha256: str | None = None, anonymous: bool = False
) -> tuple[dict[str, Any], list[Item]]:
    """Brings the dataset at `uri` here as the zip `target`: a zip as it is, or one of all files of a folder.

    Args:
        uri: as `data.uri`.
        target: the zip to write.
        version_id: of an S3 object; None: the latest.
        sha256: of the only zip to accept; None: any.
        anonymous: do not sign S3 requests, for public buckets.

    Returns:
        What is recorded of it, as by `transfer.download` or `download`; and the objects that it was made of, of which a
        zip is one.

    Raises:
        NervesegError: as by these.
    """
    if is_folder(uri):
        return download(open_folder(uri, anonymous=anonymous), target, sha256)
    record = transfer.download(open_source(uri, version_id, anonymous=anonymous), target, sha256)
    name = PurePosixPath(record["uri"]).name
    return record, [Item(name, record["size"], record["etag"], record["version_id"], record["last_modified"])]


def download(folder: Folder, target: Path, sha256: str | None = None) -> tuple[dict[str, Any], list[Item]]:
    """Makes the zip `target` of all files of a folder; it appears only when complete.

    Objects are kept in `target`.parts/ until then, so that a later call, even after a SIGKILL, fetches only those that
    are missing or have been replaced.

    Args:
        folder: what to download.
        target: the zip to write; its folder is created.
        sha256: of the only zip to accept, as 64 hexadecimal digits; None: any.

    Returns:
        What is recorded of it, and the files. The record has uri, etag and version_id (None), sha256 and size (bytes)
        of the zip, last_modified of the newest file, objects (how many files), objects_size (their bytes) and
        manifest_sha256 (of `manifest`).

    Raises:
        ChangedError: a file was changed, added or removed meanwhile.
        NervesegError: the folder cannot be read, has no files, or gives another zip than `sha256` expects; the disk is
            full or not writable; or another download into `target` is running.
    """
    part, kept = transfer.partial_file(target), target.with_name(f"{target.name}.parts")
    if isinstance(folder, LocalFolder) and target.resolve().is_relative_to(folder.root):
        raise NervesegError(f"{folder.uri} holds {target}, which the download writes: point data.uri elsewhere.")
    with transfer.alone(part):
        transfer.discard_identity(part)  # of another download, whose bytes are overwritten
        items = _zip(folder, part, kept)
        digest, size = transfer.finish(part, target, f"The zip of {folder.uri}", sha256)
    shutil.rmtree(kept, ignore_errors=True)
    record = {
        "uri": folder.uri,
        "etag": None,
        "version_id": None,
        "sha256": digest,
        "size": size,
        "last_modified": max(item.last_modified or "" for item in items),
        "objects": len(items),
        "objects_size": sum(item.size for item in items),
        "manifest_sha256": hashed(manifest(items).encode()).hexdigest(),
    }
    return record, items


def manifest(items: Sequence[Item]) -> str:
    """A CSV table with the columns name, size, etag and version_id."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    rows.writerows([getattr(item, column) for column in _COLUMNS] for item in items)
    return text.getvalue()


def _zip(folder: Folder, path: Path, kept: Path) -> list[Item]:
    """Writes a zip of all files of a folder, sorted by name, and returns them. It is empty after an error."""
    listing = _listed(folder)
    done = []
    try:
        with (
            ZipFile(path, "w") as archive,
            progress("bytes") as bar,
            closing(folder.contents(listing.items, kept, bar)) as contents,
        ):
            task = bar.add_task(path.name, total=sum(item.size for item in listing.items))
            for item, file in contents:
                if zips.store_from(archive, item.name, file, item.size) < item.size:
                    raise ChangedError.of(f"{folder.uri}: {item.name}")
                done.append(item)
                bar.advance(task, item.size)
        if folder.listing() != listing:
            raise ChangedError.of(folder.uri)
    except BaseException:
        os.truncate(path, 0)
        raise
    return done


def _listed(folder: Folder) -> Listing:
    listing = folder.listing()
    if not listing.items:
        hidden = f" but {listing.hidden} hidden ones" if listing.hidden else ""
        raise NervesegError(f"{folder.uri} has no files{hidden}: check data.uri.")
    wrong = next((item.name for item in listing.items if not item.name.isprintable()), None)
    if wrong is not None:
        raise NervesegError(f"{folder.uri}: the name {wrong!r} has characters that are not printable; rename the file.")
    if listing.hidden:
        transfer.say(f"{folder.uri}: {listing.hidden} hidden files or folders, such as .DS_Store, are left out.")
    return listing


class LocalFolder:
    """A folder on this machine; nothing of it is kept, because a copy is as quick as what would be kept."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.root = Path(uri).resolve()

    def listing(self) -> Listing:
        if not self.root.exists():
            raise NervesegError(
                f"{self.uri} is missing (looked in {Path.cwd()}): put the folder there, or correct data.uri."
            )
        if not self.root.is_dir():
            raise NervesegError(f"{self.uri} is a file, not a folder: leave out the slash at its end.")
        entries, hidden = walk.entries(self.root)
        items = []
        for entry in entries:
            if reason := walk.reason_to_refuse(entry, self.root):
                raise NervesegError(f"{entry.path} {reason}.")
            items.append(_described(Path(entry.path).relative_to(self.root).as_posix(), entry.stat()))
        return Listing(sorted(items, key=lambda item: item.name), hidden)

    def contents(self, items: Sequence[Item], kept: Path, bar: Progress) -> Generator[tuple[Item, BinaryIO]]:
        for item in items:
            try:
                file = (self.root / item.name).open("rb")
            except OSError as error:
                raise NervesegError(f"{error.filename} cannot be read ({error.strerror}).") from None
            with file:
                yield item, file
                if _described(item.name, os.fstat(file.fileno())) != item:
                    raise ChangedError.of(f"{self.uri}: {item.name}")


def _described(name: str, state: os.stat_result) -> Item:
    modified = datetime.fromtimestamp(state.st_mtime_ns / 1e9, UTC).isoformat()
    return Item(name, state.st_size, last_modified=modified)


class Prefix:
    """The objects of an S3 bucket whose keys begin alike."""

    def __init__(self, uri: str, *, anonymous: bool) -> None:
        self.uri = uri
        self._anonymous = anonymous
        name, _, self._prefix = uri.removeprefix("s3://").partition("/")
        # One try a request: transfer.persistently retries.
        self._bucket = s3.Bucket(name, retries=False, anonymous=anonymous, setting="data.uri")

    def listing(self) -> Listing:
        with self._allowed():
            found = transfer.persistently(
                lambda: list(self._bucket.listing(self._prefix)), lambda: 0, lambda: "run again."
            )
        items = [
            Item(listed.key.removeprefix(self._prefix), listed.size, listed.etag, last_modified=listed.last_modified)
            for listed in found
            if not listed.key.endswith("/")  # it stands for a folder
        ]
        shown = [item for item in items if not any(map(walk.is_hidden, item.name.split("/")))]
        return Listing(sorted(shown, key=lambda item: item.name), hidden=len(items) - len(shown))

    def contents(self, items: Sequence[Item], kept: Path, bar: Progress) -> Generator[tuple[Item, BinaryIO]]:
        places = [kept / self._kept_as(item) for item in items]
        self._fetch(dict(zip(places, items, strict=True)), kept, bar)
        for item, place in zip(items, places, strict=True):
            with place.open("rb") as file:
                file.seek(item.size)
                version = file.read().decode()
                file.seek(0)
                yield replace(item, version_id=version or None), file

    def _kept_as(self, item: Item) -> str:
        return hashed(f"{self.uri} {item.name} {item.size} {item.etag}".encode()).hexdigest()

    def _fetch(self, wanted: dict[Path, Item], kept: Path, bar: Progress) -> None:
        """Fetches what is not kept yet, several objects at a time, and removes what is kept but not wanted."""
        kept.mkdir(parents=True, exist_ok=True)
        there = set(kept.iterdir())
        for other in there - set(wanted):
            other.unlink()
        missing = {place: item for place, item in wanted.items() if place not in there}
        if len(missing) < len(wanted):
            here = len(wanted) - len(missing)
            transfer.say(f"{self.uri}: continues; {here} of {len(wanted)} objects are here already.")
        task = bar.add_task(self.uri, total=sum(item.size for item in missing.values()))
        with ThreadPoolExecutor(THREADS) as pool:
            fetches = [
                pool.submit(self._fetch_one, item, place, lambda size: bar.advance(task, size))
                for place, item in missing.items()
            ]
            try:
                for fetch in as_completed(fetches):
                    fetch.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch_one(self, item: Item, place: Path, advance: Callable[[int], object]) -> None:
        """Writes the object and, after its bytes, its version id to `place`, which appears when complete."""
        uri, beside = f"{self.uri}{item.name}", place.with_suffix(".new")
        with beside.open("wb") as file:

            def read_on() -> str | None:
                # Of a complete object, request the last byte again: an empty range is invalid.
                file.seek(min(file.tell(), max(item.size - 1, 0)))
                with self._allowed():
                    try:
                        found = self._bucket.get(self._prefix + item.name, offset=file.tell(), etag=item.etag)
                    except FileNotFoundError:
                        raise ChangedError.of(uri) from None
                if found.etag != item.etag:
                    raise ChangedError.of(uri)
                file.seek(found.offset)
                file.truncate()
                for chunk in found.chunks:
                    file.write(chunk)
                    advance(len(chunk))
                if file.tell() != item.size:
                    raise TransientError(f"{uri}: the connection ended early.")
                return found.version_id

            version = transfer.persistently(
                read_on, file.tell, lambda: "whole objects are kept, run again to continue."
            )
            file.write((version or "").encode())
        beside.replace(place)

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        try:
            yield
        except s3.AccessError as error:
            needs = UNSIGNED if self._anonymous else "A prefix needs the permissions s3:ListBucket and s3:GetObject."
            raise NervesegError(f"{error} {needs}") from None
