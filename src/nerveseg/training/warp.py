"""Augmentation of a whole batch on its device; the same as `data.augment` does to frame after frame."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import affine_grid, grid_sample


def warp(
    frames: torch.Tensor, masks: torch.Tensor, matrices: npt.NDArray[np.float64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves the pixels of frames, interpolated linearly, and of masks, from the nearest one; reflects at the border.

    Args:
        frames, masks: uint8 (N, height, width).
        matrices: (N, 3, 3), from the old to the new coordinates (x, y, 1) of a pixel.

    Returns:
        Both, of the same shape and type.
    """
    count, height, width = frames.shape
    # torch's coordinates are -1 and 1 at the centres of the first and the last pixel.
    to_pixels = np.array([[(width - 1) / 2, 0, (width - 1) / 2], [0, (height - 1) / 2, (height - 1) / 2], [0, 0, 1]])
    theta = np.linalg.inv(to_pixels) @ np.linalg.inv(matrices) @ to_pixels
    grid = affine_grid(
        sent(theta[:, :2].astype(np.float32), frames.device), [count, 1, height, width], align_corners=True
    )

    def sampled(pixels: torch.Tensor, mode: str) -> torch.Tensor:
        moved = grid_sample(pixels[:, None].float(), grid, mode, padding_mode="reflection", align_corners=True)
        return moved[:, 0].round_().to(torch.uint8)

    return sampled(frames, "bilinear"), sampled(masks, "nearest")


def recolour(frames: torch.Tensor, values: npt.NDArray[np.float32]) -> torch.Tensor:
    """The value of each pixel's grey level.

    Args:
        frames: uint8 (N, height, width).
        values: of each grey level, (256,) or for each frame (N, 256).

    Returns:
        float32 (N, height, width).
    """
    table = sent(values, frames.device).expand(len(frames), 256)
    return table.gather(1, frames.flatten(1).long()).view(frames.shape)


def sent(values: torch.Tensor | npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Values on a device, without waiting for what the device is doing."""
    tensor = torch.as_tensor(values)
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
