"""Runs git, DVC and supervised DVC in a workspace."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor
from rich.text import Text

from nerveseg.console import console
from nerveseg.errors import NervesegError, TransientError

FOLDS_LOCK = Path(".dvc/tmp/crossval.lock")  # held by a command that trains folds
_RWLOCK = Path(".dvc/tmp/rwlock")
_SUPERVISE = Path(__file__).with_name("supervise.py")
_STATUS = re.compile(r"exited with (-?\d+)")
# What DVC prints if the network fails before a stage has started, or during a push.
_NETWORK = re.compile(
    r"could not connect to the endpoint|connection (was )?(refused|reset|aborted|closed|timed out)|timed? ?out|"
    r"cannot connect to host|name resolution|name or service not known|network is unreachable|"
    r"server disconnected|service unavailable|slow ?down|internal error",
    re.IGNORECASE,
)


def run(root: Path, *command: str) -> str:
    """Runs a command in a workspace; returns its output.

    Raises:
        NervesegError: it failed; with the end of its output.
    """
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise NervesegError(f"`{' '.join(command)}` failed in {root}:\n" + "\n".join(said))
    return done.stdout.strip()


def dvc(root: Path, *arguments: str) -> str:
    """Runs DVC in a workspace, like `run`."""
    mend_rwlock(root)
    return run(root, sys.executable, "-m", "dvc", *arguments)


def mend_rwlock(root: Path) -> None:
    """Removes DVC's list of the files that its processes use, if DVC was killed while it wrote the list.

    DVC does not write it atomically, and cannot run any stage while it is cut off.
    """
    path = root / _RWLOCK
    if not path.exists():
        return
    with path.with_name("rwlock.lock").open("ab") as guard:  # DVC holds it while it reads and writes the list
        lock_descriptor(guard.fileno())
        try:
            json.loads(path.read_bytes())
        except FileNotFoundError:  # another process has removed it
            return
        except ValueError:
            path.unlink()


def environment(root: Path) -> dict[str, str]:
    """This process's environment, in which `python` is this interpreter and imports the workspace's own code."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(root / "src"),
    }


class StageError(Exception):
    """A stage failed; the message is the stage's own.

    Attributes:
        transient: a network or a server failed, so a retry may help.
        killed: the stage was ended by a signal, so a retry resumes it.
    """

    def __init__(self, stage: str, output: list[str], status: int) -> None:
        statuses = [int(found) for line in output for found in _STATUS.findall(line)]
        self.status = statuses[-1] if statuses else status
        said = _own_error(output)
        self.transient = self.status == TransientError.status if statuses else bool(_NETWORK.search(said))
        self.killed = self.status < 0 or 128 < self.status < 255  # 255 is DVC's status for any failure
        super().__init__(f"{stage}: {said}")


@contextmanager
def alone_in(path: Path, who: str, say: Callable[[str], None]) -> Iterator[BinaryIO]:
    """Waits until no other process holds the lock file at `path`, then holds it.

    The yielded file holds the lock. A process that inherits it holds it too: so if a run is killed, the next one waits
    until its stage has ended.

    Args:
        who: name of the other process in the message while waiting, such as "another flow run".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            say(f"{who} is using this workspace: waiting for it to end")
            lock_descriptor(file.fileno())
        yield file


def supervised_dvc(
    root: Path, name: str, arguments: tuple[str, ...], lock: BinaryIO | None, say: Callable[[str], None]
) -> list[str]:
    """Runs DVC in a workspace under `supervise.py`; returns the lines printed by DVC and its stages.

    Args:
        name: what is run, for the error message.
        lock: the file from `alone_in`, which DVC is to hold, too.
        say: receives every line of output as it is printed.

    Raises:
        StageError: it failed. No process is left behind, however this function ends.
    """
    mend_rwlock(root)
    held = () if lock is None else (lock.fileno(),)
    with supervised((sys.executable, "-m", "dvc", *arguments), root, environment(root), held) as process:
        return follow(process, name, say)


@contextmanager
def supervised(
    command: tuple[str, ...], root: Path, variables: dict[str, str], held: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Runs a command in a workspace under `supervise.py`; it has ended, with all that it started, when the block ends.

    Args:
        variables: its environment.
        held: file descriptors that it inherits.
    """
    process = subprocess.Popen(
        (sys.executable, "-P", str(_SUPERVISE), *command),
        cwd=root,
        env=variables,
        stdin=subprocess.PIPE,  # closing it, also by our death, ends the process group
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=held,
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()


def follow(process: subprocess.Popen[str], name: str, say: Callable[[str], None]) -> list[str]:
    """Waits for the end of a command of `supervised`; returns its lines. Raises StageError if it failed.

    Args:
        name, say: as for `supervised_dvc`.
    """
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line.rstrip())
        if output[-1]:
            say(output[-1])
    if status := process.wait():
        raise StageError(name, output, status)
    return output


def say(line: str) -> None:
    """Prints a line of DVC's output, dimmed."""
    if "No file hash info found" in line:  # printed by DVC for each output that a fresh clone lacks
        return
    console.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def trained(output: Sequence[str]) -> bool:
    """Whether DVC's output says that train ran, rather than being restored or skipped."""
    return any(line.startswith("Running stage 'train'") for line in output)


def _own_error(output: list[str]) -> str:
    """The error message of the stage, or else of DVC, or else the last line."""
    begins = [number for number, line in enumerate(output) if line.startswith("error: ")]
    by_dvc = [number for number, line in enumerate(output) if line.startswith("ERROR: ")]
    if begins:
        end = next((number for number in by_dvc if number > begins[-1]), len(output))
        return "\n".join(output[begins[-1] : end]).removeprefix("error: ").strip()
    if by_dvc:
        return output[by_dvc[0]].removeprefix("ERROR: ")
    return next((line for line in reversed(output) if line), "no output")


def remote(root: Path) -> str | None:
    """The name of the workspace's default DVC remote, if it has one."""
    try:
        return dvc(root, "config", "core.remote")
    except NervesegError:  # DVC fails if the option is not set
        return None
