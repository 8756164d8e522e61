"""The preloaded `python` that tests start commands with behaves as the real one, which runs beside it here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from preload import VARIABLE
from workspace import wait_for

PROGRAM = """
import os, signal, sys, time
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], sys.stdin.read(), __name__)
print("to stderr", file=sys.stderr)
open("pid", "w").write(str(os.getpid()))
match sys.argv[1]:
    case "exit": sys.exit(3)
    case "say": sys.exit("a reason")
    case "raise": raise ValueError("a fault")
    case "wait": time.sleep(60)
    case "handle":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        open("ready", "w").close()
        time.sleep(60)
"""


@pytest.fixture(params=["real", "preloaded"])
def python(request: pytest.FixtureRequest) -> str:
    return sys.executable if request.param == "real" else f"{os.environ[VARIABLE]}/python"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "program.py").write_text(PROGRAM)
    return tmp_path


def begin(python: str, folder: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (python, "-m", "flows.program", what, "and more"),
        cwd=folder,
        env=os.environ | {"WORD": "hello"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("what", "status", "last"),
    [("exit", 3, "to stderr"), ("say", 1, "a reason"), ("raise", 1, "ValueError: a fault"), ("end", 0, "to stderr")],
)
def test_arguments_folder_environment_streams_and_status(
    python: str, folder: Path, what: str, status: int, last: str
) -> None:
    process = begin(python, folder, what)
    output, errors = process.communicate("some input", timeout=60)
    assert output == f"['{what}', 'and more'] {folder} hello some input __main__\n"
    assert errors.splitlines()[0] == "to stderr"
    assert errors.splitlines()[-1] == last
    assert process.returncode == status


@pytest.mark.parametrize(
    ("number", "what", "status"),
    [
        (signal.SIGTERM, "wait", -signal.SIGTERM),
        (signal.SIGTERM, "handle", 7),
        (signal.SIGKILL, "wait", -signal.SIGKILL),
    ],
)
def test_signals_reach_the_command(python: str, folder: Path, number: int, what: str, status: int) -> None:
    process = begin(python, folder, what)
    assert process.stdin is not None
    process.stdin.close()
    wait_for("its start", (folder / ("ready" if what == "handle" else "pid")).exists, process)
    pid = int((folder / "pid").read_text() or 0)
    process.send_signal(number)
    assert process.wait(60) == status
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid)
