"""The training losses by name: each is the sum of a term for pixels and one for regions."""

from typing import Any

import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss, TverskyLoss
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1.0  # pixels, added to the areas of a frame's soft Dice: without a nerve and a prediction, it is 1


class _FrameDice(torch.nn.Module):
    """Soft Dice loss of each frame, averaged: a small nerve weighs as much as a large one.

    In a frame without a nerve it is 0 if nothing is predicted and approaches 1 as more is, where the loss over the
    batch leaves such a frame to the others.
    """

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        probability, target = torch.sigmoid(logits).flatten(1), target.flatten(1)
        both = (probability * target).sum(1)
        return (1 - (2 * both + SMOOTH) / (probability.sum(1) + target.sum(1) + SMOOTH)).mean()


class RegionLoss(torch.nn.Module):
    """The sum of a loss for pixels and one for regions. The first is what trains a batch without any nerve."""

    def __init__(self, pixels: Any, regions: torch.nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.regions = regions

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Args: logits and target (0/1, or in [0, 1] of mixed frames), float (N, 1, H, W). Returns: a scalar >= 0."""
        logits = logits.float()  # the sums overflow in half precision
        loss: torch.Tensor = self.pixels(logits, target) + self.regions(logits, target)
        return loss


def by_name(name: str) -> RegionLoss:
    """A training loss.

    - `bce_dice`: binary cross-entropy and soft Dice over the batch. Milletari et al., V-Net (2016),
      https://arxiv.org/abs/1606.04797.
    - `image_dice`: binary cross-entropy and soft Dice of each frame, which is what is scored.
    - `focal`: focal loss with gamma 2, for which certain pixels count less, and soft Dice over the batch. Lin et al.
      (2017), https://arxiv.org/abs/1708.02002.
    - `tversky`: binary cross-entropy and Tversky loss over the batch, for which a missed pixel counts 0.7 and a false
      one 0.3 (Dice: 0.5 each). Salehi et al. (2017), https://arxiv.org/abs/1706.05721.
    - `lovasz`: binary cross-entropy and the Lovász hinge of each frame, the convex extension of 1 - IoU to logits: with
      all at +1 or -1, twice that. Berman et al. (2018), https://arxiv.org/abs/1705.08790.
    """
    bce = binary_cross_entropy_with_logits
    if name == "image_dice":
        return RegionLoss(bce, _FrameDice())
    if name == "focal":
        return RegionLoss(FocalLoss("binary", gamma=2.0), DiceLoss("binary"))
    if name == "tversky":
        return RegionLoss(bce, TverskyLoss("binary", alpha=0.3, beta=0.7))
    if name == "lovasz":
        return RegionLoss(bce, LovaszLoss("binary", per_image=True))
    return RegionLoss(bce, {"bce_dice": DiceLoss("binary")}[name])
