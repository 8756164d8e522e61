"""Comparison of a training with the published run whose settings it has.

Hydrogen Torch 1.2, use case 70 of its public catalogue: frames with a nerve, fold 4 for validation, one V100. The
profile `hydrogen-torch-70` and its recipe `card` have its settings; the profile's are repeated here because a stage
knows the parameters recorded with a training, not the profile that set them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nerveseg.data import published
from nerveseg.training.recipes import CARD

_WEIGHTS = "model.encoder_weights"
PROFILE = "hydrogen-torch-70"
SETTINGS: dict[str, Any] = {
    "model.architecture": "Unet",
    "model.encoder": "resnet34",
    "model.encoder_weights": "imagenet",  # or a file of the user's
    "model.height": 448,
    "model.width": 448,
    **{f"train.{name}": value for name, value in CARD.model_dump().items()},
    "train.batch_size": 16,
    "train.accumulate": 1,
    "train.epochs": 5,
    "train.keep": "last",
    "train.patience": None,
    "train.precision": "auto",
}
IOU = (0.3746, 0.5770, 0.6243, 0.6326, 0.6321)  # of the validation frames after each epoch
LOSS = (0.6776, 0.4069, 0.3623, 0.3532, 0.3514)
TRAINING_FOLDS, VALIDATION_FOLD = {0, 1, 2, 3}, 4
FRAMES = {"train": 1896, "validation": 427}
EPOCH_SECONDS, IMAGES_PER_SECOND, SECONDS, OUTSIDE = 16.5, 114.0, 138.0, 0.36  # OUTSIDE: a share of the epoch loop

TITLE = "Comparison with the published run"
COLUMNS = ("", "ours", "published", "difference")
NOTE = (
    "Published: Hydrogen Torch 1.2, use case 70, on one V100. Times also depend on the hardware. An epoch's time "
    "covers its training steps and waiting for their data, but not validation, checkpoints and tracking."
)


def applies(record: Mapping[str, Any]) -> bool:
    """Whether a training had the settings of the published run; its encoder weights may come from a local file.

    Args:
        record: `params` of `models/run.json`, by dotted names.
    """
    given = dict(record)
    if _is_file(given.get(_WEIGHTS)):
        given[_WEIGHTS] = SETTINGS[_WEIGHTS]
    return all(given.get(name) == value for name, value in SETTINGS.items())


def conditions(record: Mapping[str, Any], source: str, index: pd.DataFrame) -> str:
    """Whether encoder weights, data and fold are those of the published run, in sentences.

    Args:
        record: as for `applies`.
        source: the address that the dataset was read from.
        index: of the frame store, with the columns fold and split.
    """
    frames = {split: int(record[f"frames.{split}"]) for split in FRAMES}
    if source in published.ADDRESSES:
        data = f"The data is the published one, from {source}."
    elif frames == FRAMES:
        data = f"The data is from {source}, not from a published address; it has as many frames as the published one."
    else:
        data = f"The data is not the published one: it is from {source}, and has other numbers of frames."
    folds = {split: set(part.dropna()) for split, part in index.groupby("split")["fold"]}
    if folds == {"train": TRAINING_FOLDS, "validation": {VALIDATION_FOLD}} and index["fold"].notna().all():
        split = f"The split is the published one: fold {VALIDATION_FOLD} for validation, all others for training."
    else:
        split = (
            f"The split is not the published one, which has fold {VALIDATION_FOLD} for validation and no test frames."
        )
    weights = record[_WEIGHTS]
    file = f"The encoder weights are from {weights}, which is not compared with the published run's, ImageNet's."
    return " ".join([*[file] * _is_file(weights), data, split])


def _is_file(weights: Any) -> bool:
    return weights not in (None, "none", "imagenet")


def total(timings: Mapping[str, float]) -> float:
    """Seconds that a training took, from the content of `timings.json`; that of older versions has the parts alone."""
    return timings.get("total", sum(timings.values()))


def rows(record: Mapping[str, Any], curve: pd.DataFrame, timings: Mapping[str, float]) -> list[tuple[str, ...]]:
    """The rows of the table: quantity, ours, published, ours minus published; COLUMNS are the column titles.

    Args:
        record: as for `applies`.
        curve: the content of `models/curve.csv`.
        timings: the content of `models/timings.json`.
    """
    figures = [
        *((f"validation IoU, epoch {n + 1}", curve["validation_iou"][n], each, ".4f") for n, each in enumerate(IOU)),
        *((f"validation loss, epoch {n + 1}", curve["validation_loss"][n], each, ".4f") for n, each in enumerate(LOSS)),
        *((f"{split} frames", record[f"frames.{split}"], number, ".0f") for split, number in FRAMES.items()),
    ]
    images = record["frames.train"] // record["train.batch_size"] * record["train.batch_size"]
    training = images / curve["images_per_second"]
    # The median, because the epoch in which a training was resumed includes the time of the interruption.
    epoch = curve["time"].diff().median()
    figures += [
        ("training seconds per epoch", training.mean(), EPOCH_SECONDS, ".1f"),
        ("images per second", curve["images_per_second"].mean(), IMAGES_PER_SECOND, ".1f"),
        ("share of the epoch outside training", 1 - training.median() / epoch, OUTSIDE, ".2f"),
        ("seconds in total", total(timings), SECONDS, ".1f"),
    ]
    return [_row(name, float(ours), published, form) for name, ours, published, form in figures]


def _row(name: str, ours: float, published: float, form: str) -> tuple[str, ...]:
    if np.isnan(ours):
        return name, "undefined", f"{published:{form}}", ""
    return name, f"{ours:{form}}", f"{published:{form}}", f"{ours - published:+{form}}"
