"""Where the time of a training goes, however many processes it takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from nerveseg.files import read_json, write_json

PARTS = ("imports", "start_up", "data", "training_steps", "validation", "panels", "checkpoint", "tracking")


class Timings(dict[str, float]):
    """Seconds per part and, as `total`, from start to end, of all processes of a training together.

    The parts leave out what is not worth a name, so they add up to less than the total.
    """

    def __init__(self, state: Path | None = None, begun: float | None = None) -> None:
        """
        Args:
            state: file in which a process finds what the ones before it have counted; None: there is only this one.
            begun: when this process began, in seconds since 1970; None: now.
        """
        super().__init__(dict.fromkeys((*PARTS, "total"), 0.0))
        if state is not None and state.exists():
            self.update(read_json(state))
        self._state = state
        self._former = self["total"]
        self._begun = time.time() if begun is None else begun

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the seconds that the block takes, even if it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self[part] += time.perf_counter() - begun

    def keep(self) -> None:
        """Brings the total up to date and writes everything to the state file."""
        self["total"] = self._former + time.time() - self._begun
        if self._state is not None:
            write_json(self._state, self)


class StepTimer(Callback):
    """Times Lightning's own start and the training loop: waiting for data, training steps, validation."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._mark = self._kept = 0.0

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self._timings[part] += now - self._mark
        self._mark = now
        if now - self._kept >= 1:  # a kill loses a second of the count
            self._timings.keep()
            self._kept = now

    def skip(self) -> None:
        """Leaves out the time since the last lap, because it has a part of its own."""
        self._mark = time.perf_counter()

    def setup(self, *_: Any, **__: Any) -> None:
        self.skip()

    def on_train_start(self, *_: Any) -> None:
        self._lap("start_up")

    def on_train_epoch_start(self, *_: Any) -> None:
        self.skip()

    def on_train_batch_start(self, *_: Any) -> None:
        self._lap("data")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_last_batch and torch.cuda.is_available():
            torch.cuda.synchronize()  # steps are only queued so far
        self._lap("training_steps")

    def on_validation_start(self, *_: Any) -> None:
        self.skip()

    def on_validation_end(self, *_: Any) -> None:
        self._lap("validation")
