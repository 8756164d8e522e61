"""Frames to look at while a training goes on: those of its first batch, and a few validation frames in each epoch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from nerveseg.arrays import Frame, Ints, Mask, Probability
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import metrics
from nerveseg.model.spec import NetworkSpec
from nerveseg.training.dataset import EpochSampler, FrameDataset
from nerveseg.training.module import THRESHOLD, Batch

CHOSEN = 8  # validation frames
_IN_BATCH = 16  # frames of the first batch


@dataclass(frozen=True)
class Example:
    """A frame to look at.

    Attributes:
        image: file name.
        frame: uint8 (H, W).
        truth: its mask, uint8 0/1 (H, W).
        probability: the network's, float32, at its own size (height, width); None: the network has not seen the frame.
        dice: of the network's mask at that size, as in the curve.
    """

    image: str
    frame: Frame
    truth: Mask
    probability: Probability | None = None
    dice: float | None = None


Kind = Literal["first_batch", "validation"]
OnExamples = Callable[[Kind, int, list[Example]], None]


def choose(index: pd.DataFrame, rows: Ints) -> Ints:
    """CHOSEN validation frames, from all subjects in turn, the same ones each time.

    A quarter of them has no nerve, unless there are fewer such frames, or fewer with a nerve.

    Args:
        index: of the frame store.
        rows: int64.

    Returns:
        Row numbers, int64, ascending.
    """
    table = index.iloc[np.random.default_rng(0).permutation(rows)]
    without = table["mask_area"] == 0
    by_turn = table.groupby([table["subject"], without]).cumcount().sort_values(kind="stable").index
    with_nerve, empty = by_turn[~without[by_turn]], by_turn[without[by_turn]]
    count = max(min(len(empty), CHOSEN // 4), CHOSEN - len(with_nerve))
    return np.sort([*with_nerve[: CHOSEN - count], *empty[:count]]).astype(np.int64)


def first_batch(
    store: FrameStore,
    rows: Ints,
    frames: FrameDataset,
    spec: NetworkSpec,
    batch_size: int,
    seed: int,
    groups: Ints | None = None,
) -> list[Example]:
    """The first frames of a training's first batch, as the network sees them: resized and augmented, but not mixed.

    Args:
        rows: the training frames, of which `frames` is the dataset.
        batch_size, seed: of the training.
        groups: of its frames, as for `EpochSampler`.
    """
    items = list(EpochSampler(len(frames), seed, shuffle=True, groups=groups))[: min(batch_size, _IN_BATCH)]
    found = []
    for item in items:
        frame, mask = (tensor[0].numpy() for tensor in frames[item])
        grey = np.clip(np.rint((frame * spec.std + spec.mean) * 255), 0, 255).astype(np.uint8)
        found.append(Example(str(store.index["image"].iloc[rows[item[0]]]), grey, mask.astype(np.uint8)))
    return found


class ValidationExamples(Callback):
    """Hands over the chosen validation frames before the first step, and after each epoch with their predictions."""

    def __init__(self, store: FrameStore, batch_size: int, on_examples: OnExamples) -> None:
        self._store = store
        self._batch_size = batch_size
        self._on_examples = on_examples
        rows = store.rows("validation")
        self._chosen = choose(store.index, rows)
        self._positions = np.searchsorted(rows, self._chosen)
        self._found: list[Example] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self._on_examples("validation", 0, [self._example(row) for row in self._chosen.tolist()])

    def on_validation_epoch_start(self, *_: Any) -> None:
        self._found = []

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, number: int, *_: Any
    ) -> None:
        """`outputs` are the logits, float (N, 1, height, width)."""
        for row, position in zip(self._chosen.tolist(), self._positions.tolist(), strict=True):
            if position // self._batch_size == number:
                place = position % self._batch_size
                probability = torch.sigmoid(outputs[place, 0].float()).cpu().numpy()
                dice, _iou = metrics.score(probability >= THRESHOLD, batch[1][place, 0].cpu().numpy() > 0)
                self._found.append(replace(self._example(row), probability=probability, dice=dice))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._on_examples("validation", trainer.current_epoch + 1, self._found)

    def _example(self, row: int) -> Example:
        return Example(str(self._store.index["image"].iloc[row]), self._store.frame(row), self._store.mask(row))
