from pathlib import Path

import pytest

from nerveseg.data import findings
from nerveseg.data.findings import Finding


def test_table_counts_kinds_and_shows_errors_first(capsys: pytest.CaptureFixture[str]) -> None:
    many = [Finding("warning", "colour", f"1_{number}.png", "has colours") for number in range(500)]
    findings.show([*many, Finding("error", "mask values", "[/red]2_1.png", "[bold]odd")], Path("data/findings.json"))
    shown = capsys.readouterr().err
    assert "1 errors and 500 warnings" in shown
    assert shown.index("mask values") < shown.index("colour ")
    assert "[/red]2_1.png" in shown  # a name is text, not markup
    assert "data/findings.json" in shown
    assert shown.count("1_") <= 21


def test_no_findings_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    findings.show([], Path("data/findings.json"))
    assert capsys.readouterr().err == ""
