"""train.optimizer and train.schedule: the step that each takes, and the learning rates of a training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nerveseg import params
from nerveseg.model.losses import BceDice
from nerveseg.training.module import SegmentationModule

ROOT = Path(__file__).parents[2]
STEPS, RATE = 6, 0.01
pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step.")


class Rates(Callback):
    """The learning rate that each step was taken with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def train(**changes: Any) -> tuple[torch.Tensor, list[float]]:
    """The weight of a network of one pixel after STEPS steps of the same batch, and the learning rates on the way."""
    wanted = params.load(ROOT / "params.yaml").train.model_copy(update={"learning_rate": RATE, **changes})
    network = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.5)
    batch = torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    rates = Rates()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SegmentationModule(network, wanted), torch.utils.data.DataLoader([batch] * 3, batch_size=None))
    return network.weight.detach().flatten(), rates.seen


def expected(optimizer: type[torch.optim.Optimizer], **settings: Any) -> torch.Tensor:
    """The same steps, taken by an optimiser of torch at a constant learning rate."""
    weight = torch.full((1,), 0.5, requires_grad=True)
    steps = optimizer([weight], lr=RATE, **settings)  # type: ignore[call-arg]
    for _ in range(STEPS):
        steps.zero_grad()
        BceDice()(weight * torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).backward()
        steps.step()
    return weight.detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_takes_the_steps_of_adamw(decay: float) -> None:
    weight, _ = train(optimizer="adamw", schedule="constant", weight_decay=decay)
    torch.testing.assert_close(weight, expected(torch.optim.AdamW, weight_decay=decay))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_takes_steps_with_nesterov_momentum(decay: float) -> None:
    weight, _ = train(optimizer="sgd", schedule="constant", weight_decay=decay)
    torch.testing.assert_close(weight, expected(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=decay))
    assert not torch.allclose(weight, expected(torch.optim.SGD, weight_decay=decay))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_constant_learning_rate_stays(optimizer: str) -> None:
    assert train(optimizer=optimizer, schedule="constant")[1] == [RATE] * STEPS


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_cosine_falls_over_all_epochs(optimizer: str) -> None:
    wave = [RATE * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)]
    assert train(optimizer=optimizer, schedule="cosine")[1] == pytest.approx(wave)
