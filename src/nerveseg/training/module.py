"""The Lightning module: network, loss, optimizer and the scores of an epoch."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from nerveseg.evaluation import metrics
from nerveseg.model.losses import BceDice
from nerveseg.params import TrainParams
from nerveseg.training.devices import ALONE, World

Batch = tuple[torch.Tensor, torch.Tensor]
MOMENTUM = 0.9  # of SGD, with Nesterov's step as in nnU-Net, whose momentum is 0.99
THRESHOLD = 0.5  # of the curve's scores: the model's own is chosen after training


class SegmentationModule(LightningModule):
    """Trains `network` on batches of normalised frames and masks, float32 (N, 1, H, W) each.

    Of several processes, each gets its slice of a training batch, and some of the validation batches, or none.
    """

    def __init__(self, network: torch.nn.Module, train: TrainParams, world: World = ALONE) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._world = world
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = BceDice()
        self._train = train
        # Loss and areas of each batch of the epoch, kept on the device: reading them at every step would stall it.
        self._batches: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"train": [], "validation": []}

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        loss, _logits = self._step(batch, "train")
        # Each process has the gradient by way of its own slice, and Lightning takes the mean over the processes.
        return loss * self._world.size

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
            seeds = np.random.SeedSequence([self._train.seed, self.current_epoch, self._world.rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))

    def on_validation_epoch_start(self) -> None:
        self._batches["validation"].clear()

    def scores(self) -> dict[str, float]:
        """`train_loss`, `train_iou`, `train_dice` and the same with `validation_`, for the epoch so far.

        Means over the frames of all processes, which all must call it, at the network's input size; for `train`, while
        the network is still learning.
        """
        found: dict[str, float] = {}
        for side, batches in self._batches.items():
            own = [(float(loss), areas.cpu().double().numpy()) for loss, areas in batches]
            losses, areas = zip(*(batch for part in self._world.gather(own) for batch in part), strict=True)
            counts = np.concatenate(areas, axis=1)
            found[f"{side}_loss"] = float(np.average(losses, weights=[batch.shape[1] for batch in areas]))
            found[f"{side}_iou"] = float(metrics.iou(*counts).mean())
            found[f"{side}_dice"] = float(metrics.dice(*counts).mean())
        return found

    def configure_optimizers(self) -> Any:
        train = self._train
        common: dict[str, Any] = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
        optimizer: torch.optim.Optimizer
        if train.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.network.parameters(), momentum=MOMENTUM, nesterov=True, **common)
        else:
            optimizer = torch.optim.AdamW(self.network.parameters(), **common)
        if train.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=0.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _step(self, batch: Batch, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        frames, masks = batch
        logits = self.network(frames.contiguous(memory_format=torch.channels_last))
        of_all = (self._world.whole(logits), self._world.whole(masks)) if side == "train" else (logits, masks)
        loss: torch.Tensor = self.loss(*of_all)
        predicted = (torch.sigmoid(logits.detach().float()) >= THRESHOLD).flatten(1)
        true = masks.flatten(1).bool()
        areas = torch.stack([(predicted & true).sum(1), predicted.sum(1), true.sum(1)])
        self._batches[side].append((loss.detach(), areas))
        return loss, logits
