"""Which network a training ends with: the last, the best, or a moving average; each is in the checkpoint."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nerveseg.training.module import SegmentationModule

Row = dict[str, float]


def best_epoch(rows: Sequence[Row]) -> int:
    """The epoch, from 1, with the best validation Dice of a curve; of several, the first."""
    return int(max(rows, key=lambda row: row["validation_dice"])["epoch"])


class MovingAverage(WeightAveraging):
    """The exponential moving average of the weights and of batch normalisation's statistics.

    Validation sees it, and the training ends with it. While fewer steps are averaged than the decay reaches back, the
    decay is (1 + steps) / (10 + steps), so that a short training's average does not hold on to its first weights (as in
    TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, decay: float, device: str) -> None:
        """Args: decay: by step, in (0, 1). device: that of the training, which Lightning does not know yet at setup."""

        def average(averaged: Any, current: Any, steps: torch.Tensor | int) -> None:
            by_step = min(decay, (1 + int(steps)) / (10 + int(steps)))
            get_ema_multi_avg_fn(by_step)(averaged, current, steps)  # type: ignore[no-untyped-call]

        super().__init__(device=device, multi_avg_fn=average)


class BestWeights(Callback):
    """Keeps the weights of the epoch with the best validation Dice, in the checkpoint too.

    Comes before MovingAverage among the callbacks: that puts the current weights back when validation ends.
    """

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self._dice = -1.0

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "dice": self._dice}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights, self._dice = state_dict["weights"], state_dict["dice"]

    def on_validation_epoch_end(self, trainer: Trainer, module: SegmentationModule) -> None:  # type: ignore[override]
        dice = module.scores("validation")["validation_dice"]
        if dice > self._dice:
            self.weights, self._dice = copy.deepcopy(module.network.state_dict()), dice
