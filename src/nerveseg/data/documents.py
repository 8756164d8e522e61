"""Reads the JSON files of an untrusted dataset zip within a budget of memory."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from nerveseg.data.archive import Archive
from nerveseg.errors import NervesegError

MAX_BYTES = 2**30  # of what a file holds once it is read
MAX_TOTAL = 4 * MAX_BYTES  # of all files; what is kept of them takes a quarter of it at most

# At most so many bytes for each of these characters: arrays and objects; numbers; keys and texts have two of the last.
_COSTS = {b"[": 96, b"{": 240, b",": 32, b'"': 32}
_START = 2**16  # bytes
_MOST = 1000  # files


def candidates(archive: Archive) -> list[str]:
    """The JSON files that may list the images of a dataset; none if there are more than 1000, as of one image each."""
    names = [name for name in archive.names if name.lower().endswith(".json")]
    return names if len(names) <= _MOST else []


def start(archive: Archive, name: str) -> str:
    """The first 64 KiB of a JSON file, without spaces before them; empty if they are damaged."""
    try:
        with archive.open(name) as file:
            return file.read(_START).decode("utf-8-sig", errors="ignore").lstrip()
    except ValueError:
        return ""


def read(archive: Archive, names: Iterable[str], convert: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[str, Any]]:
    """The names and contents of JSON files, one after the other.

    Args:
        archive: the zip.
        names: the files.
        convert: what becomes of each object; it can replace long lists by something smaller.

    Raises:
        NervesegError: a file is damaged or no JSON in UTF-8, or takes more than 1 GiB once it is read, or all of them
            more than 4 GiB.
    """
    total = 0
    for name in names:
        try:
            content = archive.read(name)
            cost = len(content) + sum(content.count(mark) * each for mark, each in _COSTS.items())
            total += cost
            if cost > MAX_BYTES or total > MAX_TOTAL:
                raise ValueError(
                    f"it takes up to {cost} bytes of memory; the limit is {MAX_BYTES}, and {MAX_TOTAL} for all JSON "
                    "files together; divide it into several files, or the dataset"
                )
            text = content.decode("utf-8-sig")
            del content  # not beside what it becomes
            document = json.loads(text, object_hook=convert, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise NervesegError(f"{name} in {archive.path} cannot be read: {error}") from None
        yield name, document


def first_problem(error: ValidationError) -> str:
    """Where a document is not as it should be, and why."""
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _refuse(constant: str) -> float:
    raise ValueError(f"it contains {constant}, which is no number")
