"""What requests over HTTP and to S3 share: timeouts, headers, and how a failed connection is told without secrets."""

from urllib.parse import urlsplit

from nerveseg.errors import NervesegError

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
CHUNK = 2**20  # bytes of a body read at a time


def without_secrets(uri: str) -> str:
    """A URL without credentials, query (where signatures are) and fragment."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def bare_etag(header: str) -> str:
    """An ETag without its quotes; a weak one, W/"...", as it came."""
    return header if header.startswith("W/") else header.strip('"')


def content_range(header: str | None) -> tuple[int, int | None] | None:
    """First byte and whole size of a Content-Range such as `bytes 5-9/10`; None without one."""
    if header is None:
        return None
    span, _, size = header.removeprefix("bytes ").partition("/")
    return int(span.partition("-")[0]), int(size) if size.isdigit() else None


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
