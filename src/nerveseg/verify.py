"""Whether a version is what was recorded of it: what `nerveseg verify` prints and a delivery asks."""

import tempfile
from pathlib import Path

from rich.table import Table

from nerveseg import tracking
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.registry.verification import Check, failures, of_network, of_record


def check(version: str, folder: Path) -> list[Check]:
    """Checks a version: first what is recorded of it, then, if that holds, its network.

    Args:
        version: its number or an alias.
        folder: an empty folder; gets the version's files and `model.onnx`.

    Raises:
        NervesegError: the tracking server failed.
    """
    with tracking.reachable("Nothing was verified."):
        checks = of_record(tracking.connect(), version, folder)
    return checks if failures(checks) else checks + of_network(folder)


def verify(version: str) -> None:
    """Checks a version as a delivery does and prints what was found.

    Raises:
        NervesegError: it is not what was recorded of it, or the tracking server failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        checks = check(version, Path(folder))
    table = Table("check", "", "found", title=f"version {version}")
    for one in checks:
        table.add_row(one.name, "[green]passed[/]" if one.passed else "[bold red]FAILED[/]", one.found)
    console.print(table)
    if reason := failures(checks):
        raise NervesegError(f"Version {version} must not be delivered: {reason}")
