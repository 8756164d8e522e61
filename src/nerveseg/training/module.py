"""The Lightning module: network, loss, optimizer and the scores of an epoch."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from nerveseg.evaluation import metrics
from nerveseg.model import losses
from nerveseg.training.mixing import mix
from nerveseg.training.recipes import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]
MOMENTUM = 0.9  # of SGD, with Nesterov's step as in nnU-Net, whose momentum is 0.99
THRESHOLD = 0.5  # of the curve's scores: the model's own is chosen after training


class SegmentationModule(LightningModule):
    """Trains `network` on batches of normalised frames and masks, float32 (N, 1, H, W) each."""

    def __init__(self, network: torch.nn.Module, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = losses.by_name(recipe.loss)
        self._recipe = recipe
        self._seed = seed
        # Loss and areas of each batch of the epoch, kept on the device: reading them at every step would stall it.
        self._batches: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"train": [], "validation": []}

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        # A function of seed, epoch and batch. Not all in one list: batch 0 would draw the numbers of the sampler.
        seeds = np.random.SeedSequence([self._seed, self.current_epoch], spawn_key=(number,))
        mixed = mix(*batch, self._recipe.mixing, np.random.default_rng(seeds))
        loss, _logits = self._step(mixed, "train")
        return loss

    def validation_step(self, batch: Batch, _: int) -> torch.Tensor:
        """Returns the logits, float (N, 1, H, W)."""
        _loss, logits = self._step(batch, "validation")
        return logits

    def on_train_epoch_start(self) -> None:
        self._batches["train"].clear()

    def on_train_batch_start(self, _: Batch, number: int) -> None:
        # Dropout is a function of seed and epoch, like the frames: no checkpoint holds the state of torch's generator.
        # Not when the epoch starts, because loaders draw from the generator after that, in some epochs.
        if number == 0:
            seeds = np.random.SeedSequence([self._seed, self.current_epoch])
            torch.manual_seed(int(seeds.generate_state(1)[0]))

    def on_validation_epoch_start(self) -> None:
        self._batches["validation"].clear()

    def scores(self, side: str) -> dict[str, float]:
        """`SIDE_loss`, `SIDE_iou` and `SIDE_dice` of `train` or `validation`, for the epoch so far.

        Means over the frames at the network's input size; for `train`, while the network is still learning.
        """
        losses, areas = zip(*self._batches[side], strict=True)
        frames = [batch.shape[1] for batch in areas]
        counts = torch.cat(areas, dim=1).cpu().double().numpy()
        return {
            f"{side}_loss": float(np.average(torch.stack(losses).cpu().numpy(), weights=frames)),
            f"{side}_iou": float(metrics.iou(*counts).mean()),
            f"{side}_dice": float(metrics.dice(*counts).mean()),
        }

    def configure_optimizers(self) -> Any:
        recipe = self._recipe
        common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(self._groups(), momentum=MOMENTUM, nesterov=True, **common)
        else:
            optimizer = torch.optim.AdamW(self._groups(), **common)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(recipe, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of parameters: all in one, or the encoder's in a second one with its own rate."""
        if self._recipe.encoder_learning_rate == 1:
            return [{"params": list(self.network.parameters())}]
        encoder = list(self.network.encoder.parameters())  # type: ignore[union-attr]
        own = {id(parameter) for parameter in encoder}
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in own]
        rate = self._recipe.learning_rate * self._recipe.encoder_learning_rate
        return [{"params": others}, {"params": encoder, "lr": rate}]

    def _step(self, batch: Batch, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        frames, masks = batch
        logits = self.network(frames.contiguous(memory_format=torch.channels_last))
        loss: torch.Tensor = self.loss(logits, masks)
        predicted = (torch.sigmoid(logits.detach().float()) >= THRESHOLD).flatten(1)
        true = (masks >= THRESHOLD).flatten(1)
        areas = torch.stack([(predicted & true).sum(1), predicted.sum(1), true.sum(1)])
        self._batches[side].append((loss.detach(), areas))
        return loss, logits


def share_of_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The share of the learning rate that a step of the optimiser is taken with: a linear warm-up, then the schedule.

    Args:
        step: from 0.
        steps: in all.
    """
    warmup = round(steps * recipe.warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
