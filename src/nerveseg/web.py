"""What requests over HTTP and to S3 share: timeouts, headers, and how a failed connection is told without secrets."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nerveseg.errors import NervesegError

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
CHUNK = 2**20  # bytes of a body read at a time, at most
_ERROR_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def without_secrets(uri: str) -> str:
    """A URL without credentials, query (where signatures are) and fragment."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def bare_etag(header: str) -> str:
    """An ETag without its quotes; a weak one, W/"...", as it came."""
    return header if header.startswith("W/") else header.strip('"')


def content_range(header: str | None) -> tuple[int, int | None] | None:
    """First byte and whole size of a Content-Range such as `bytes 5-9/10`; None without a valid one."""
    found = _CONTENT_RANGE.fullmatch(header or "")
    return None if found is None else (int(found[1]), None if found[2] == "*" else int(found[2]))


def content_length(header: str | None) -> int | None:
    """The bytes of a body by its Content-Length; None without a valid one."""
    return int(header) if header is not None and header.isdecimal() else None


def body(raw: "HTTPResponse", *, decode: bool) -> Iterator[bytes]:
    """A body as it arrives, so that a lost connection does not take with it what came before.

    Args:
        decode: undo a Content-Encoding.

    Raises:
        urllib3.exceptions.HTTPError, OSError: the connection was lost.
    """
    while chunk := raw.read1(CHUNK, decode_content=decode):
        yield chunk


def concerns_credentials(code: str) -> bool:
    """Whether an error code of S3 is about credentials, as `ExpiredToken` is, although its status is 400."""
    return any(part in code for part in ("Token", "Expired", "AuthorizationQueryParameters"))


def error_code(content: bytes) -> str:
    """The error code in the XML that S3 and what resembles it answers; empty where there is none."""
    found = _ERROR_CODE.search(content)
    return found[1].decode() if found else ""


def tls_error(uri: str, host: str, error: Exception, variable: str) -> NervesegError:
    """The error for a certificate that is not trusted; `variable` is the environment variable that names others."""
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
