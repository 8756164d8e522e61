"""The one place where flows run DVC: a stage in a workspace, its output line by line, its outcome, its end."""

import fcntl
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from nerveseg import workspace
from nerveseg.errors import NervesegError, TransientError

Stage = Literal["download", "split", "train", "evaluate", "register"]
STAGES: tuple[Stage, ...] = get_args(Stage)
LOCK = Path(".dvc/tmp/flow.lock")
SUPERVISE = Path(__file__).with_name("supervise.py")

_STATUS = re.compile(r"exited with (-?\d+)")
# What DVC says itself where a network fails before a stage has started, or while it pushes.
_NETWORK = re.compile(
    r"could not connect to the endpoint|connection (was )?(refused|reset|aborted|closed|timed out)|timed? ?out|"
    r"cannot connect to host|name resolution|name or service not known|network is unreachable|"
    r"server disconnected|service unavailable|slow ?down|internal error",
    re.IGNORECASE,
)


class StageError(Exception):
    """A stage failed; the text is its own error.

    Attributes:
        transient: a network or a server failed, so that another try may help.
        killed: the stage was ended by a signal, so that another try goes on.
    """

    def __init__(self, stage: str, output: list[str], status: int) -> None:
        statuses = [int(found) for line in output for found in _STATUS.findall(line)]
        self.status = statuses[-1] if statuses else status
        said = _own_error(output)
        self.transient = self.status == TransientError.status if statuses else bool(_NETWORK.search(said))
        self.killed = self.status < 0 or 128 < self.status < 255  # 255 is DVC's own for any failure
        super().__init__(f"{stage}: {said}")


@contextmanager
def alone_in(root: Path, say: Callable[[str], None]) -> Iterator[BinaryIO]:
    """Waits until no other flow run uses the workspace, and holds it meanwhile.

    The yielded file holds the lock; a process that inherits it holds it too, so that the stage of a flow run that was
    killed has ended before the next flow run begins.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another flow run uses this workspace: waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def restore(root: Path) -> None:
    """Brings the outputs that dvc.lock names from the cache, as far as it has them: a fresh clone has none.

    `dvc repro` alone would run register there again, which DVC never restores by itself.
    """
    _succeeds(root, "checkout", "--quiet")


def up_to_date(root: Path) -> bool:
    """Whether DVC finds nothing stale from the dataset to the registration."""
    return _succeeds(root, "status", "--quiet", "--with-deps", STAGES[-1])


def repro(root: Path, stage: str, *, force: bool, lock: BinaryIO, say: Callable[[str], None]) -> bool:
    """Runs `dvc repro` for one stage; returns whether the stage ran, rather than being skipped or restored.

    Args:
        root: the workspace.
        stage: one of `STAGES`. The first brings what it depends on, the phantom; the others run alone.
        force: run it even if nothing changed.
        lock: what `alone_in` yielded.
        say: gets every line of output as it comes.

    Raises:
        StageError: it failed. However this function is left, no process of the stage stays behind.
    """
    options = ["--single-item"] * (stage != STAGES[0]) + ["--force"] * force
    output = _run(root, stage, ("repro", *options, stage), lock, say)
    return any(line == f"Running stage '{stage}':" for line in output)


def push(root: Path, *, lock: BinaryIO, say: Callable[[str], None]) -> None:
    """Pushes data and model to the DVC remote. Raises StageError as `repro` does."""
    _run(root, "push", ("push",), lock, say)


def _succeeds(root: Path, *arguments: str) -> bool:
    try:
        workspace.dvc(root, *arguments)
    except NervesegError:
        return False
    return True


def _run(root: Path, name: str, arguments: tuple[str, ...], lock: BinaryIO, say: Callable[[str], None]) -> list[str]:
    process = subprocess.Popen(
        (sys.executable, str(SUPERVISE), sys.executable, "-m", "dvc", *arguments),
        cwd=root,
        env=workspace.environment(root),
        stdin=subprocess.PIPE,  # whose end, also by our death, ends the process group
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = []
    try:
        for line in process.stdout:
            output.append(line.rstrip())
            if output[-1]:
                say(output[-1])
        status = process.wait()
    finally:
        process.stdin.close()
        process.wait()
    if status:
        raise StageError(name, output, status)
    return output


def _own_error(output: list[str]) -> str:
    """What the stage said of its failure, else what DVC said, else the last line."""
    begins = [number for number, line in enumerate(output) if line.startswith("error: ")]
    by_dvc = [number for number, line in enumerate(output) if line.startswith("ERROR: ")]
    if begins:
        end = next((number for number in by_dvc if number > begins[-1]), len(output))
        return "\n".join(output[begins[-1] : end]).removeprefix("error: ").strip()
    if by_dvc:
        return output[by_dvc[0]].removeprefix("ERROR: ")
    return next((line for line in reversed(output) if line), "it said nothing")
