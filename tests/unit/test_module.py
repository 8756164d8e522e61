"""What the settings of the optimisation do: the steps that are taken, and the learning rates of a training."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nerveseg.model import losses
from nerveseg.training.module import SegmentationModule, share_of_rate
from nerveseg.training.recipes import CARD

STEPS, RATE = 6, 0.01
pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step.")


class Rates(Callback):
    """The learning rate that each step was taken with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


class Tiny(torch.nn.Module):
    """Two pixels' weights in sequence, the first of which is the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Conv2d(1, 1, 1, bias=False)
        self.decoder = torch.nn.Conv2d(1, 1, 1, bias=False)
        for layer in (self.encoder, self.decoder):
            torch.nn.init.constant_(layer.weight, 0.5)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.decoder(self.encoder(frames))
        return result


def one_weight() -> torch.nn.Module:
    network = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.5)
    return network


def fit(network: torch.nn.Module, accumulate: int = 1, **changes: Any) -> list[float]:
    """Takes STEPS steps with the same batch; returns the learning rate of each batch."""
    recipe = CARD.model_copy(update={"learning_rate": RATE, **changes})
    batch = torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    rates = Rates()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=recipe.gradient_clip or None,
        callbacks=[rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SegmentationModule(network, recipe, 70), torch.utils.data.DataLoader([batch] * 3, batch_size=None))
    return rates.seen


def train(**changes: Any) -> tuple[torch.Tensor, list[float]]:
    """The weight of a network of one pixel after STEPS steps of the same batch, and the learning rates on the way."""
    network = one_weight()
    rates = fit(network, **changes)
    return network.weight.detach().flatten(), rates


def expected(optimizer: type[torch.optim.Optimizer], **settings: Any) -> torch.Tensor:
    """The same steps, taken by an optimiser of torch at a constant learning rate."""
    weight = torch.full((1,), 0.5, requires_grad=True)
    steps = optimizer([weight], lr=RATE, **settings)  # type: ignore[call-arg]
    for _ in range(STEPS):
        steps.zero_grad()
        losses.by_name("bce_dice")(weight * torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).backward()
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


def test_a_warm_up_rises_linearly_to_the_learning_rate_and_the_cosine_follows() -> None:
    rates = train(warmup=0.5)[1]
    assert rates == pytest.approx([RATE * share for share in (0.25, 0.5, 0.75, 1, 0.75, 0.25)])
    assert train(warmup=0.5, schedule="constant")[1] == pytest.approx(
        [RATE * part for part in (0.25, 0.5, 0.75, 1, 1, 1)]
    )


@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_share_of_the_rate_is_one_at_most_for_any_number_of_steps(warmup: float, steps: int) -> None:
    shares = [share_of_rate(CARD.model_copy(update={"warmup": warmup}), step, steps) for step in range(steps + 1)]
    assert all(0 <= share <= 1 for share in shares)
    assert min(shares[:-1]) > 0, "no step is lost"


def test_the_encoder_has_its_own_learning_rate() -> None:
    both, encoder_slower = Tiny(), Tiny()
    fit(both, schedule="constant")
    rates = fit(encoder_slower, schedule="constant", encoder_learning_rate=0.1)
    assert rates == [RATE] * STEPS, "the curve shows that of the other parameters"
    # AdamW's first steps have the length of the learning rate, whatever the gradient.
    moved = {name: weight.item() - 0.5 for name, weight in encoder_slower.named_parameters()}
    assert moved["encoder.weight"] == pytest.approx(0.1 * moved["decoder.weight"], rel=0.1)
    assert both.encoder.weight.item() == pytest.approx(both.decoder.weight.item())


def test_gradients_are_clipped() -> None:
    """SGD's first step is the learning rate times the clipped norm, 1 + 0.9 times that with Nesterov's momentum."""
    moved = [train(optimizer="sgd", schedule="constant", gradient_clip=norm)[0].item() - 0.5 for norm in (1e-3, 2e-3)]
    assert moved[1] == pytest.approx(2 * moved[0], rel=1e-3)


def test_accumulation_takes_a_step_in_so_many_batches_and_the_schedule_counts_steps() -> None:
    """Three batches an epoch make two steps: the last one of a single batch."""
    network = one_weight()
    rates = fit(network, accumulate=2)
    wave = [RATE * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert rates == pytest.approx([wave[0], wave[0], wave[1], wave[2], wave[2], wave[3]])
