"""What `nerveseg verify` prints."""

import tempfile
from pathlib import Path

from rich.table import Table

from nerveseg import tracking
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.registry.verification import failures
from nerveseg.registry.verification import verify as check


def verify(version: str) -> None:
    """Checks a version as a delivery does and prints what was found.

    Raises:
        NervesegError: it is not what was recorded of it, or the tracking server failed.
    """
    with tempfile.TemporaryDirectory() as folder, tracking.reachable("Nothing was verified."):
        checks = check(tracking.connect(), version, Path(folder))
    table = Table("check", "", "found", title=f"version {version}")
    for one in checks:
        table.add_row(one.name, "[green]passed[/]" if one.passed else "[bold red]FAILED[/]", one.found)
    console.print(table)
    if reason := failures(checks):
        raise NervesegError(f"Version {version} must not be delivered: {reason}")
