"""The Lightning module: network, loss, optimizer and the scores of an epoch."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from nerveseg.evaluation import metrics
from nerveseg.model import losses
from nerveseg.training.devices import ALONE, World
from nerveseg.training.mixing import mix
from nerveseg.training.recipes import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]
MOMENTUM = 0.9  # of SGD, with Nesterov's step as in nnU-Net, whose momentum is 0.99
THRESHOLD = 0.5  # of the curve's scores: the model's own is chosen after training


class SegmentationModule(LightningModule):
    """Trains `network` on batches of normalised frames and masks, float32 (N, 1, H, W) each.

    Of several processes, each gets its slice of a training batch, and some of the validation batches, or none.
    """

    def __init__(self, network: torch.nn.Module, recipe: Recipe, seed: int, world: World = ALONE) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._world = world
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = losses.by_name(recipe.loss)
        self._recipe = recipe
        self._seed = seed
        # Loss and areas of each batch of the epoch, kept on the device: reading them at every step would stall it.
        self._batches: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"train": [], "validation": []}
        self._restored: dict[str, Any] | None = None  # the training batches of an epoch that was cut off

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        if self._recipe.mixing != "none":
            # A function of seed, epoch and batch. Not all in one list: batch 0 would draw the numbers of the sampler.
            seeds = np.random.SeedSequence([self._seed, self.current_epoch], spawn_key=(number,))
            frames, masks = (self._world.whole(part) for part in batch)  # a frame's partner may be another process's
            frames, masks = mix(frames, masks, self._recipe.mixing, np.random.default_rng(seeds))
            batch = self._world.part(frames), self._world.part(masks)
        loss, _logits = self._step(batch, "train")
        # Each process has the gradient by way of its own slice, and Lightning takes the mean over the processes.
        return loss * self._world.size

    def validation_step(self, batch: Batch, _: int) -> torch.Tensor:
        """Returns the logits, float (N, 1, H, W)."""
        _loss, logits = self._step(batch, "validation")
        return logits

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses, areas = zip(*self._batches["train"], strict=True)
        own = torch.stack(losses).cpu(), torch.cat(areas, dim=1).cpu(), [batch.shape[1] for batch in areas]
        every_loss, every_area, frames = zip(*self._world.gather(own), strict=True)
        checkpoint["batches"] = {
            "losses": torch.cat(every_loss),
            "areas": torch.cat(every_area, dim=1),
            "frames": [count for part in frames for count in part],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._world.first:  # or they would be counted once for each process
            self._restored = checkpoint["batches"]

    def on_train_start(self) -> None:
        if self._restored is not None:  # only now is the module on its device
            areas = self._restored["areas"].to(self.device).split(self._restored["frames"], dim=1)
            self._batches["train"] = list(zip(self._restored["losses"].to(self.device), areas, strict=True))
            self._restored = None

    def on_train_epoch_start(self) -> None:  # not called where a training resumes in the midst of an epoch
        self._batches["train"].clear()

    def on_train_batch_start(self, _: Batch, number: int) -> None:
        # Dropout is a function of seed, epoch and step: no checkpoint holds the state of torch's generator, from which
        # loaders draw too, in some epochs.
        seeds = np.random.SeedSequence([self._seed, self.current_epoch, number, self._world.rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def on_validation_epoch_start(self) -> None:
        self._batches["validation"].clear()

    def scores(self, side: str) -> dict[str, float]:
        """`SIDE_loss`, `SIDE_iou` and `SIDE_dice` of `train` or `validation`, for the epoch so far.

        Means over the frames of all processes, which all must call it, at the network's input size; for `train`, while
        the network is still learning. NaN for a side without frames.
        """
        own = [(float(loss), areas.cpu().double().numpy()) for loss, areas in self._batches[side]]
        batches = [batch for part in self._world.gather(own) for batch in part]
        if not batches:
            return dict.fromkeys((f"{side}_loss", f"{side}_iou", f"{side}_dice"), math.nan)
        losses, areas = zip(*batches, strict=True)
        counts = np.concatenate(areas, axis=1)
        return {
            f"{side}_loss": float(np.average(losses, weights=[batch.shape[1] for batch in areas])),
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
            # All weights in one pass. Lightning cannot clip gradients with it in mixed precision.
            optimizer = torch.optim.AdamW(self._groups(), fused=not recipe.gradient_clip, **common)
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
        of_all = (self._world.whole(logits), self._world.whole(masks)) if side == "train" else (logits, masks)
        loss: torch.Tensor = self.loss(*of_all)
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
