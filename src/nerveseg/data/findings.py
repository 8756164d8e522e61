"""Findings of the dataset checks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from nerveseg.console import console

EXAMPLES = 3  # of each kind


@dataclass(frozen=True)
class Finding:
    """One problem with a frame: an error, which rejects the dataset, or a warning.

    Attributes:
        kind: a few fixed words, such as "missing mask".
        image: file name of the frame; if several are concerned, their folder or the table that lists them.
    """

    severity: Literal["error", "warning"]
    kind: str
    image: str
    detail: str


def count(findings: Sequence[Finding], severity: str) -> int:
    """The number of findings with this severity."""
    return sum(finding.severity == severity for finding in findings)


def counted(findings: Sequence[Finding], severity: str) -> str:
    """`1 error`, `2 warnings`."""
    number = count(findings, severity)
    return f"{number} {severity}{'' if number == 1 else 's'}"


def by_kind(findings: Sequence[Finding]) -> list[list[Finding]]:
    """The findings of each kind, errors first, then by frequency."""
    kinds = defaultdict(list)
    for finding in findings:
        kinds[finding.severity, finding.kind].append(finding)
    return [kinds[key] for key in sorted(kinds, key=lambda key: (key[0], -len(kinds[key]), key[1]))]  # error < warning


def show(findings: Sequence[Finding], everything_in: Path | None) -> None:
    """Prints a table of the kinds of findings, as `by_kind` orders them: each with its count and examples.

    Args:
        everything_in: the file that lists all of them; None: there is none.
    """
    if not findings:
        return
    table = Table(
        title=f"The dataset has {counted(findings, 'error')} and {counted(findings, 'warning')}",
        caption=f"full list: {everything_in}" if everything_in else None,
        title_justify="left",
        caption_justify="left",
    )
    for column in ("severity", "kind", "count", "image", "detail"):
        table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for same in by_kind(findings):
        for number, finding in enumerate(same[:EXAMPLES]):
            head = (finding.severity, finding.kind, str(len(same))) if number == 0 else ("", "", "")
            table.add_row(*head, finding.image, finding.detail)
    console.print(table)
