"""A training with the settings of the published run that nerveseg follows, beside that run.

Hydrogen Torch 1.2, use case 70 of its public catalogue: frames with a nerve, fold 4 validates, one V100. The profile
`hydrogen-torch-70` has its settings; they stand here a second time because a stage knows the parameters that a training
recorded, not the profile that they came from.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

PROFILE = "hydrogen-torch-70"
SETTINGS: dict[str, Any] = {
    "model.architecture": "Unet",
    "model.encoder": "resnet34",
    "model.encoder_weights": "imagenet",
    "model.height": 448,
    "model.width": 448,
    "train.batch_size": 16,
    "train.epochs": 5,
    "train.optimizer": "adamw",
    "train.learning_rate": 0.001,
    "train.schedule": "cosine",
    "train.weight_decay": 0.0,
    "train.gradient_clip": 0.0,
    "train.augmentation": "soft",
    "train.precision": "auto",
}
IOU = (0.3746, 0.5770, 0.6243, 0.6326, 0.6321)  # of the validation frames after each epoch
LOSS = (0.6776, 0.4069, 0.3623, 0.3532, 0.3514)
FRAMES = {"train": 1896, "validation": 427}
EPOCH_SECONDS, IMAGES_PER_SECOND, SECONDS, OUTSIDE = 16.5, 114.0, 138.0, 0.36  # OUTSIDE: a share of the epoch loop

TITLE = "Beside the published run"
COLUMNS = ("", "ours", "published", "difference")
NOTE = (
    "Published: Hydrogen Torch 1.2, use case 70, on one V100. Seconds say something of the hardware too. An epoch's "
    "seconds are those of its training steps and of waiting for their data; outside them are validation, checkpoints "
    "and tracking."
)


def applies(record: Mapping[str, Any]) -> bool:
    """Whether a training had the settings of the published run.

    Args:
        record: `params` of `models/run.json`, by dotted names.
    """
    return all(record.get(name) == value for name, value in SETTINGS.items())


def rows(record: Mapping[str, Any], curve: pd.DataFrame, timings: Mapping[str, float]) -> list[tuple[str, ...]]:
    """The table: what it is, our figure, the published one, ours less theirs; COLUMNS are its heads.

    Args:
        record: as for `applies`.
        curve: the content of `models/curve.csv`.
        timings: the content of `models/timings.json`; it counts the process that finished the training.
    """
    figures = [
        *((f"validation IoU, epoch {n + 1}", curve["validation_iou"][n], each, ".4f") for n, each in enumerate(IOU)),
        *((f"validation loss, epoch {n + 1}", curve["validation_loss"][n], each, ".4f") for n, each in enumerate(LOSS)),
        *((f"{split} frames", record[f"frames.{split}"], number, ".0f") for split, number in FRAMES.items()),
    ]
    images = record["frames.train"] // record["train.batch_size"] * record["train.batch_size"]
    training = images / curve["images_per_second"]
    # Where a training was resumed, one epoch holds the time that it lay still: hence the median.
    epoch = curve["time"].diff().median()
    figures += [
        ("seconds of training an epoch", training.mean(), EPOCH_SECONDS, ".1f"),
        ("images a second", curve["images_per_second"].mean(), IMAGES_PER_SECOND, ".1f"),
        ("share of the epoch outside training", 1 - training.median() / epoch, OUTSIDE, ".2f"),
        ("seconds in all", sum(timings.values()), SECONDS, ".1f"),
    ]
    return [_row(name, float(ours), published, form) for name, ours, published, form in figures]


def _row(name: str, ours: float, published: float, form: str) -> tuple[str, ...]:
    if np.isnan(ours):
        return name, "undefined", f"{published:{form}}", ""
    return name, f"{ours:{form}}", f"{published:{form}}", f"{ours - published:+{form}}"
