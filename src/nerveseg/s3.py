"""S3 in one place: the client, reads and writes, conditional ones too, and what its errors mean.

Credentials, profile, region and endpoint come from boto3's own chain (AWS_PROFILE, AWS_ENDPOINT_URL and so on). boto3
is imported by the first `Bucket` only, so that a process without S3 starts faster.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerveseg import web
from nerveseg.errors import ChangedError, NervesegError, TransientError
from nerveseg.files import replacing

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

ATTEMPTS = 5  # of a request, with growing pauses
_CONDITIONAL_WRITES = "conditional writes (If-Match and If-None-Match)"


class AccessError(NervesegError):
    """The credentials are missing or wrong, or do not allow what was asked."""


@dataclass(frozen=True)
class Object:
    """An object as one reply gives it: its bytes from `offset` to the end, and which object they belong to."""

    offset: int
    size: int | None  # bytes of the whole object; None where the endpoint does not tell
    etag: str | None  # without its quotes
    version_id: str | None
    last_modified: str | None  # ISO 8601
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class Listed:
    """An object as a listing gives it.

    Attributes:
        etag: without its quotes.
        size: bytes.
        last_modified: ISO 8601.
    """

    key: str
    etag: str
    size: int
    last_modified: str


class Bucket:
    """One bucket. Objects are named by their keys.

    Every method raises:
        AccessError: credentials are missing or wrong, or lack the permission.
        TransientError: the endpoint does not answer or has a problem; another try may succeed.
        NervesegError: trying again will not help, as with a bucket that does not exist.
    """

    def __init__(
        self, name: str, *, retries: bool = True, anonymous: bool = False, setting: str = "the address"
    ) -> None:
        """Creates the client; sends nothing yet.

        Args:
            name: of the bucket.
            retries: send a request up to ATTEMPTS times; False: once.
            anonymous: requests without a signature, for public buckets.
            setting: where the user set the bucket and keys, for messages: "Check the key in SETTING."

        Raises:
            NervesegError: the profile or the endpoint is invalid.
        """
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.name = name
        self._setting = setting
        config = Config(
            connect_timeout=web.CONNECT_TIMEOUT,
            read_timeout=web.READ_TIMEOUT,
            retries={"total_max_attempts": ATTEMPTS if retries else 1, "mode": "standard"},
            response_checksum_validation="when_required",  # covers whole bodies only, and those of ranges are not
            signature_version=UNSIGNED if anonymous else None,
        )
        try:
            self._client = boto3.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint without http://
            raise NervesegError(
                f"{self.uri()}: cannot create the S3 client: {error}. Check AWS_PROFILE and AWS_ENDPOINT_URL."
            ) from None
        self._endpoint = web.without_secrets(self._client.meta.endpoint_url)

    def uri(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}".rstrip("/")

    def create(self) -> None:
        """Creates the bucket if there is none, and turns versioning on."""
        with self._errors(self.uri(), needs="bucket versioning"):
            if self.name not in (one["Name"] for one in self._client.list_buckets()["Buckets"]):
                region = self._client.meta.region_name  # AWS wants every region but its first one named
                place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
                self._client.create_bucket(Bucket=self.name, **place)
            self._client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def listing(self, prefix: str = "") -> Iterator[Listed]:
        """Every object whose key begins with `prefix`."""
        with self._errors(self.uri(prefix)):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for item in page.get("Contents", []):
                    etag, modified = web.bare_etag(item["ETag"]), item["LastModified"].isoformat()
                    yield Listed(item["Key"], etag, item["Size"], modified)

    def etags(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Key and ETag, without its quotes, of every object whose key begins with `prefix`."""
        return ((found.key, found.etag) for found in self.listing(prefix))

    def get(self, key: str, *, offset: int = 0, etag: str | None = None, version_id: str | None = None) -> Object:
        """Requests an object, or its bytes from `offset` on.

        Args:
            etag: the only one to accept; None: any.
            version_id: one version of the object; None: the latest.

        Raises:
            ChangedError: the object has another ETag, or ends before `offset`.
            FileNotFoundError: there is no such object.
            TransientError: also while the chunks are read, when the connection is lost.
        """
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        wanted |= {"IfMatch": f'"{etag}"'} if etag else {}
        wanted |= {"VersionId": version_id} if version_id else {}
        with self._errors(self.uri(key), version_id=version_id):
            reply = self._client.get_object(Bucket=self.name, Key=key, **wanted)
        first, size = web.content_range(reply.get("ContentRange")) or (0, reply.get("ContentLength"))
        modified = reply["LastModified"].isoformat() if "LastModified" in reply else None
        etag = web.bare_etag(reply["ETag"]) if "ETag" in reply else None
        return Object(first, size, etag, reply.get("VersionId"), modified, self._chunks(key, reply))

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, or overwrites it."""
        with self._errors(self.uri(key)):
            self._client.put_object(Bucket=self.name, Key=key, Body=content)

    def replace(self, key: str, content: bytes, etag: str | None) -> None:
        """Writes an object only if it still has this ETag; None: only if there is none.

        Raises:
            ChangedError: it has another, or there is one.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}
        try:
            with self._errors(self.uri(key), needs=_CONDITIONAL_WRITES):
                self._client.put_object(Bucket=self.name, Key=key, Body=content, **condition)
        except FileNotFoundError:  # it was there when its ETag was read
            raise ChangedError.of(self.uri(key)) from None

    def upload(self, key: str, path: Path) -> None:
        """Writes an object from a file, in parts where it is large."""
        with self._errors(self.uri(key)):
            self._client.upload_file(str(path), self.name, key)

    def download(self, key: str, path: Path) -> None:
        """Writes a file from an object, in parallel ranges; `path` appears when complete.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with self._errors(self.uri(key)), replacing(path) as beside:
            self._client.download_file(self.name, key, str(beside))

    def _chunks(self, key: str, reply: dict[str, Any]) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        missing = reply.get("ContentLength", 0)
        try:
            with reply["Body"] as raw:  # botocore's `iter_chunks` loses what came of a chunk before a cut
                for chunk in web.body(raw, decode=False):
                    missing -= len(chunk)
                    yield chunk
        except (HTTPError, OSError) as error:
            raise TransientError(f"{self.uri(key)}: the connection was lost ({web.cause(error)}).") from None
        if missing > 0:
            raise TransientError(f"{self.uri(key)}: the connection ended early.")

    @contextmanager
    def _errors(self, what: str, *, version_id: str | None = None, needs: str = "") -> Iterator[None]:
        """Translates boto3's errors into ours. `needs`: what this request needs that some endpoints lack."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions
        from urllib3.exceptions import HTTPError

        try:
            yield
        except exceptions.ClientError as error:
            raise self._refusal(what, error, version_id, needs) from None
        except Boto3Error as error:  # the transfer manager's, around the client's
            if isinstance(error.__context__, exceptions.ClientError):
                raise self._refusal(what, error.__context__, version_id, needs) from None
            raise TransientError(f"{what}: the connection was lost ({web.cause(error)}).") from None
        except exceptions.SSLError as error:
            raise web.tls_error(what, self._endpoint, error, "AWS_CA_BUNDLE") from None
        except (
            exceptions.ConnectionError,
            exceptions.HTTPClientError,
            exceptions.IncompleteReadError,
            HTTPError,
        ) as error:
            raise TransientError(
                f"{what}: the endpoint {self._endpoint} does not answer ({web.cause(error)}). "
                "AWS_ENDPOINT_URL names another one."
            ) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise AccessError(
                f"{what}: {error}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        except exceptions.BotoCoreError as error:
            raise NervesegError(
                f"{what}: {error}. Check {self._setting}, AWS_PROFILE and your AWS configuration."
            ) from None
        except OSError as error:  # of the file on this machine
            raise NervesegError(f"{what}: {error}.") from None

    def _refusal(self, what: str, error: "ClientError", version_id: str | None, needs: str) -> Exception:
        code = error.response["Error"].get("Code", "")
        message = error.response["Error"].get("Message", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        said = f"{what}: {self._endpoint} says {code} ({message})."
        if code.startswith("BucketAlready"):  # somebody else's: it is not in our list
            return NervesegError(f"{said} The name is taken: choose another for the bucket.")
        if status in (409, 412, 416):
            return ChangedError.of(what)
        if status == 501 and needs:
            return NervesegError(f"{said} This endpoint lacks {needs}: use another.")
        if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
            return TransientError(said)
        if code == "NoSuchBucket":
            return NervesegError(f"{said} Check the bucket in {self._setting}, and AWS_ENDPOINT_URL.")
        if version_id and (status in (404, 405) or (status == 400 and "version" in message.lower())):
            return NervesegError(
                f"{said} There is no version {version_id} to read: check data.version_id, or set it to null."
            )
        if status == 404:
            return FileNotFoundError(f"{said} Check the key in {self._setting}.")
        if status in (401, 403) or web.concerns_credentials(code):
            return AccessError(
                f"{said} Missing or wrong credentials, or expired ones, no permission, or no such object: check "
                f"AWS_PROFILE or AWS_ACCESS_KEY_ID, and {self._setting}."
            )
        return NervesegError(f"{said} Check {self._setting}, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION.")
