"""Runs single stages by DVC in a workspace, and says what came of it."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from nerveseg.errors import NervesegError
from nerveseg.workspace import commands

Stage = Literal["download", "split", "train", "calibrate", "evaluate", "register", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
LOCK = Path(".dvc/tmp/flow.lock")


def restore(root: Path) -> None:
    """Brings the outputs that dvc.lock names from the cache, as far as it has them: a fresh clone has none.

    `dvc repro` alone would run register there again, which DVC never restores by itself.
    """
    _succeeds(root, "checkout", "--quiet")


def up_to_date(root: Path) -> bool:
    """Whether DVC finds nothing stale from the dataset to the report."""
    return _succeeds(root, "status", "--quiet", "--with-deps", STAGES[-1])


def repro(root: Path, stage: str, *, force: bool, lock: BinaryIO, say: Callable[[str], None]) -> bool:
    """Runs `dvc repro` for one stage; returns whether the stage ran, rather than being skipped or restored.

    Args:
        root: the workspace.
        stage: one of `STAGES`. The first brings what it depends on, the phantom; the others run alone.
        force: run it even if nothing changed.
        lock: what `commands.alone_in` yielded.
        say: gets every line of output as it comes.

    Raises:
        StageError: it failed. However this function is left, no process of the stage stays behind.
    """
    options = ["--single-item"] * (stage != STAGES[0]) + ["--force"] * force
    output = commands.supervised_dvc(root, stage, ("repro", *options, stage), lock, say)
    return any(line == f"Running stage '{stage}':" for line in output)


def push(root: Path, *, lock: BinaryIO, say: Callable[[str], None]) -> None:
    """Pushes data and model to the DVC remote. Raises StageError as `repro` does."""
    commands.supervised_dvc(root, "push", ("push",), lock, say)


def _succeeds(root: Path, *arguments: str) -> bool:
    try:
        commands.dvc(root, *arguments)
    except NervesegError:
        return False
    return True
