"""Which network a training ends with: moving average, best epoch, patience; and the same after an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import load
from nerveseg.training import trainer
from nerveseg.training.keeping import MovingAverage, best_epoch
from nerveseg.training.module import SegmentationModule
from nerveseg.training.progress import kept_sentence
from nerveseg.training.recipes import CARD
from nerveseg.training.timing import Timings

ROOT = Path(__file__).parents[2]
SPEC = NetworkSpec(architecture="FPN", encoder="tu-test_resnet", height=32, width=32)  # with dropout
# Few frames and large steps, so that the validation Dice goes up, and down again.
WILD = {"recipe": "card", "batch_size": 4, "epochs": 4, "learning_rate": 0.01, "schedule": "constant", "seed": 22}
Curve = list[dict[str, float]]
pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step.")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """12 training frames and 6 validation frames: noise with a brighter rectangle somewhere, its mask."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("store")
    with Writer(folder) as writer:
        for number in range(18):
            frame, mask = random.integers(0, 120, (32, 32), np.uint8), np.zeros((32, 32), np.uint8)
            row, column = random.integers(0, 20, 2)
            mask[row : row + 10, column : column + 12] = 1
            writer.append(f"{number}_1.png", str(number), None, frame + 100 * mask, mask)
        writer.write_index(pd.Series(["train"] * 12 + ["validation"] * 6), np.arange(18))
    return FrameStore.open(folder)


def fit(
    store: FrameStore, folder: Path, *, stop: int = 0, **changes: Any
) -> tuple[dict[str, torch.Tensor], Curve, int]:
    """Trains; returns the weights, the curve without times, and how many epochs that took.

    Args:
        stop: the epoch in which it is interrupted; 0: none.
    """
    taken = []

    def on_epoch(row: trainer.Row) -> None:
        if row["epoch"] == stop:
            raise InterruptedError
        taken.append(row["epoch"])

    network, rows = trainer.fit(
        store,
        SPEC,
        "none",
        load(ROOT / "params.yaml").train.model_copy(update=WILD | changes),
        device="cpu",
        workers=0,
        checkpoints=folder,
        timings=Timings(),
        on_epoch=on_epoch,
    )
    times = ("time", "images_per_second")
    return network.state_dict(), [{k: v for k, v in row.items() if k not in times} for row in rows], len(taken)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def kept(curve: Curve) -> int:
    """The epoch that the network is from."""
    (row,) = [row for row in curve if row["kept"]]
    return int(row["epoch"])


@pytest.fixture(scope="module")
def last(store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """The curve of a training that keeps its last network."""
    return fit(store, tmp_path_factory.mktemp("last"))[1]


def test_the_last_network_is_kept(last: Curve) -> None:
    assert kept(last) == 4
    assert 1 < best_epoch(last) < 4, "or the next tests would show nothing"


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_best_network_is_that_of_a_training_which_ends_there(store: FrameStore, tmp_path: Path, ema: float) -> None:
    """With a moving average, it is the average of that epoch."""
    found, curve, _ = fit(store, tmp_path / "best", keep="best", ema=ema)
    assert kept(curve) == best_epoch(curve)
    expected, shorter, _ = fit(store, tmp_path / "shorter", epochs=best_epoch(curve), ema=ema)
    assert_same(found, expected)
    assert kept(shorter) == len(shorter)


def test_a_training_without_patience_left_ends(store: FrameStore, last: Curve, tmp_path: Path) -> None:
    found, curve, _ = fit(store, tmp_path, keep="best", patience=1)
    assert len(curve) == kept(curve) + 1 == best_epoch(last) + 1
    train = load(ROOT / "params.yaml").train.model_copy(update={**WILD, "patience": 1})
    assert kept_sentence(curve, train).startswith(f"The network after epoch {kept(curve)} of {len(curve)} is kept: the")
    again, resumed, taken = fit(store, tmp_path, keep="best", patience=1)
    assert taken == 0, "a resumed one does not go on"
    assert_same(again, found)
    assert resumed == curve


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9, "accumulate": 2},
        {"ema": 0.9, "keep": "best", "warmup": 0.3, "encoder_learning_rate": 0.5, "schedule": "cosine"},
        {"augmentation": "strong", "mixing": "cutmix", "sampler": "subjects"},
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    store: FrameStore, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """In the midst, and after the last checkpoint, when nothing is left to train."""
    expected, curve, _ = fit(store, tmp_path / "whole", **changes)
    for folder, stop, taken in ((tmp_path / "stopped", 3, 2), (tmp_path / "whole", 0, 0)):
        if stop:
            with pytest.raises(InterruptedError):
                fit(store, folder, stop=stop, **changes)
        found, resumed, epochs = fit(store, folder, **changes)
        assert epochs == taken
        assert_same(found, expected)
        assert resumed == curve


class Watch(Callback):
    """The network's state after each step, and as validation sees it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, *_: Any) -> None:  # type: ignore[override]
        self.steps.append({name: tensor.clone() for name, tensor in module.network.state_dict().items()})

    def on_validation_batch_start(self, trainer: Trainer, module: SegmentationModule, *_: Any) -> None:  # type: ignore[override]
        self.validated.append({name: tensor.clone() for name, tensor in module.network.state_dict().items()})


def test_the_moving_average_is_validated_and_kept_with_its_batch_statistics() -> None:
    """After the n-th step, its decay is (1 + n) / (10 + n), from 0.6 on that one."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 1, 3, padding=2)
    )
    batches = [(torch.randn(4, 1, 8, 8), (torch.rand(4, 1, 8, 8) > 0.5).float()) for _ in range(10)]
    data = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    watch = Watch()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [watch, MovingAverage(0.6, "cpu")]
    module = SegmentationModule(network, CARD.model_copy(update={"learning_rate": 0.1}), 0)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=callbacks,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **quiet,
    )
    trainer.fit(module, data, data)
    average = watch.steps[0]
    averages = [average]
    for number, state in enumerate(watch.steps[1:], start=1):
        decay = min(0.6, (1 + number) / (10 + number))
        average = {name: decay * average[name] + (1 - decay) * tensor for name, tensor in state.items()}
        averages.append(average)
    for found, expected in ((watch.validated[0], averages[9]), (network.state_dict(), averages[19])):
        for name, tensor in expected.items():
            if tensor.is_floating_point() and "num_batches" not in name:
                torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network.state_dict()["1.running_var"], watch.steps[-1]["1.running_var"])
