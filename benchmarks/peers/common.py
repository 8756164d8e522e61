"""What all sides share: the frames, the clock, the score and the file that they write.

A side is a module with `train(task, curve)`, started by `python -m benchmarks.peers.NAME TASK.npz CURVE.jsonl`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Task(NamedTuple):
    """What each side trains on and is scored on.

    Attributes:
        frames, masks: of the training, uint8 and uint8 0/1 (N, height, width).
        unseen, truths: the same of the validation.
        batch, epochs, seed: of the training.
    """

    frames: Pixels
    masks: Pixels
    unseen: Pixels
    truths: Pixels
    batch: int
    epochs: int
    seed: int

    @property
    def steps(self) -> int:
        """Batches of an epoch; an incomplete one is left out."""
        return len(self.frames) // self.batch

    def write(self, path: Path) -> None:
        np.savez(path, **self._asdict())

    @classmethod
    def read(cls, path: Path) -> "Task":
        with np.load(path) as content:
            return cls(*(content[name] if content[name].ndim else int(content[name]) for name in cls._fields))


class Curve:
    """Writes a line of JSON about the side, then one for each epoch."""

    def __init__(self, task: Task, path: Path) -> None:
        self._images = task.steps * task.batch
        self._truths = task.truths
        self._path = path
        self._seconds = 0.0
        self._epochs = 0

    def describe(self, network: torch.nn.Module, version: str, precision: str) -> None:
        """The first line. `version`: of the library; `precision`: such as fp32."""
        parameters = sum(parameter.numel() for parameter in network.parameters())
        self._write({"version": version, "parameters": parameters, "precision": precision})

    def add(self, seconds: float, masks: npt.ArrayLike) -> None:
        """An epoch. `seconds`: of its training; `masks`: predicted for the unseen frames, 0/1 (N, height, width)."""
        self.add_scored(seconds, dice(np.asarray(masks), self._truths))

    def add_scored(self, seconds: float, value: float) -> None:
        self._seconds += seconds
        self._epochs += 1
        rate = self._images / seconds
        self._write({"epoch": self._epochs, "seconds": self._seconds, "images_per_second": rate, "dice": value})

    def _write(self, row: dict[str, object]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def dice(masks: npt.NDArray[np.generic], truths: npt.NDArray[np.generic]) -> float:
    """The mean of the frames' Dice coefficients, 1 where both masks are empty. Masks 0/1 or bool (N, height, width)."""
    if masks.shape != truths.shape:
        raise ValueError(f"masks of {masks.shape} cannot be scored against {truths.shape}")
    predicted, true = (side.astype(bool).reshape(len(side), -1) for side in (masks, truths))
    both, areas = (predicted & true).sum(1), predicted.sum(1) + true.sum(1)
    return float(np.where(areas == 0, 1.0, 2 * both / np.maximum(areas, 1)).mean())


def clock() -> float:
    """Seconds; waits for what a GPU still has to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def predict(network: torch.nn.Module, frames: torch.Tensor, batch: int) -> npt.NDArray[np.bool_]:
    """Masks (N, height, width) where the logits of a network in its evaluation mode, (N, 1, ...), are positive.

    `frames`: as the network takes them, float32 (N, channels, height, width).
    """
    found = [(network(part.to(DEVICE))[:, 0] >= 0).cpu().numpy() for part in frames.split(batch)]
    return np.concatenate(found)


def main(train: Callable[[Task, Curve], None]) -> None:
    task = Task.read(Path(sys.argv[1]))
    train(task, Curve(task, Path(sys.argv[2])))
