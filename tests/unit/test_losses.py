"""The training loss compared with other libraries and with arithmetic."""

import math

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from nerveseg.model.losses import BceDice


def logits_and_target() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 3 * torch.randn(4, 1, 16, 24), (torch.rand(4, 1, 16, 24) > 0.8).float()


def test_matches_torchs_cross_entropy_plus_monais_batch_dice() -> None:
    logits, target = logits_and_target()
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=0, smooth_dr=1e-7)
    expected = binary_cross_entropy_with_logits(logits, target) + dice(logits, target)
    torch.testing.assert_close(BceDice()(logits, target), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_an_undecided_network_matches_arithmetic() -> None:
    """Probability 1/2 everywhere, a quarter of the pixels true: ln 2 + 1 - 2 (1/8) / (1/2 + 1/4)."""
    target = torch.zeros(2, 1, 8, 8)
    target[:, :, :4, :4] = 1
    loss = BceDice()(torch.zeros(2, 1, 8, 8), target)
    assert loss.item() == pytest.approx(math.log(2) + 2 / 3, abs=1e-6)


def test_the_loss_of_a_perfect_network_is_zero_and_of_a_wrong_one_large() -> None:
    _, target = logits_and_target()
    assert BceDice()(100 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-6)
    assert BceDice()(100 * (1 - 2 * target), target).item() == pytest.approx(101, abs=1e-3)


def test_gradient_descent_lowers_it() -> None:
    logits, target = logits_and_target()
    logits.requires_grad_()
    loss = BceDice()(logits, target)
    assert loss.shape == ()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert BceDice()(logits - 10 * logits.grad, target) < loss


def test_half_precision_gives_the_same_loss_where_sums_would_overflow() -> None:
    target = torch.ones(2, 1, 256, 256)
    logits = torch.full_like(target, 4.0)
    half = BceDice()(logits.half(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, BceDice()(logits, target))


def test_a_batch_without_any_nerve_still_has_a_gradient() -> None:
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = BceDice()(logits, torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert (logits.grad > 0).all(), "every probability is pushed down"
