"""Errors as the user sees them."""

import errno
import subprocess
import sys

import pytest

from nerveseg.console import readable_errors

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
