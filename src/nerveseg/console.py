"""Terminal output: one console for messages, tables and progress."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from nerveseg.errors import NervesegError
from nerveseg.files import disk_error

# Texts are printed verbatim: rich would take [px], or the brackets of a file's name, for markup. Styles come as Text.
_VERBATIM: Any = {"highlight": False, "markup": False, "emoji": False}
# Logs of `dvc repro` and CI are not terminals: there, 120 columns keep tables readable.
console = Console(stderr=True, **_VERBATIM)
if not console.is_terminal:
    console = Console(stderr=True, width=120, **_VERBATIM)


def progress(unit: str) -> Progress:
    """A progress bar that counts bytes (`unit="bytes"`) or items called `unit`. Notebooks show none."""
    counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=console.is_jupyter)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Prints a NervesegError, or that the disk is full or refuses a file, as one message and exits with its status.

    Other exceptions pass through.
    """
    try:
        yield
    except NervesegError as error:
        _show(str(error))
        raise SystemExit(error.status) from None
    except OSError as error:
        if (said := disk_error(error)) is None:
            raise
        _show(said)
        raise SystemExit(NervesegError.status) from None


def _show(message: str) -> None:
    console.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
