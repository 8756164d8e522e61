"""Runs single stages with DVC in a workspace."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from nerveseg.errors import NervesegError
from nerveseg.workspace import commands

Stage = Literal["download", "split", "train", "calibrate", "evaluate", "register", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
LOCK = Path(".dvc/tmp/flow.lock")


def restore(root: Path) -> None:
    """Restores the outputs in dvc.lock from the cache, as far as it has them: a fresh clone has none.

    `dvc repro` alone would run register again there, because DVC never restores that stage by itself.
    """
    _succeeds(root, "checkout", "--quiet")


def up_to_date(root: Path) -> bool:
    """Whether DVC finds nothing stale from the dataset to the report."""
    return _succeeds(root, "status", "--quiet", "--with-deps", STAGES[-1])


def repro(root: Path, stage: str, *, force: bool, lock: BinaryIO, say: Callable[[str], None]) -> bool:
    """Runs `dvc repro` for one stage; returns whether the stage ran, rather than being skipped or restored.

    Args:
        root: the workspace.
        stage: one of `STAGES`. The first one also runs the phantom if it depends on it; the others run alone.
        force: run it even if nothing changed.
        lock: the file from `commands.alone_in`.
        say: receives every line of output as it is printed.

    Raises:
        StageError: it failed. No process of the stage is left behind, however this function ends.
    """
    options = ["--single-item"] * (stage != STAGES[0]) + ["--force"] * force
    output = commands.supervised_dvc(root, stage, ("repro", *options, stage), lock, say)
    return any(line == f"Running stage '{stage}':" for line in output)


def push(root: Path, *, lock: BinaryIO, say: Callable[[str], None]) -> None:
    """Pushes data and model to the DVC remote. Raises StageError like `repro`."""
    commands.supervised_dvc(root, "push", ("push",), lock, say)


def _succeeds(root: Path, *arguments: str) -> bool:
    try:
        commands.dvc(root, *arguments)
    except NervesegError:
        return False
    return True
