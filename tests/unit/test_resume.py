"""Checkpoints in the midst of an epoch: a training that is cut off after any step goes on as if it had not been."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import load
from nerveseg.training import trainer
from nerveseg.training.dataset import EpochSampler
from nerveseg.training.examples import Example
from nerveseg.training.module import SegmentationModule
from nerveseg.training.timing import Timings

STEPS, EPOCHS, BATCH = 4, 2, 2
# A decoder with dropout.
SPEC = NetworkSpec(architecture="PSPNet", encoder="tu-test_resnet", height=32, width=32)
TRAIN = load(Path(__file__).parents[2] / "params.yaml").train.model_copy(
    update={"batch_size": BATCH, "epochs": EPOCHS, "augmentation": "soft"}
)
Step = tuple[int, int]  # of an epoch, both from 0
ALL = [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]


def make(folder: Path, validation: int) -> FrameStore:
    """Training frames for STEPS steps, with one left over, and some validation frames."""
    random, train = np.random.default_rng(1), STEPS * BATCH + 1
    with Writer(folder) as writer:
        for number in range(train + validation):
            mask = np.zeros((40, 48), np.uint8)
            mask[10:30, 10 + number : 25 + number] = 1
            frame = random.integers(0, 200, mask.shape, np.uint8) + 50 * mask
            writer.append(f"{number}.png", str(number), None, frame, mask)
        writer.write_index(pd.Series(["train"] * train + ["validation"] * validation), np.arange(train + validation))
    return FrameStore.open(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return make(tmp_path_factory.mktemp("store"), 3)


class Fitted:
    """A training in this process, possibly cut off, and what could be seen of it.

    Attributes:
        steps: that it took.
        shown: kind and epoch of each panel.
        timings: of all its parts.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shown: list[tuple[str, int]] = []
        self.timings = Timings()
        self.rows: list[trainer.Row] = []
        self.weights: dict[str, torch.Tensor] = {}

    def run(
        self,
        store: FrameStore,
        folder: Path,
        until: Step | str | None = None,
        seconds: float = 0,
        **changes: Any,
    ) -> None:
        """Trains until `until`, which is no longer done: a step, `validation`, or None for the end.

        Args:
            changes: to `train`.
        """
        trained, validated = SegmentationModule.training_step, SegmentationModule.validation_step

        def training_step(module: SegmentationModule, batch: Any, number: int) -> torch.Tensor:
            if (module.current_epoch, number) == until:
                raise InterruptedError
            self.steps.append((module.current_epoch, number))
            return trained(module, batch, number)

        def validation_step(module: SegmentationModule, batch: Any, number: int) -> torch.Tensor:
            if until == "validation":
                raise InterruptedError
            return validated(module, batch, number)

        def on_examples(kind: str, epoch: int, examples: list[Example]) -> None:
            self.shown.append((kind, epoch))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SegmentationModule, "training_step", training_step)
            patch.setattr(SegmentationModule, "validation_step", validation_step)
            network, self.rows = trainer.fit(
                store,
                SPEC,
                "none",
                TRAIN.model_copy(update=changes),
                device="cpu",
                workers=0,
                checkpoints=folder,
                checkpoint_seconds=seconds,
                timings=self.timings,
                on_epoch=lambda row: None,
                on_examples=on_examples,
            )
        self.weights = network.state_dict()


@pytest.fixture(scope="module")
def whole(store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A training that was not cut off."""
    fitted = Fitted()
    fitted.run(store, tmp_path_factory.mktemp("whole"), seconds=math.inf)
    assert fitted.steps == ALL
    return fitted


def assert_same(found: Fitted, expected: Fitted) -> None:
    assert all(torch.equal(tensor, found.weights[name]) for name, tensor in expected.weights.items())
    rows, wanted = (pd.DataFrame(each.rows).drop(columns=["time", "images_per_second"]) for each in (found, expected))
    pd.testing.assert_frame_equal(rows, wanted, check_exact=True)


@pytest.mark.parametrize("cuts", [[(0, 1), (0, 3), (0, 3), (1, 2)], ["validation", (1, 0)]], ids=str)
def test_a_training_that_was_cut_off_after_any_step_is_the_same(
    store: FrameStore, whole: Fitted, cuts: list[Any], tmp_path: Path
) -> None:
    found = Fitted()
    for cut in cuts:
        with pytest.raises(InterruptedError):
            found.run(store, tmp_path, cut)
    found.run(store, tmp_path)
    assert_same(found, whole)
    # Only the last step of an epoch, which waits for the epoch's own checkpoint, is taken again.
    again = [step for step in ALL if found.steps.count(step) > 1]
    assert again == [(epoch, STEPS - 1) for epoch in range(EPOCHS) if "validation" in cuts and epoch == 0]
    assert found.shown == whole.shown
    seconds = sum(STEPS * BATCH / row["images_per_second"] for row in found.rows)
    assert seconds <= found.timings["data"] + found.timings["training_steps"] + 0.001


def test_the_rate_of_an_epoch_that_was_cut_off_is_that_of_its_steps_in_both_processes() -> None:
    timings = Timings()
    first, second = (trainer.History(timings, BATCH, lambda row: None) for _ in range(2))
    timings["training_steps"] += 10  # of an epoch before
    first.on_train_epoch_start()
    timings["training_steps"] += 3
    state = first.state_dict()
    timings["training_steps"] += 5  # undone by the kill
    second.load_state_dict(state)
    timings["data"] += 2
    assert second.state_dict()["seconds"] == 5


def test_what_is_averaged_and_accumulated_goes_on_too(store: FrameStore, tmp_path: Path) -> None:
    """A checkpoint waits for the step of the optimiser, because none holds gradients."""
    changes = {"ema": 0.9, "accumulate": 2, "keep": "best", "encoder_learning_rate": 0.5, "warmup": 0.3}
    whole, found = Fitted(), Fitted()
    whole.run(store, tmp_path / "whole", **changes)
    for cut in ((0, 3), (1, 1)):
        with pytest.raises(InterruptedError):
            found.run(store, tmp_path / "cut", cut, **changes)
    found.run(store, tmp_path / "cut", **changes)
    assert_same(found, whole)
    assert [step for step in ALL if found.steps.count(step) > 1] == [(0, 2), (1, 0)]


def test_a_young_checkpoint_is_not_replaced(store: FrameStore, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        Fitted().run(store, tmp_path, (0, 3), seconds=300)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_within_an_epoch_leaves_the_one_before(
    store: FrameStore, whole: Fitted, tmp_path: Path
) -> None:
    found = Fitted()
    with pytest.raises(InterruptedError):
        found.run(store, tmp_path, (1, 3))
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-100])
    found.run(store, tmp_path)
    assert_same(found, whole)
    assert [step for step in ALL if found.steps.count(step) > 1] == [(1, 2)]


def test_without_validation_frames_the_curve_is_that_of_the_training_frames(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    bare, found, cut = make(tmp_path / "store", 0), Fitted(), Fitted()
    found.run(bare, tmp_path / "whole")
    assert found.shown == [("first_batch", 1)]
    for row in found.rows:
        assert all(math.isnan(row[f"validation_{name}"]) for name in ("loss", "iou", "dice"))
        assert not math.isnan(row["train_loss"] + row["train_iou"] + row["train_dice"])
    with pytest.raises(InterruptedError):
        cut.run(bare, tmp_path / "cut", (1, 2))
    cut.run(bare, tmp_path / "cut")
    assert_same(cut, found)


def test_the_first_epoch_of_a_sampler_is_shorter_and_the_others_are_whole() -> None:
    whole, cut = EpochSampler(9, 70, True), EpochSampler(9, 70, True, epoch=1, done=4)
    whole.set_epoch(1)
    cut.set_epoch(1)
    assert list(cut) == list(whole)[4:]
    assert len(cut) == 9
    for sampler in (whole, cut):
        sampler.set_epoch(2)
    assert list(cut) == list(whole)
