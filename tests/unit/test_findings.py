from pathlib import Path

import pytest

from nerveseg.data import findings
from nerveseg.data.findings import Finding


def test_table_counts_kinds_and_shows_errors_first(capsys: pytest.CaptureFixture[str]) -> None:
    many = [Finding("warning", "colour", f"1_{number}.png", "has colours") for number in range(500)]
    findings.show([*many, Finding("error", "mask values", "[/red]2_1.png", "[bold]odd")], Path("data/findings.json"))
    shown = capsys.readouterr().err
    assert "1 error and 500 warnings" in shown
    assert shown.index("mask values") < shown.index("colour ")
    assert "[/red]2_1.png" in shown  # a name is text, not markup
    assert "data/findings.json" in shown
    assert shown.count(" 1_") == 3


def test_kinds_are_ordered_by_severity_then_frequency(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [("warning", "colour", 9), ("error", "fold", 1), ("error", "run lengths", 2), ("warning", "blank frame", 1)]
    findings.show(
        [Finding(severity, kind, "1_1.png", "") for severity, kind, count in kinds for _ in range(count)],
        Path("f.json"),
    )
    shown = capsys.readouterr().err
    places = [shown.index(kind) for kind in ("run lengths", "fold", "colour", "blank frame")]
    assert places == sorted(places)


def test_no_findings_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    findings.show([], Path("data/findings.json"))
    assert capsys.readouterr().err == ""
