"""Where a dataset zip comes from: S3, http(s) or a path; and one download that continues after an interruption.

A `Source` answers one kind of request, a GET from an offset. What is downloaded is known by the identity in that
same reply, so that bytes and identity can never belong to different objects.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from rich.filesize import decimal
from rich.progress import Progress, TaskID

from nerveseg import files
from nerveseg.console import console, progress
from nerveseg.errors import NervesegError, TransientError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CHUNK = 2**20  # bytes
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
TRIES = 5  # in a row without getting any further
_PUBLIC = "for a public bucket set NERVESEG_S3_ANONYMOUS=true, or give its https address, which DVC reads unsigned too"
FIRST_PAUSE = 0.5  # seconds before the second try; doubles with every further one


class ReplacedError(NervesegError):
    """The source no longer holds what the partial file belongs to."""


@dataclass(frozen=True)
class Identity:
    """What tells one object from another. Two are equal if uri, etag, version id and size (bytes) are."""

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
        """Asks for the bytes from `offset` on of the object `kept`; whether they are that, the reply tells.

        Raises:
            TransientError: no connection, now or while the chunks are read; or a server in trouble.
            ReplacedError: the object is no longer `kept`.
            NervesegError: what no further try can mend.
        """


def open_source(uri: str, version_id: str | None = None, *, anonymous: bool = False) -> Source:
    """The source of `uri`: s3://bucket/key, https://host/path, http://host/path or a path.

    Args:
        uri: where the dataset zip lies; paths are relative to the working directory.
        version_id: one version of an S3 object; None: the latest.
        anonymous: S3 requests without a signature, for public buckets.

    Raises:
        NervesegError: the S3 configuration (profile, endpoint) does not fit.
    """
    if uri.startswith("s3://"):
        return S3Source(uri, version_id, anonymous)
    if uri.startswith(("https://", "http://")):
        return HttpSource(uri)
    return FileSource(uri)


def s3_client(uri: str, *, attempts: int, anonymous: bool = False) -> Any:
    """A boto3 client for `uri`, s3://bucket/...; credentials, profile and endpoint come from boto3's own chain.

    Args:
        attempts: how often boto3 sends a request before it gives up.
        anonymous: requests without a signature, for public buckets.

    Raises:
        NervesegError: the configuration does not fit.
    """
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        response_checksum_validation="when_required",  # covers whole bodies only, and a download's are often ranges
        signature_version=UNSIGNED if anonymous else None,
    )
    try:
        return boto3.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint without http://
        raise NervesegError(
            f"{uri}: the S3 client does not start: {error}. Check AWS_PROFILE and AWS_ENDPOINT_URL."
        ) from None


class S3Source:
    """An object on S3 or a server that speaks it; credentials, profile and endpoint come from boto3's own chain."""

    def __init__(self, uri: str, version_id: str | None, anonymous: bool) -> None:
        self.uri = uri
        self._anonymous = anonymous
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self._request = {"Bucket": bucket, "Key": key} | ({"VersionId": version_id} if version_id else {})
        self._client = s3_client(uri, attempts=1, anonymous=anonymous)  # `download` does the retrying

    def open(self, offset: int = 0, kept: Identity | None = None) -> Reply:
        from botocore import exceptions

        resume = {"Range": f"bytes={offset}-", "IfMatch": f'"{kept.etag}"'} if offset and kept else {}
        endpoint = without_secrets(self._client.meta.endpoint_url)
        try:
            reply = self._client.get_object(**self._request, **resume)
        except exceptions.ClientError as error:
            raise self._explain(error) from None
        except exceptions.SSLError as error:
            raise tls_error(self.uri, endpoint, error, "AWS_CA_BUNDLE") from None
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise TransientError(
                f"{self.uri}: the endpoint {endpoint} does not answer ({cause(error)}). "
                "AWS_ENDPOINT_URL names another one."
            ) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise NervesegError(
                f"{self.uri}: {error}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {_PUBLIC}."
            ) from None
        except exceptions.BotoCoreError as error:
            raise NervesegError(f"{self.uri}: {error}. Check data.uri, AWS_PROFILE and your AWS config.") from None
        first, size = _range(reply.get("ContentRange")) or (0, reply["ContentLength"])
        modified = reply["LastModified"].isoformat() if "LastModified" in reply else None
        identity = Identity(self.uri, _etag(reply.get("ETag")), reply.get("VersionId"), size, modified)
        return Reply(identity, first, self._chunks(reply["Body"]))

    def _chunks(self, body: Any) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            yield from body.iter_chunks(CHUNK)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise TransientError(f"{self.uri}: the connection was lost ({cause(error)}).") from None

    def _explain(self, error: "ClientError") -> NervesegError:
        code = error.response["Error"].get("Code", "")
        message = error.response["Error"].get("Message", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        said = f"{self.uri}: {without_secrets(self._client.meta.endpoint_url)} says {code} ({message})."
        version = self._request.get("VersionId")
        if status in (412, 416):
            return ReplacedError(said)
        if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
            return TransientError(said)
        if code == "NoSuchBucket":
            return NervesegError(f"{said} Check the bucket in data.uri, and AWS_ENDPOINT_URL.")
        if version and (status in (404, 405) or (status == 400 and "version" in message.lower())):
            return NervesegError(f"{said} There is no version {version} to read: check data.version_id, or null it.")
        if status == 404:
            return NervesegError(f"{said} Check the key in data.uri.")
        if status == 403 and self._anonymous:
            return NervesegError(
                f"{said} The request was not signed: unset NERVESEG_S3_ANONYMOUS unless this is public."
            )
        if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
            return NervesegError(
                f"{said} The credentials in use may not read it, or it does not exist: check AWS_PROFILE or "
                f"AWS_ACCESS_KEY_ID, and data.uri; {_PUBLIC}."
            )
        return NervesegError(f"{said} Check data.uri, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION.")


class HttpSource:
    """A file on a web server; continues where the server has strong etags and byte ranges."""

    def __init__(self, uri: str) -> None:
        self._url = uri
        try:
            self.uri = without_secrets(uri)
        except ValueError as error:
            raise NervesegError(f"data.uri is not a web address: {error}.") from None

    def open(self, offset: int = 0, kept: Identity | None = None) -> Reply:
        import requests

        # Messages are made from cause alone: the text of these exceptions holds the whole URL, signature and all.
        headers = {"Accept-Encoding": "identity"}
        if offset and kept:
            headers |= {"Range": f"bytes={offset}-", "If-Range": f'"{kept.etag}"'}
        try:
            reply = requests.get(self._url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
        except requests.exceptions.SSLError as error:
            raise tls_error(self.uri, "the server", error, "REQUESTS_CA_BUNDLE") from None
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise TransientError(f"{self.uri}: the server does not answer ({cause(error)}). Check data.uri.") from None
        except (requests.exceptions.RequestException, ValueError) as error:
            raise NervesegError(f"{self.uri} cannot be asked for ({type(error).__name__}): check data.uri.") from None
        self._check(reply.status_code, ranged=bool(offset))
        first, size = _range(reply.headers.get("Content-Range")) or (0, None)
        if reply.status_code == 200 and "Content-Encoding" not in reply.headers and "Content-Length" in reply.headers:
            size = int(reply.headers["Content-Length"])
        identity = Identity(self.uri, _etag(reply.headers.get("ETag")), None, size, reply.headers.get("Last-Modified"))
        return Reply(identity, first, self._chunks(reply))

    def _chunks(self, reply: Any) -> Iterator[bytes]:
        import requests

        try:
            yield from reply.iter_content(CHUNK)
        except requests.exceptions.RequestException as error:
            raise TransientError(f"{self.uri}: the connection was lost ({cause(error)}).") from None

    def _check(self, status: int, *, ranged: bool) -> None:
        said = f"{self.uri}: the server answers {status}."
        if status == 416:
            raise ReplacedError(said)
        if status >= 500 or status in (408, 429):
            raise TransientError(f"{said} It is in trouble or busy.")
        if status in (401, 403):
            raise NervesegError(f"{said} Reading is not allowed: a signed address may have expired; check data.uri.")
        if status in (404, 410):
            raise NervesegError(f"{said} There is no such file: check data.uri.")
        if status != 200 and not (ranged and status == 206):
            raise NervesegError(f"{said} Not a file: check data.uri.")


class FileSource:
    """A file on this machine. It has no etag, so that a copy always starts anew."""

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
                while chunk := file.read(CHUNK):
                    yield chunk
            except OSError as error:
                raise NervesegError(f"{self.uri} cannot be read ({error.strerror}): check the disk.") from None


def download(source: Source, target: Path, sha256: str | None = None) -> dict[str, Any]:
    """Brings `source` to `target`, which appears only when whole.

    Bytes gather in `target`.part, and `target`.part.json says what they belong to. A later call, even after a
    SIGKILL, continues there as long as the source still holds the same object; otherwise it starts anew and says
    so, also when the object is replaced between two tries of one call. A lost connection is tried again, TRIES times
    in a row without getting any further.

    Args:
        source: what to download.
        target: where to; its folder is made.
        sha256: the only content to accept, 64 hexadecimal digits; None: any.

    Returns:
        uri, etag, version_id, sha256, size (bytes) and last_modified of what arrived; None where the source knows none.

    Raises:
        NervesegError: the source cannot be read, is empty, is the target itself or has another checksum; the disk
            cannot take it; or another download into `target` is running.
    """
    part = target.with_name(f"{target.name}.part")
    if isinstance(source, FileSource) and source.path.resolve() in (target.resolve(), part.resolve()):
        raise NervesegError(f"{source.uri} is where the download itself is written: point data.uri elsewhere.")
    try:
        with _locked(part) as file:
            belongs = part.with_name(f"{part.name}.json")
            partial = _Partial(source, file, belongs)
            identity = partial.complete(must_know_size=sha256 is None)
            digest = files.sha256(part)
            if sha256 not in (None, digest):
                partial.remove()
                raise NervesegError(
                    f"{source.uri} has SHA-256 {digest}, but data.sha256 expects {sha256}. It was discarded: "
                    "correct data.sha256, or find out who changed the file."
                )
            size = part.stat().st_size
            part.replace(target)
            belongs.unlink(missing_ok=True)  # not the name `part`: the next download may already have taken it
    except OSError as error:
        hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise NervesegError(
            f"{part} cannot be written ({error.strerror}): {hint} and run again; what has arrived is kept."
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
        """Reads on until all is there, over lost connections; returns the identity of what is."""
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
                    _say(f"{error} Tries again in {pause:g} s.")
                    time.sleep(pause)

    def remove(self) -> None:
        """Removes the partial file, which can never become right, and the one beside it."""
        Path(self._file.name).unlink(missing_ok=True)
        self._belongs.unlink(missing_ok=True)

    def _read_on(self, bar: Progress, task: TaskID, must_know_size: bool) -> Identity:
        reply = self._open()
        size = reply.identity.size
        if size == 0:
            raise NervesegError(f"{reply.identity.uri} is empty: check data.uri.")
        if size is None and must_know_size:
            raise NervesegError(
                f"{reply.identity.uri}: the server does not tell the size, so that a cut could pass for the end: set "
                "data.sha256, or download it by hand and point data.uri at the file."
            )
        self._file.truncate(reply.offset)  # before the identity: no moment pairs it with bytes of another object
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
                f"{reply.identity.uri} grew from {size} bytes while it was read: let it settle, run again."
            )
        return reply.identity

    def _open(self) -> Reply:
        """Opens the source where the partial file ends, or at 0 if the two no longer belong together."""
        kept = self._kept()
        if kept is None or kept.size is None:
            return self._source.open()
        # Of a complete file, the last byte is asked for again: there is no range of no bytes.
        offset = min(self._size, kept.size - 1)
        try:
            reply = self._source.open(offset, kept)
        except ReplacedError:
            reply = None
        if reply is not None and reply.identity == kept and reply.offset == offset:
            _say(f"{kept.uri}: continues at {decimal(offset)} of {decimal(kept.size)}.")
            return reply
        why = (
            "the server has no byte ranges" if reply is not None and reply.identity == kept else "it has been replaced"
        )
        _say(f"{kept.uri}: {why}, so the {decimal(self._size)} that are here are discarded.")
        return self._source.open()

    def _kept(self) -> Identity | None:
        """The identity that the bytes here belong to; None if there is nothing to continue from."""
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
        return os.fstat(self._file.fileno()).st_size

    def _progress(self) -> str:
        kept = self._kept()
        if kept is None or kept.size is None:
            return "run again to start anew."
        return f"{decimal(self._size)} of {decimal(kept.size)} are kept, run again to continue."


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to append to, made if missing, that no other process has open by this function."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have finished and renamed it between our open and our lock.
            mine = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise NervesegError(f"Another download is writing {path}: wait for it to end, or end it.")
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                path.unlink(missing_ok=True)


def without_secrets(uri: str) -> str:
    """A URL without credentials, query (where signatures are) and fragment."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _etag(header: str | None) -> str | None:
    return header if header is None or header.startswith("W/") else header.strip('"')


def _range(header: str | None) -> tuple[int, int | None] | None:
    """First byte and whole size of a Content-Range such as `bytes 5-9/10`; None without one."""
    if header is None:
        return None
    span, _, size = header.removeprefix("bytes ").partition("/")
    return int(span.partition("-")[0]), int(size) if size.isdigit() else None


def tls_error(uri: str, host: str, error: Exception, variable: str) -> NervesegError:
    return NervesegError(
        f"{uri}: no trusted connection to {host} ({cause(error)}). "
        f"For a private certificate authority, set {variable} to its .pem file."
    )


def cause(error: BaseException) -> str:
    """The root of a chain of exceptions in a few words, without the URLs that the outer ones quote."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return getattr(error, "verify_message", "") or error.strerror
    return type(error).__name__
