"""train.mixing: pairs of frames and masks of a batch, a function of the given generator."""

from typing import Literal

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from nerveseg.training.mixing import MIXED, mix
from nerveseg.training.module import SegmentationModule
from nerveseg.training.recipes import CARD

Mixing = Literal["mixup", "cutmix"]
COUNT, HEIGHT, WIDTH = 64, 24, 32


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Each frame is its number all over; its mask is the left half in even frames, the right half in odd ones."""
    frames = torch.arange(COUNT, dtype=torch.float32)[:, None, None, None].expand(COUNT, 1, HEIGHT, WIDTH).clone()
    masks = torch.zeros(COUNT, 1, HEIGHT, WIDTH)
    masks[::2, ..., : WIDTH // 2] = 1
    masks[1::2, ..., WIDTH // 2 :] = 1
    return frames, masks


def mixed(batch: tuple[torch.Tensor, torch.Tensor], mixing: Mixing, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return mix(*batch, mixing, np.random.default_rng(seed))


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_it_depends_on_the_generator_alone(batch: tuple[torch.Tensor, torch.Tensor], mixing: Mixing) -> None:
    first, again, other = (mixed(batch, mixing, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_about_half_of_the_frames_are_mixed(batch: tuple[torch.Tensor, torch.Tensor], mixing: Mixing) -> None:
    changed = [(mixed(batch, mixing, seed)[0] != batch[0]).flatten(1).any(1).float().mean().item() for seed in range(8)]
    assert np.mean(changed) == pytest.approx(MIXED, abs=0.08)


def test_mixup_is_the_same_weighted_mean_for_frame_and_mask(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, masks = mixed(batch, "mixup")
    assert (frames.flatten(1).std(1) < 1e-4).all(), "one weight for all of a frame"
    left, right = masks[..., 0].mean((1, 2)), masks[..., -1].mean((1, 2))
    own = torch.where(torch.arange(COUNT) % 2 == 0, left, right)
    mixes = (own > 1e-3) & (own < 1 - 1e-3)
    assert mixes.sum() > 5
    torch.testing.assert_close((left + right)[mixes], torch.ones(int(mixes.sum())), msg="the shares are 1 together")
    value = frames[:, 0, 0, 0]
    partner = (value - own * torch.arange(COUNT)) / (1 - own)
    assert ((partner - partner.round()).abs()[mixes] < 0.02).all(), "the rest of the frame is one other frame's"
    parity = (partner.round() % 2 != torch.arange(COUNT) % 2)[mixes]
    assert parity.all(), "and the rest of the mask is that frame's"


def test_cutmix_puts_a_rectangle_of_one_frame_and_its_mask_on_another(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    frames, masks = mixed(batch, "cutmix")
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shares = []
    for number, (frame, mask) in enumerate(zip(frames[:, 0], masks[:, 0], strict=True)):
        foreign = frame != number
        if not foreign.any():
            assert torch.equal(mask, batch[1][number, 0])
            continue
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None]), "a rectangle"
        partner = int(frame[foreign][0])
        assert (frame[foreign] == partner).all(), "of one frame"
        assert torch.equal(mask, torch.where(foreign, batch[1][partner, 0], batch[1][number, 0]))
        shares.append(foreign.float().mean().item())
    assert min(shares) < 0.2
    assert max(shares) > 0.5


class Recorder(torch.nn.Module):
    """A network that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)
        self.seen: list[torch.Tensor] = []

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        self.seen.append(frames.detach().clone())
        logits: torch.Tensor = self.layer(frames)
        return logits


def seen_in_training(batch: tuple[torch.Tensor, torch.Tensor], mixing: Mixing, seed: int) -> list[torch.Tensor]:
    """The frames that a network sees in two epochs of the same batch, three times each."""
    network = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = SegmentationModule(network, CARD.model_copy(update={"mixing": mixing}), seed)
    trainer.fit(module, torch.utils.data.DataLoader([batch] * 3, batch_size=None))
    return network.seen


@pytest.mark.filterwarnings("ignore:You defined a .validation_step.")
def test_training_mixes_each_batch_by_seed_epoch_and_step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, again, other = (seen_in_training(batch, "mixup", seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert len({frames.numpy().tobytes() for frames in [batch[0], *first, *other]}) == 13, "each in its own way"
    assert all(torch.equal(frames, batch[0]) for frames in seen_in_training(batch, "none", 1))
