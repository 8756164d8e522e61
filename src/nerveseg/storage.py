"""Folders and S3 prefixes behind one interface: where bundles are delivered, and frames come from and masks go to."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nerveseg.data.sources import cause, s3_client, tls_error, without_secrets
from nerveseg.errors import NervesegError, TransientError
from nerveseg.files import replacing

ATTEMPTS = 5  # of an S3 request, with growing pauses


class ChangedError(TransientError):
    """A file is no longer what the caller read: somebody else wrote it meanwhile."""


@dataclass(frozen=True)
class Entry:
    """A file by its name below the storage's root, and a stamp that changes with its content."""

    name: str
    stamp: str


class Storage(Protocol):
    """Files by name. Names have forward slashes; a write shows whole or not at all.

    Every method raises NervesegError where the storage refuses, TransientError where it cannot be reached.
    """

    uri: str

    def entries(self, below: str = "") -> list[Entry]:
        """All files whose names begin with `below`, which ends with a slash; sorted, hidden ones (.name) left out."""

    def read(self, name: str) -> tuple[bytes, str]:
        """Content and stamp. Raises FileNotFoundError where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, in the place of a former one."""

    def replace(self, name: str, content: bytes, stamp: str | None) -> None:
        """Writes a file only if it still has this stamp; None: only if there is none. Else raises ChangedError."""

    def upload(self, name: str, path: Path) -> None:
        """Writes a file from one on this machine."""

    def download(self, name: str, path: Path) -> None:
        """Brings a file to this machine; `path` appears when whole. Raises FileNotFoundError where there is none."""


def open_storage(uri: str) -> Storage:
    """The storage of `uri`: s3://bucket/prefix, s3://bucket or a folder, which need not exist yet.

    Raises:
        NervesegError: another scheme, or a misconfigured S3 client.
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
            for path in sorted((self._root / below).rglob("*")):
                name = path.relative_to(self._root).as_posix()
                if path.is_file() and not _is_hidden(name):
                    found.append(Entry(name, self._stamp(path)))
        return found

    def read(self, name: str) -> tuple[bytes, str]:
        path = self._root / name
        with self._readable(path):
            stamp = self._stamp(path)
            return path.read_bytes(), stamp

    def write(self, name: str, content: bytes) -> None:
        with self._readable(self._root / name), replacing(self._root / name) as beside:
            beside.write_bytes(content)

    def replace(self, name: str, content: bytes, stamp: str | None) -> None:
        path = self._root / name
        with self._readable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with (path.parent / f".{path.name}.lock").open("w") as lock:  # also ends with its process
                fcntl.flock(lock, fcntl.LOCK_EX)
                if (self._stamp(path) if path.exists() else None) != stamp:
                    raise _changed(f"{path}")
                self.write(name, content)

    def upload(self, name: str, path: Path) -> None:
        with self._readable(self._root / name), replacing(self._root / name) as beside:
            shutil.copyfile(path, beside)

    def download(self, name: str, path: Path) -> None:
        with self._readable(self._root / name), replacing(path) as beside:
            shutil.copyfile(self._root / name, beside)

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
            raise NervesegError(f"{uri} names no bucket: s3://bucket/prefix.")
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = s3_client(uri, attempts=ATTEMPTS)
        self._endpoint = without_secrets(self._client.meta.endpoint_url)

    def entries(self, below: str = "") -> list[Entry]:
        found = []
        with self._errors(self.uri):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + below):
                for item in page.get("Contents", []):
                    name = item["Key"].removeprefix(self._prefix)
                    if name and not name.endswith("/") and not _is_hidden(name):
                        found.append(Entry(name, item["ETag"].strip('"')))
        return sorted(found, key=lambda entry: entry.name)

    def read(self, name: str) -> tuple[bytes, str]:
        with self._errors(f"{self.uri}/{name}"):
            reply = self._client.get_object(**self._object(name))
            return reply["Body"].read(), reply["ETag"].strip('"')

    def write(self, name: str, content: bytes) -> None:
        with self._errors(f"{self.uri}/{name}"):
            self._client.put_object(**self._object(name), Body=content)

    def replace(self, name: str, content: bytes, stamp: str | None) -> None:
        condition = {"IfNoneMatch": "*"} if stamp is None else {"IfMatch": f'"{stamp}"'}
        with self._errors(f"{self.uri}/{name}"):
            try:
                self._client.put_object(**self._object(name), Body=content, **condition)
            except self._client.exceptions.NoSuchKey:
                raise _changed(f"{self.uri}/{name}") from None

    def upload(self, name: str, path: Path) -> None:
        with self._errors(f"{self.uri}/{name}"):
            self._client.upload_file(str(path), *self._object(name).values())

    def download(self, name: str, path: Path) -> None:
        with self._errors(f"{self.uri}/{name}"), replacing(path) as beside:
            self._client.download_file(*self._object(name).values(), str(beside))

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
            IncompleteReadError,
            NoCredentialsError,
            SSLError,
        )
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            raise self._explain(what, error) from None
        except Boto3Error as error:  # the transfer manager's, around the client's
            raise self._explain(what, error.__context__ or error) from None
        except SSLError as error:
            raise tls_error(what, self._endpoint, error, "AWS_CA_BUNDLE") from None
        except (ConnectionError, HTTPClientError, HTTPError, IncompleteReadError) as error:
            raise TransientError(f"{what}: the endpoint {self._endpoint} does not answer ({cause(error)}).") from None
        except NoCredentialsError as error:
            raise NervesegError(
                f"{what}: {error}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        except BotoCoreError as error:
            raise NervesegError(f"{what}: {error}") from None

    def _explain(self, what: str, error: BaseException) -> Exception:
        response = getattr(error, "response", {})
        code = response.get("Error", {}).get("Code", "")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        said = f"{what}: {self._endpoint} says {code} ({response.get('Error', {}).get('Message', error)})."
        if code in ("NoSuchKey", "404"):
            return FileNotFoundError(what)
        if status in (409, 412):
            return _changed(what)
        if status == 501:  # of conditional writes
            return NervesegError(f"{said} This endpoint cannot do it: use one that knows If-Match and If-None-Match.")
        if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
            return TransientError(said)
        return NervesegError(f"{said} Check the address, AWS_ENDPOINT_URL and the credentials.")


def _changed(what: str) -> ChangedError:
    return ChangedError(f"{what} was written by another process meanwhile; run again.")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
