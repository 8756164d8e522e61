"""The Lightning module: network, loss, optimizer and the scores of an epoch."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from nerveseg.evaluation import metrics
from nerveseg.model.losses import BceDice
from nerveseg.params import TrainParams

Batch = tuple[torch.Tensor, torch.Tensor]
MOMENTUM = 0.9  # of SGD, with Nesterov's step as in nnU-Net, whose momentum is 0.99
THRESHOLD = 0.5  # of the curve's scores: the model's own is chosen after training


class SegmentationModule(LightningModule):
    """Trains `network` on batches of normalised frames and masks, float32 (N, 1, H, W) each."""

    def __init__(self, network: torch.nn.Module, train: TrainParams) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = BceDice()
        self._train = train
        # Loss and areas of each batch of the epoch, kept on the device: reading them at every step would stall it.
        self._batches: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"train": [], "validation": []}
        self._restored: dict[str, Any] | None = None  # the training batches of an epoch that was cut off

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        loss, _logits = self._step(batch, "train")
        return loss

    def validation_step(self, batch: Batch, _: int) -> torch.Tensor:
        """Returns the logits, float (N, 1, H, W)."""
        _loss, logits = self._step(batch, "validation")
        return logits

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses, areas = zip(*self._batches["train"], strict=True)
        checkpoint["batches"] = {
            "losses": torch.stack(losses),
            "areas": torch.cat(areas, dim=1),
            "frames": [batch.shape[1] for batch in areas],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
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
        seeds = np.random.SeedSequence([self._train.seed, self.current_epoch, number])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def on_validation_epoch_start(self) -> None:
        self._batches["validation"].clear()

    def scores(self) -> dict[str, float]:
        """`train_loss`, `train_iou`, `train_dice` and the same with `validation_`, for the epoch so far.

        Means over the frames at the network's input size; for `train`, while the network is still learning. NaN for a
        side without frames.
        """
        found: dict[str, float] = {}
        for side, batches in self._batches.items():
            if not batches:
                found |= dict.fromkeys((f"{side}_loss", f"{side}_iou", f"{side}_dice"), math.nan)
                continue
            losses, areas = zip(*batches, strict=True)
            frames = [batch.shape[1] for batch in areas]
            counts = torch.cat(areas, dim=1).cpu().double().numpy()
            found[f"{side}_loss"] = float(np.average(torch.stack(losses).cpu().numpy(), weights=frames))
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
        loss: torch.Tensor = self.loss(logits, masks)
        predicted = (torch.sigmoid(logits.detach().float()) >= THRESHOLD).flatten(1)
        true = masks.flatten(1).bool()
        areas = torch.stack([(predicted & true).sum(1), predicted.sum(1), true.sum(1)])
        self._batches[side].append((loss.detach(), areas))
        return loss, logits
