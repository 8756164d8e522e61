"""Findings of the dataset checks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from nerveseg.console import console

_EXAMPLES = 3  # of each kind


@dataclass(frozen=True)
class Finding:
    """One problem with a frame: an error, which rejects the dataset or sets the frame aside, or a warning.

    Attributes:
        kind: a few fixed words, such as "missing mask".
        image: file name of the frame; if several are concerned, their folder or the table that lists them.
    """

    severity: Literal["error", "warning"]
    kind: str
    image: str
    detail: str


def errors(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that are errors."""
    return [finding for finding in findings if finding.severity == "error"]


def count(findings: Sequence[Finding], severity: str) -> int:
    """The number of findings with this severity."""
    return sum(finding.severity == severity for finding in findings)


def counted(findings: Sequence[Finding], severity: str) -> str:
    """`1 error`, `2 warnings`."""
    number = count(findings, severity)
    return f"{number} {severity}{'' if number == 1 else 's'}"


def show(findings: Sequence[Finding], everything_in: Path) -> None:
    """Prints a table of the kinds of findings, errors first, then by frequency: each with its count and examples."""
    if not findings:
        return
    kinds = Counter((finding.severity, finding.kind) for finding in findings)
    table = Table(
        title=f"The dataset has {counted(findings, 'error')} and {counted(findings, 'warning')}",
        caption=f"full list: {everything_in}",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("severity", "kind", "count", "image", "detail"):
        table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for severity, kind in sorted(kinds, key=lambda each: (each[0], -kinds[each], each[1])):  # "error" < "warning"
        same = [finding for finding in findings if (finding.severity, finding.kind) == (severity, kind)]
        for number, finding in enumerate(same[:_EXAMPLES]):
            head = (severity, kind, str(len(same))) if number == 0 else ("", "", "")
            table.add_row(*head, finding.image, finding.detail)
    console.print(table)
