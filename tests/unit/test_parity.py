"""The comparison with the published run."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from nerveseg import profiles
from nerveseg.data import published
from nerveseg.params import flatten, load
from nerveseg.report import parity
from nerveseg.training.recipes import resolved

PROFILE = Path(__file__).parents[2] / "profiles" / f"{parity.PROFILE}.yaml"
RECORD = {**parity.SETTINGS, "frames.train": 1896, "frames.validation": 427}


def test_the_profile_has_the_settings_of_the_published_run(tmp_path: Path) -> None:
    copy = Path(shutil.copy(PROFILE.parents[1] / "params.yaml", tmp_path))
    profiles.apply(PROFILE, copy)
    applied = load(copy)
    recorded = flatten({"model": applied.model.model_dump(), "train": resolved(applied.train)})
    assert {name: recorded.get(name) for name in parity.SETTINGS} == parity.SETTINGS
    assert parity.applies(recorded)
    card = {"optimizer": "adamw", "learning_rate": 0.001, "encoder_learning_rate": 1, "schedule": "cosine", "warmup": 0}
    card |= {"weight_decay": 0, "gradient_clip": 0, "loss": "bce_dice", "augmentation": "card", "mixing": "none"}
    card |= {"ema": 0, "sampler": "frames"}
    assert {name: recorded[f"train.{name}"] for name in card} == card, "what the model card says"


def index(folds: list[int | None], splits: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"fold": pd.array(folds, "Int64"), "split": splits})


PUBLISHED_FOLDS = index([0, 1, 2, 3, 4], [*["train"] * 4, "validation"])


@pytest.mark.parametrize("weights", ["imagenet", "weights/resnet34.safetensors"])
@pytest.mark.parametrize("source", published.ADDRESSES)
def test_the_same_run_says_that_data_and_split_are_published(weights: str, source: str) -> None:
    record = RECORD | {"model.encoder_weights": weights}
    assert parity.applies(record)
    said = parity.conditions(record, source, PUBLISHED_FOLDS)
    assert "The data is the published one" in said
    assert "The split is the published one" in said
    assert ("The encoder weights are from weights/resnet34.safetensors, which is not compared" in said) == (
        weights != "imagenet"
    )


@pytest.mark.parametrize(
    ("frames", "table", "said"),
    [
        (1896, PUBLISHED_FOLDS, "from other.zip, not from a published address; it has as many frames"),
        (1895, PUBLISHED_FOLDS, "The data is not the published one"),
        (1896, index([0, 1, 2, 3, 4], ["train", "validation", *["train"] * 3]), "The split is not the published one"),
        (1896, index([0, 1, 2, 3, 4], [*["train"] * 3, "test", "validation"]), "The split is not the published one"),
        (1896, index([None] * 2, ["train", "validation"]), "The split is not the published one"),
    ],
)
def test_other_data_and_splits_are_named(frames: int, table: pd.DataFrame, said: str) -> None:
    assert said in parity.conditions(RECORD | {"frames.train": frames}, "other.zip", table)


@pytest.mark.parametrize(
    "change", [{"train.epochs": 6}, {"model.encoder_weights": "none"}, {"train.loss": "lovasz"}, {"train.keep": "best"}]
)
def test_other_settings_are_not_compared(change: dict[str, object]) -> None:
    assert not parity.applies(RECORD | change)


def test_results_are_shown_next_to_the_published_ones() -> None:
    curve = pd.DataFrame(
        {
            "epoch": range(1, 6),
            "validation_iou": [0.4, 0.55, 0.63, 0.64, 0.6421],
            "validation_loss": [0.6, 0.4, 0.36, 0.35, 0.34],
            "images_per_second": [118.0] * 5,
            "time": [100.0, 120.0, 140.0, 1000.0, 1020.0],  # resumed after the third epoch
        }
    )
    found = {
        row[0]: row[1:] for row in parity.rows(RECORD, curve, {"data": 10.0, "training_steps": 70.5, "total": 90.5})
    }
    assert found["validation IoU, epoch 5"] == ("0.6421", "0.6321", "+0.0100")
    assert found["validation loss, epoch 1"] == ("0.6000", "0.6776", "-0.0776")
    assert found["train frames"] == ("1896", "1896", "+0")
    # 118 batches of 16 per epoch at 118 images per second take 16 s of 20 s
    assert found["training seconds per epoch"] == ("16.0", "16.5", "-0.5")
    assert found["share of the epoch outside training"] == ("0.20", "0.36", "-0.16")
    assert found["seconds in total"] == ("90.5", "138.0", "-47.5")
