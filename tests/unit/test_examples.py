"""The frames that are shown while a training goes on, and their panels."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import TrainParams, load
from nerveseg.report import panels
from nerveseg.training import trainer
from nerveseg.training.dataset import FrameDataset, loader
from nerveseg.training.examples import CHOSEN, Example, choose, first_batch
from nerveseg.training.timing import Timings

SPEC = NetworkSpec(architecture="Unet", encoder="tu-test_resnet", height=32, width=64)
TRAIN = load(Path(__file__).parents[2] / "params.yaml").train.model_copy(update={"batch_size": 4, "epochs": 2})
Seen = dict[tuple[str, int], list[Example]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Eight training frames, and ten validation frames of three subjects, four of them without a nerve."""
    folder, random = tmp_path_factory.mktemp("store"), np.random.default_rng(1)
    with Writer(folder) as writer:
        for number in range(18):
            mask = np.zeros((40, 48), np.uint8)
            mask[10:30, 15:35] = number % 3 > 0
            frame = random.integers(0, 200, mask.shape, np.uint8) + 50 * mask
            writer.append(f"{number}.png", str(number % 4), None, frame, mask)
        writer.write_index(pd.Series(["train"] * 8 + ["validation"] * 10), np.arange(18))
    return FrameStore.open(folder)


def index(areas: dict[str, list[int]]) -> pd.DataFrame:
    """An index with the areas of each subject's masks."""
    return pd.DataFrame([(subject, area) for subject, each in areas.items() for area in each]).set_axis(
        ["subject", "mask_area"], axis=1
    )


def test_the_chosen_frames_are_of_all_subjects_and_a_quarter_has_no_nerve() -> None:
    table = index({"a": [9] * 50, "b": [9] * 3 + [0] * 5, "c": [9], "d": [0] * 4 + [9] * 20})
    rows = np.arange(2, len(table))
    chosen = table.loc[choose(table, rows)]
    with_nerve = chosen[chosen["mask_area"] > 0]["subject"].value_counts()
    assert sorted(with_nerve.index) == ["a", "b", "c", "d"]
    assert (with_nerve.sum(), with_nerve.max()) == (6, 2)
    assert sorted(chosen[chosen["mask_area"] == 0]["subject"]) == ["b", "d"]
    assert choose(table, rows).tolist() == chosen.index.tolist(), "the same ones each time"
    assert chosen.index.min() >= 2


@pytest.mark.parametrize(
    ("areas", "without"), [([9] * 20, 0), ([0] * 20, CHOSEN), ([9] * 3 + [0] * 20, CHOSEN - 3), ([9, 0, 0], 2)]
)
def test_where_frames_of_a_kind_are_few_others_fill_up(areas: list[int], without: int) -> None:
    table = index({"a": areas})
    chosen = table.loc[choose(table, np.arange(len(table)))]
    assert len(chosen) == min(CHOSEN, len(areas))
    assert (chosen["mask_area"] == 0).sum() == without


@pytest.mark.parametrize("augmentation", ["none", "soft"])
def test_the_first_batch_is_what_the_network_gets(store: FrameStore, augmentation: str) -> None:
    rows = store.rows("train")
    frames = FrameDataset(store, rows, SPEC, augmentation)
    found = first_batch(store, rows, frames, SPEC, 4, TRAIN.seed)
    batch, masks = next(iter(loader(frames, 4, TRAIN.seed, 0, True)))
    assert len(found) == 4
    for each, tensor, mask in zip(found, batch, masks, strict=True):
        assert np.abs((each.frame / 255 - SPEC.mean) / SPEC.std - tensor[0].numpy()).max() < 1e-4
        assert np.array_equal(each.truth, mask[0].numpy())
    assert len({each.image for each in found}) == 4


def fit(store: FrameStore, folder: Path, train: TrainParams, seen: Seen | None, stop: bool = False) -> torch.nn.Module:
    def on_epoch(row: trainer.Row) -> None:
        if stop and row["epoch"] == 2:
            raise InterruptedError

    network, _ = trainer.fit(
        store,
        SPEC,
        "none",
        train,
        device="cpu",
        workers=0,
        checkpoints=folder,
        timings=Timings(),
        on_epoch=on_epoch,
        on_examples=None if seen is None else lambda kind, epoch, examples: seen.update({(kind, epoch): examples}),
    )
    return network


def test_looking_changes_nothing_and_a_resumed_training_shows_the_same(store: FrameStore, tmp_path: Path) -> None:
    whole: Seen = {}
    expected = fit(store, tmp_path / "unseen", TRAIN, None).state_dict()
    found = fit(store, tmp_path / "whole", TRAIN, whole).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert list(whole) == [("first_batch", 1), ("validation", 0), ("validation", 1), ("validation", 2)]
    chosen = {each.image for each in whole["validation", 0]}
    assert all({each.image for each in whole["validation", epoch]} == chosen for epoch in (1, 2))
    assert all(each.probability is not None for each in whole["validation", 2])

    resumed: Seen = {}
    with pytest.raises(InterruptedError):
        fit(store, tmp_path / "resumed", TRAIN, resumed, stop=True)
    fit(store, tmp_path / "resumed", TRAIN, resumed)
    assert list(resumed) == list(whole)
    for (kind, epoch), examples in whole.items():
        draw = panels.validation if kind == "validation" else panels.first_batch
        assert draw(resumed[kind, epoch], epoch) == draw(examples, epoch), "to the byte"


def test_a_panel_shows_the_outlines_in_the_colours_of_the_report() -> None:
    frame, mask = np.full((420, 580), 100, np.uint8), np.zeros((420, 580), np.uint8)
    cv2.ellipse(mask, (200, 200), (80, 60), 0, 0, 360, 1, -1)
    probability = np.zeros((64, 64), np.float32)
    probability[30:50, 30:55] = 0.9
    drawn = cv2.imdecode(
        np.frombuffer(panels.validation([Example("1_1.tif", frame, mask, probability, 0.5)] * 8, 3), np.uint8),
        cv2.IMREAD_COLOR_RGB,
    ).astype(int)
    assert drawn.shape[1] > 4 * 320
    red, green, blue = np.moveaxis(drawn, -1, 0)
    yellow, cyan = (np.minimum(red, green) - blue > 60).sum(), (blue - red > 60).sum()
    assert yellow > 8 * 200, "the true outline of each frame"
    assert cyan > 8 * 200, "the predicted one"
