"""The training losses compared with other libraries and with arithmetic, and what sets each apart."""

import math
from typing import get_args

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from nerveseg.evaluation import metrics
from nerveseg.model import losses
from nerveseg.params import Loss

NAMES = get_args(Loss)


def logits_and_target() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 3 * torch.randn(4, 1, 16, 24), (torch.rand(4, 1, 16, 24) > 0.8).float()


def test_matches_torchs_cross_entropy_plus_monais_batch_dice() -> None:
    logits, target = logits_and_target()
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=0, smooth_dr=1e-7)
    expected = binary_cross_entropy_with_logits(logits, target) + dice(logits, target)
    torch.testing.assert_close(losses.by_name("bce_dice")(logits, target), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_an_undecided_network_matches_arithmetic() -> None:
    """Probability 1/2 everywhere, a quarter of the pixels true: ln 2 + 1 - 2 (1/8) / (1/2 + 1/4)."""
    target = torch.zeros(2, 1, 8, 8)
    target[:, :, :4, :4] = 1
    loss = losses.by_name("bce_dice")(torch.zeros(2, 1, 8, 8), target)
    assert loss.item() == pytest.approx(math.log(2) + 2 / 3, abs=1e-6)


def test_the_loss_of_a_perfect_network_is_zero_and_of_a_wrong_one_large() -> None:
    _, target = logits_and_target()
    assert losses.by_name("bce_dice")(100 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-6)
    assert losses.by_name("bce_dice")(100 * (1 - 2 * target), target).item() == pytest.approx(101, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_descent_lowers_it(name: str) -> None:
    logits, target = logits_and_target()
    logits.requires_grad_()
    loss = losses.by_name(name)(logits, target)
    assert loss.shape == ()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert losses.by_name(name)(logits - logits.grad, target) < loss


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_gives_the_same_loss_where_sums_would_overflow(name: str) -> None:
    target = torch.ones(2, 1, 256, 256)
    logits = torch.full_like(target, 4.0)
    half = losses.by_name(name)(logits.half(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, losses.by_name(name)(logits, target))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_any_nerve_still_has_a_gradient(name: str) -> None:
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = losses.by_name(name)(logits, torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert (logits.grad > 0).all(), "every probability is pushed down"


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_perfect_masks_is_zero_with_and_without_a_nerve(name: str) -> None:
    _, target = logits_and_target()
    target[2:] = 0
    assert losses.by_name(name)(100 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-5)


def two_nerves() -> tuple[torch.Tensor, torch.Tensor]:
    """The masks of a large nerve and of a small one, and logits that find nothing."""
    target = torch.zeros(2, 1, 32, 32)
    target[0, :, :20, :20] = 1
    target[1, :, :4, :4] = 1
    return torch.full_like(target, -4.0), target


def test_image_dice_matches_monais_dice_by_frame() -> None:
    logits, target = logits_and_target()
    target[1:3] = 0
    dice = DiceLoss(sigmoid=True, batch=False, smooth_nr=1, smooth_dr=1)
    expected = binary_cross_entropy_with_logits(logits, target) + dice(logits, target)
    torch.testing.assert_close(losses.by_name("image_dice")(logits, target), expected)


def test_image_dice_weighs_a_small_nerve_as_a_large_one() -> None:
    """How much more is gained by finding the large one, whose area is 25 times the other's."""
    nothing, target = two_nerves()
    ratios = {}
    for name in ("bce_dice", "image_dice"):
        regions = losses.by_name(name).regions
        gains = []
        for found in (0, 1):
            logits = nothing.clone()
            logits[found] = 8 * target[found] - 4
            gains.append((regions(nothing, target) - regions(logits, target)).item())
        ratios[name] = gains[0] / gains[1]
    assert ratios["bce_dice"] > 10
    assert ratios["image_dice"] < 2


def test_image_dice_counts_a_false_mask_in_a_frame_without_a_nerve() -> None:
    _, target = two_nerves()
    target[1] = 0
    found = 100 * (2 * target - 1)
    false = found.clone()
    false[1, :, :4, :4] = 100
    regions = losses.by_name("image_dice").regions
    assert regions(found, target).item() == pytest.approx(0, abs=1e-6)
    assert regions(false, target).item() == pytest.approx((1 - 1 / 17) / 2, abs=1e-6), "16 false pixels in one of two"


def test_focal_counts_pixels_that_are_certain_for_less() -> None:
    """By (1 - p)^2, as in the paper: at p = 0.9 a hundredth of the cross-entropy, at p = 0.1 0.81 of it."""
    target = torch.ones(1, 1, 8, 8)
    for probability in (0.9, 0.1):
        logits = torch.full_like(target, math.log(probability / (1 - probability)))
        focal, bce = (losses.by_name(name).pixels(logits, target).item() for name in ("focal", "bce_dice"))
        assert focal / bce == pytest.approx((1 - probability) ** 2, rel=1e-4)


def test_tversky_punishes_a_missed_pixel_more_than_a_false_one() -> None:
    _, target = two_nerves()
    missed, false = 100 * (2 * target - 1), 100 * (2 * target - 1)
    missed[0, :, 18:20, :20] = -100
    false[0, :, 20:22, :20] = 100
    tversky, dice = (losses.by_name(name).regions for name in ("tversky", "bce_dice"))
    assert tversky(missed, target) > 1.5 * tversky(false, target)
    true = target.sum().item()
    assert tversky(false, target).item() == pytest.approx(1 - true / (true + 0.3 * 40), abs=1e-5)
    assert dice(missed, target) < 1.5 * dice(false, target)


def test_lovasz_is_twice_one_minus_iou_of_each_frame_for_hard_masks() -> None:
    logits, target = logits_and_target()
    target[1] = 0
    hard = logits.sign()
    hard[2] = -1  # finds nothing
    predicted, true = (hard > 0).flatten(1), target.flatten(1).bool()
    iou = metrics.iou(
        *(count.numpy().astype(float) for count in ((predicted & true).sum(1), predicted.sum(1), true.sum(1)))
    )
    assert losses.by_name("lovasz").regions(hard, target).item() == pytest.approx(2 * (1 - iou).mean(), abs=1e-5)
