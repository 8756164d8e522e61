"""Where the time of a training goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback

PARTS = ("start_up", "data", "training_steps", "validation", "checkpoint", "tracking")


class Timings(dict[str, float]):
    """Seconds per part, 0 at first."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the seconds that the block takes, even if it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self[part] += time.perf_counter() - begun


class StepTimer(Callback):
    """Times the training loop: waiting for data, training steps, validation."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._mark = 0.0

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self._timings[part] += now - self._mark
        self._mark = now

    def on_train_epoch_start(self, *_: Any) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self._lap("data")

    def on_train_batch_end(self, *_: Any) -> None:
        self._lap("training_steps")

    def on_validation_start(self, *_: Any) -> None:
        self._mark = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self._lap("validation")
