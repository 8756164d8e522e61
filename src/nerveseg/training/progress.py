"""Progress of a training on the terminal: a bar with images/s, and one line per epoch."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import TaskID

from nerveseg.console import console, progress
from nerveseg.params import TrainParams


class EpochProgress(Callback):
    """A progress bar over the steps of an epoch, with images/s."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._bar = progress("steps")
        self._task = TaskID(0)
        self._begun = 0.0

    def on_train_epoch_start(self, trainer: Trainer, _: LightningModule) -> None:
        self._bar = progress("steps")
        self._task = self._bar.add_task(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", total=int(trainer.num_training_batches)
        )
        self._bar.start()
        self._begun = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        steps = arguments[-1] + 1
        rate = steps * self._batch_size / (time.perf_counter() - self._begun)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.update(self._task, completed=steps, description=f"{epoch}  {rate:6.1f} images/s")

    def on_train_epoch_end(self, *_: Any) -> None:
        self._bar.stop()

    def on_exception(self, *_: Any) -> None:
        self._bar.stop()


def print_epoch(row: dict[str, float]) -> None:
    """Prints one line with the scores of an epoch."""
    console.print(
        f"epoch {row['epoch']:3d}  loss {row['train_loss']:.4f}  dice {row['train_dice']:.4f}  │  validation "
        f"loss {row['validation_loss']:.4f}  iou {row['validation_iou']:.4f}  dice {row['validation_dice']:.4f}  │  "
        f"{row['images_per_second']:.1f} images/s",
        soft_wrap=True,
    )


def kept_sentence(rows: list[dict[str, float]], train: TrainParams) -> str:
    """Says which epoch's network is kept and, if patience ended the training, why after this one.

    Args:
        rows: the whole curve, with `kept`.
    """
    number = next(row["epoch"] for row in rows if row["kept"])
    said = f"The network after epoch {number:.0f} of {len(rows)} is kept"
    if len(rows) < train.epochs:
        return f"{said}: the validation Dice had not got better for train.patience ({train.patience}) epochs."
    return f"{said}."
