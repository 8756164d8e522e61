"""Where a dataset zip comes from: S3, http(s) or a path.

A `Source` answers one kind of request, a GET from an offset. What is downloaded is known by the identity in that
same reply, so that bytes and identity can never belong to different objects.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from nerveseg import s3, web
from nerveseg.data import published
from nerveseg.errors import ChangedError, NervesegError, TransientError

_PUBLIC = "For a public bucket, set NERVESEG_S3_ANONYMOUS=true, or use its https address, which DVC reads unsigned too."
_COPY = f"This is the private address on the card of the published run; its public copy is {published.COPY}."
UNSIGNED = "The request was not signed: unset NERVESEG_S3_ANONYMOUS, unless the bucket is public."
_ERROR_BYTES = 4096  # of an error's body, in which its code is looked for


@dataclass(frozen=True)
class Identity:
    """What tells one object from another; equal if uri, etag, version id and size (bytes) are."""

    uri: str  # without credentials and query
    etag: str | None = None  # without its quotes; a weak one as it came
    version_id: str | None = None
    size: int | None = None
    last_modified: str | None = field(default=None, compare=False)

    @property
    def resumable(self) -> bool:
        """Whether equal identities mean equal bytes: a weak etag does not promise that."""
        return self.etag is not None and not self.etag.startswith("W/") and self.size is not None


@dataclass(frozen=True)
class Reply:
    """Bytes of an object from `offset` to its end."""

    identity: Identity
    offset: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """Something that can be downloaded."""

    @property
    def uri(self) -> str:
        """Its address, fit for messages and records: without credentials and query."""

    def open(self, offset: int = 0, kept: Identity | None = None) -> Reply:
        """Requests the bytes from `offset` on of the object `kept`.

        Servers may ignore either wish: compare the reply's identity and offset with them.

        Raises:
            TransientError: no connection, now or while the chunks are read; or the server has a problem.
            ChangedError: the object is no longer `kept`.
            NervesegError: trying again will not help.
        """


def open_source(uri: str, version_id: str | None = None, *, anonymous: bool = False) -> Source:
    """The source of `uri`: s3://bucket/key, https://host/path, http://host/path or a path.

    Args:
        uri: where the dataset zip lies; paths are relative to the working directory.
        version_id: one version of an S3 object; None: the latest.
        anonymous: do not sign S3 requests, for public buckets.

    Raises:
        NervesegError: the S3 profile or endpoint is invalid.
    """
    if uri.startswith("s3://"):
        return S3Source(uri, version_id, anonymous)
    if uri.startswith(("https://", "http://")):
        return HttpSource(uri)
    return FileSource(uri)


class S3Source:
    """An object on S3 or a server that speaks it."""

    def __init__(self, uri: str, version_id: str | None, anonymous: bool) -> None:
        self.uri = uri
        self._version_id = version_id
        self._anonymous = anonymous
        self._copy = f" {_COPY}" if uri == published.ON_ITS_CARD else ""
        name, _, self._key = uri.removeprefix("s3://").partition("/")
        # One try a request: transfer.download retries.
        self._bucket = s3.Bucket(name, retries=False, anonymous=anonymous, setting="data.uri")

    def open(self, offset: int = 0, kept: Identity | None = None) -> Reply:
        etag = kept.etag if offset and kept else None
        try:
            found = self._bucket.get(self._key, offset=offset, etag=etag, version_id=self._version_id)
        except TransientError:
            raise
        except s3.AccessError as error:
            raise NervesegError(f"{error} {UNSIGNED if self._anonymous else _PUBLIC}{self._copy}") from None
        except FileNotFoundError as error:
            raise NervesegError(f"{error} The address of a prefix ends with a slash.{self._copy}") from None
        except NervesegError as error:
            raise NervesegError(f"{error}{self._copy}") from None
        identity = Identity(self.uri, found.etag, found.version_id, found.size, found.last_modified)
        return Reply(identity, found.offset, found.chunks)


class HttpSource:
    """A file on a web server; it can be resumed where the server has strong etags and byte ranges."""

    def __init__(self, uri: str) -> None:
        self._url = uri
        try:
            self.uri = web.without_secrets(uri)
        except ValueError as error:
            raise NervesegError(f"data.uri is not a web address: {error}.") from None

    def open(self, offset: int = 0, kept: Identity | None = None) -> Reply:
        import requests

        # Messages use web.cause only: the text of these exceptions contains the whole URL, signature included.
        headers = {"Accept-Encoding": "identity"}
        if offset and kept:
            headers |= {"Range": f"bytes={offset}-", "If-Range": f'"{kept.etag}"'}
        try:
            reply = requests.get(
                self._url, headers=headers, stream=True, timeout=(web.CONNECT_TIMEOUT, web.READ_TIMEOUT)
            )
        except requests.exceptions.SSLError as error:
            raise web.tls_error(self.uri, "the server", error, "REQUESTS_CA_BUNDLE") from None
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise TransientError(
                f"{self.uri}: the server does not answer ({web.cause(error)}). Check data.uri."
            ) from None
        except (requests.exceptions.RequestException, ValueError) as error:
            raise NervesegError(f"{self.uri} cannot be requested ({type(error).__name__}): check data.uri.") from None
        self._check(reply, ranged=bool(offset))
        first, size = web.content_range(reply.headers.get("Content-Range")) or (0, None)
        if reply.status_code == 200 and "Content-Encoding" not in reply.headers:
            size = web.content_length(reply.headers.get("Content-Length"))
        etag = web.bare_etag(reply.headers["ETag"]) if "ETag" in reply.headers else None
        identity = Identity(self.uri, etag, None, size, reply.headers.get("Last-Modified"))
        return Reply(identity, first, self._chunks(reply))

    def _chunks(self, reply: Any) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        try:
            with reply:
                yield from web.body(reply.raw, decode=True)
        except (HTTPError, OSError) as error:
            raise TransientError(f"{self.uri}: the connection was lost ({web.cause(error)}).") from None

    def _check(self, reply: Any, *, ranged: bool) -> None:
        status = reply.status_code
        if status == 200 or (ranged and status == 206):
            return
        code = self._error_code(reply)
        said = f"{self.uri}: the server answers {status}{f' {code}' if code else ''}."
        if status == 416:
            raise ChangedError(said)
        if status >= 500 or status in (408, 429):
            raise TransientError(f"{said} It has a problem or is busy.")
        if status in (401, 403) or web.concerns_credentials(code):
            raise NervesegError(f"{said} Reading is not allowed: a signed address may have expired. Check data.uri.")
        if status in (404, 410):
            raise NervesegError(f"{said} There is no such file: check data.uri.")
        raise NervesegError(f"{said} Not a file: check data.uri.")

    @staticmethod
    def _error_code(reply: Any) -> str:
        from urllib3.exceptions import HTTPError

        try:
            return web.error_code(reply.raw.read(_ERROR_BYTES, decode_content=True))
        except (HTTPError, OSError):
            return ""  # the status says enough


class FileSource:
    """A file on this machine. It has no etag, so a copy always starts from the beginning."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.path = Path(uri)

    def open(self, offset: int = 0, kept: Identity | None = None) -> Reply:
        if self.path.is_dir():
            raise NervesegError(f"{self.uri} is a folder: data.uri must name a zip file.")
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise NervesegError(
                f"{self.uri} is missing (looked in {Path.cwd()}): put the zip there, or correct data.uri."
            ) from None
        except OSError as error:
            raise NervesegError(f"{self.uri} cannot be read ({error.strerror}): check data.uri.") from None
        state = os.fstat(file.fileno())
        modified = datetime.fromtimestamp(state.st_mtime, UTC).isoformat()
        return Reply(Identity(self.uri, size=state.st_size, last_modified=modified), 0, self._chunks(file))

    def _chunks(self, file: BinaryIO) -> Iterator[bytes]:
        with file:
            try:
                while chunk := file.read(web.CHUNK):
                    yield chunk
            except OSError as error:
                raise NervesegError(f"{self.uri} cannot be read ({error.strerror}): check the disk.") from None
