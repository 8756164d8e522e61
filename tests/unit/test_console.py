"""Errors as the user sees them."""

import errno
import re
import subprocess
import sys

import pytest
from rich.table import Table

from nerveseg.console import console, progress, readable_errors
from workspace import ROOT

TEXTS = [
    "[bold]no markup[/] [/tmp/x] [a, b] [link=x]",
    "no emoji: s3://bucket/a:key:b :smile:",
    r"backslashes C:\folder\[x] at the end\ "[:-1],
    "longer than a line " * 20 + "end",
    "two lines\n  and an indent",
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_is_printed_verbatim_by_a_process_that_exits_with_1(text: str) -> None:
    program = (
        "import sys\n"
        "from nerveseg.console import readable_errors\n"
        "from nerveseg.errors import NervesegError\n"
        "with readable_errors():\n"
        "    raise NervesegError(sys.argv[1])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"error: {text}\n")


@pytest.mark.parametrize("text", TEXTS[:3])
def test_messages_tables_and_progress_show_names_verbatim(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("area [px]", title=text)
    table.add_row(text)
    console.print(text, table, sep="\n")
    with progress("frames") as bar:
        list(bar.track(range(1), description=text))
    console.rule(text)
    said = capsys.readouterr().err
    assert said.count(text) == 5
    assert "area [px]" in said


def test_nothing_that_is_printed_has_tags_of_markup() -> None:
    """They would be printed: a style comes as a rich Text."""
    files = [file for folder in ("src", "flows", "stack") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [file for file in files if re.search(r"\[/\w*\]|\[(bold|dim|red|green|yellow)", file.read_text())] == []


def test_a_full_disk_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, readable_errors():
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/dataset")
    assert ended.value.code == 1
    assert "/tmp/dataset cannot be written (No space left on device): make room" in capsys.readouterr().err


def test_other_exceptions_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), readable_errors():
        1 / 0  # noqa: B018


def test_nothing_happens_without_an_error() -> None:
    with readable_errors():
        done = True
    assert done
