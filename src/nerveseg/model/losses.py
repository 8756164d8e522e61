"""The training loss."""

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits


class BceDice(torch.nn.Module):
    """The sum of binary cross-entropy and soft Dice loss over the batch.

    Soft Dice: Milletari et al., V-Net (2016), https://arxiv.org/abs/1606.04797.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(mode="binary", from_logits=True)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Args: logits and target (0/1), float (N, 1, H, W). Returns: a scalar >= 0."""
        logits = logits.float()  # the sums overflow in half precision
        loss: torch.Tensor = binary_cross_entropy_with_logits(logits, target) + self.dice(logits, target)
        return loss
