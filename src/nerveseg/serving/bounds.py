"""What a request may cost: how much is uploaded, how many are under way, how long they take."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import HTTPException, Request
from prometheus_client import Gauge
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from nerveseg.errors import NervesegError
from nerveseg.prediction import spacing
from nerveseg.prediction.spacing import Spacing

FIELD, SPACING = "frame", "spacing_mm"
_FIELDS = 8  # beside the frame; others than SPACING are not used
_RETRY = {"Retry-After": "1"}  # seconds

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """A form that was sent.

    Attributes:
        name: of the file, as the client gives it.
        content: of the file.
        spacing: size of a pixel; None: not given.
    """

    name: str
    content: bytes
    spacing: Spacing | None


class Queue:
    """Threads that score, and a bound on the requests that are under way. Used from the event loop only."""

    def __init__(self, threads: int, most: int, gauge: Gauge) -> None:
        """`most` requests have a place, `threads` of them are worked on at once; `gauge` shows how many there are."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self._free = most
        self._gauge = gauge

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request. Raises HTTPException 429 where none is free."""
        if not self._free:
            raise HTTPException(429, "Too many frames are waiting: try again.", _RETRY)
        self._free -= 1
        self._gauge.inc()
        try:
            yield
        finally:
            self._gauge.dec()
            self._free += 1

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """The result of `work`, done in a thread.

        Raises:
            HTTPException: 503 where it has waited and run for `seconds`. What has not begun then never does.
        """
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise HTTPException(503, f"The frame was not scored within {seconds:g} s: try again.", _RETRY) from None

    def close(self) -> None:
        """Waits for the threads."""
        self._pool.shutdown()


async def read_form(request: Request, most: int, seconds: float) -> Upload:
    """What was uploaded. It stays in memory: frames of patients go to no disk.

    Args:
        most: bytes of the request's body.
        seconds: that the upload may take.

    Raises:
        HTTPException: 400 damaged, 408 too slow, 413 too large, 415 no form, 422 a form without the frame,
            or with a spacing that is none.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, f"Send the frame as multipart/form-data, in the field '{FIELD}'.")
    if int(request.headers.get("content-length", 0)) > most:  # the server has checked that it is a number
        raise _too_large(most)
    parser = MultiPartParser(request.headers, _bounded(request, most), max_files=1, max_fields=_FIELDS)
    parser.spool_max_size = most
    try:
        async with asyncio.timeout(seconds):
            form = await parser.parse()
    except TimeoutError:
        raise HTTPException(408, f"The upload took longer than {seconds:g} s.", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "The upload was cut off.") from None
    except MultiPartException as error:
        raise HTTPException(400, f"The form is damaged: {error.message}") from None
    frame = form.get(FIELD)
    if not isinstance(frame, UploadFile):
        raise HTTPException(422, f"The form lacks a file in the field '{FIELD}'.")
    return Upload(frame.filename or "", await frame.read(), _spacing(form.get(SPACING)))


def _spacing(given: UploadFile | str | None) -> Spacing | None:
    if not given:  # the page's form without scripts sends it empty
        return None
    assert isinstance(given, str)  # the frame is the only file that the parser lets pass
    try:
        return spacing.parse(given)
    except NervesegError as error:
        raise HTTPException(422, f"{SPACING}: {error}") from None


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > most:
            raise _too_large(most)
        yield chunk


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The upload is larger than {most // 2**20} MiB.")
