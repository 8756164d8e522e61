"""Lightning and segmentation_models_pytorch, as in the latter's example of binary segmentation.

https://github.com/qubvel-org/segmentation_models.pytorch/blob/main/examples/binary_segmentation_intro.ipynb: soft Dice,
Adam, a cosine by step, no augmentation. The learning rate is 1e-3 where the example has 2e-4 for ImageNet weights.
"""

from importlib.metadata import version
from typing import Any

import segmentation_models_pytorch as smp
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.common import DEVICE, Curve, Pixels, Task, clock, main, predict

PRECISION: Any = "16-mixed" if DEVICE == "cuda" else "32-true"


class Module(LightningModule):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.network = smp.Unet("resnet34", encoder_weights=None, in_channels=1, classes=1)
        self.loss = smp.losses.DiceLoss("binary", from_logits=True)
        self._steps = steps

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.network(frames)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        frames, masks = batch
        return self.loss(self(frames), masks)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self._steps, eta_min=1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Scores(Callback):
    def __init__(self, task: Task, curve: Curve) -> None:
        self._unseen = normalised(task.unseen)
        self._batch = task.batch
        self._curve = curve

    def on_train_epoch_start(self, *_: Any) -> None:
        self._begun = clock()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        seconds = clock() - self._begun
        self._curve.add(seconds, predict(module.eval(), self._unseen, self._batch))
        module.train()


def normalised(frames: Pixels) -> torch.Tensor:
    """float32 (N, 1, height, width), by ImageNet's mean and deviation of a grey picture."""
    return (torch.from_numpy(frames)[:, None].float() / 255 - 0.449) / 0.226


def train(task: Task, curve: Curve) -> None:
    seed_everything(task.seed, verbose=False)
    module = Module(task.epochs * task.steps)
    curve.describe(module, version("segmentation_models_pytorch"), "fp16" if DEVICE == "cuda" else "fp32")
    dataset = TensorDataset(normalised(task.frames), torch.from_numpy(task.masks)[:, None].float())
    trainer = Trainer(
        max_epochs=task.epochs,
        accelerator="gpu" if DEVICE == "cuda" else "cpu",
        devices=1,
        precision=PRECISION,
        callbacks=[Scores(task, curve)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(dataset, task.batch, shuffle=True, drop_last=True))


if __name__ == "__main__":
    main(train)
