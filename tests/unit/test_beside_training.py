"""Checkpoints are written beside the training: what is written, who waits, and who hears of a failure."""

from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nerveseg.training.trainer import _BesideTraining


class Slow(TorchCheckpointIO):
    """Writes once it is allowed to."""

    def __init__(self) -> None:
        self.allowed = Event()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        assert self.allowed.wait(60)
        super().save_checkpoint(checkpoint, path, storage_options)


def test_a_checkpoint_holds_the_state_of_its_moment_and_the_next_waits_for_it(tmp_path: Path) -> None:
    slow = Slow()
    files = _BesideTraining(slow)
    state = {"weight": torch.zeros(3), "rows": [1]}
    files.save_checkpoint(state, tmp_path / "first")
    assert not (tmp_path / "first").exists(), "the training goes on"
    state["weight"] += 1
    state["rows"].append(2)
    following = Thread(target=files.save_checkpoint, args=(state, tmp_path / "second"))
    following.start()
    following.join(0.2)
    assert following.is_alive(), "at most one is pending"
    slow.allowed.set()
    following.join(60)
    files.teardown()
    first, second = (torch.load(tmp_path / name) for name in ("first", "second"))
    assert (first["weight"].tolist(), first["rows"]) == ([0, 0, 0], [1])
    assert (second["weight"].tolist(), second["rows"]) == ([1, 1, 1], [1, 2])


def test_a_failure_is_raised_at_once_or_by_whoever_waits(tmp_path: Path) -> None:
    files = _BesideTraining(TorchCheckpointIO())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):  # noqa: PT012 - either call may
        files.save_checkpoint({}, tmp_path / "file" / "checkpoint")
        files.teardown()
