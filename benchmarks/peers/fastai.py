"""fastai's `unet_learner` with its usual augmentation, loss and `fit_one_cycle`.

https://docs.fast.ai/tutorial.vision.html#segmentation-with-datablock; resnet34 without ImageNet weights.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
from fastai.vision.all import (
    Callback,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    MaskBlock,
    MixedPrecision,
    Normalize,
    PILImageBW,
    aug_transforms,
    resnet34,
    set_seed,
    unet_learner,
)

from benchmarks.peers.common import DEVICE, Curve, Task, clock, main


class Scores(Callback):
    def __init__(self, curve: Curve) -> None:
        self._curve = curve
        self._masks: list[Any] = []

    def before_train(self) -> None:
        self._begun = clock()

    def after_train(self) -> None:
        self._seconds = clock() - self._begun

    def after_pred(self) -> None:
        if not self.learn.training:
            self._masks.append(self.learn.pred.argmax(1).cpu().numpy())

    def after_validate(self) -> None:
        self._curve.add(self._seconds, np.concatenate(self._masks))
        self._masks = []


def train(task: Task, curve: Curve) -> None:
    set_seed(task.seed)
    frames, masks = np.concatenate([task.frames, task.unseen]), np.concatenate([task.masks, task.truths])
    block = DataBlock(
        blocks=(ImageBlock(PILImageBW), MaskBlock(["background", "nerve"])),
        get_x=lambda number: frames[number],
        get_y=lambda number: masks[number],
        splitter=IndexSplitter(list(range(len(task.frames), len(frames)))),
        batch_tfms=[*aug_transforms(), Normalize()],
    )
    loaders = block.dataloaders(range(len(frames)), bs=task.batch, num_workers=0, device=DEVICE)
    learner = unet_learner(loaders, resnet34, pretrained=False, n_in=1, cbs=Scores(curve))
    if DEVICE == "cuda":
        learner.add_cb(MixedPrecision())
    curve.describe(learner.model, version("fastai"), "fp16" if DEVICE == "cuda" else "fp32")
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(task.epochs)


if __name__ == "__main__":
    main(train)
