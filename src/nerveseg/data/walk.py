"""The files of a folder that a dataset consists of."""

import os
from collections.abc import Iterator
from pathlib import Path

from nerveseg.errors import NervesegError


def is_hidden(name: str) -> bool:
    """Whether the name of a file or a folder, without those above it, is a hidden one: what systems leave behind."""
    return name == "__MACOSX" or (name[:1] == "." and name not in (".", ".."))


def entries(folder: Path) -> tuple[list[os.DirEntry[str]], int]:
    """What lies in a folder and the folders below it, but for these folders; and how many hidden ones are left out.

    Raises:
        NervesegError: a folder cannot be read.
    """
    found, hidden, waiting = [], 0, [str(folder)]
    try:
        while waiting:
            for entry in _shallow(waiting.pop()):
                if is_hidden(entry.name):
                    hidden += 1
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found.append(entry)
    except OSError as error:
        raise NervesegError(f"{error.filename} cannot be read ({error.strerror}).") from None
    return found, hidden


def _shallow(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        yield from found


def reason_to_refuse(entry: os.DirEntry[str], root: Path) -> str | None:
    """Why an entry of `entries` is no file of the folder `root`, which is resolved; None: it is one."""
    if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
        return "is a link that leads out of the folder; put the file itself there"
    if entry.is_dir():
        return "is a link to a folder; put the folder itself there"
    if not entry.is_file():
        return "is neither a file nor a folder, or a link to nothing"
    return None
