"""A plain training loop, as people write it in an afternoon: what a recipe has to beat.

An smp U-Net on three equal channels, BCE + soft Dice over the batch, AdamW at 1e-3 with a cosine to zero per step,
horizontal flips and a small affine on every frame, in batches; bf16 where the CPU has it. Nothing of nerveseg but the
frame store, so that a mistake there does not help both sides.
"""

import math

import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from nerveseg.arrays import Ints
from nerveseg.data.frame_store import FrameStore

_MEAN, _STD = (
    torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)  # of ImageNet: https://pytorch.org/vision/stable/models.html
_LEARNING_RATE = 1e-3
_DEGREES, _SCALE, _SHIFT = 10, 0.1, 0.08  # largest rotation, change of size, and shift in half frames


def train(
    store: FrameStore,
    encoder: str,
    weights: str | None,
    size: tuple[int, int],
    epochs: int,
    batch_size: int,
    seed: int,
) -> torch.nn.Module:
    """Trains on the store's frames of the split `train`.

    Args:
        encoder: of segmentation_models_pytorch.
        weights: a .pth file with the encoder's weights; None: random ones.
        size: height and width of the network's input, pixels.
    """
    rows = sorted(store.rows("train").tolist(), key=lambda row: str(store.index.at[row, "image"]))
    frames, masks = read(store, np.array(rows), size)
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = smp.Unet(encoder, encoder_weights=None, in_channels=3, classes=1)
    if weights:
        state = torch.load(weights, weights_only=True)
        network.encoder.load_state_dict(
            {name: value for name, value in state.items() if not name.startswith(("classifier", "fc."))}, strict=False
        )
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, weight_decay=0)
    steps = epochs * (len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    dice_loss = smp.losses.DiceLoss("binary")
    has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    for _ in range(epochs):
        network.train()
        order = random.permutation(len(rows))
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            batch = order[start : start + batch_size]
            x, y = _augment(_normalised(frames[batch]), torch.from_numpy(masks[batch]).float()[:, None])
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16):
                logits = network(x)
            logits = logits.float()
            loss = F.binary_cross_entropy_with_logits(logits, y) + dice_loss(logits, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def score(network: torch.nn.Module, store: FrameStore, rows: Ints, size: tuple[int, int]) -> pd.DataFrame:
    """Dice and IoU of each of `rows` at the frame's own size: the columns image, subject, dice, iou."""
    found = []
    for row in rows.tolist():
        small, _ = read(store, np.array([row]), size)
        probability = torch.sigmoid(network(_normalised(small)))[0, 0].numpy()
        truth = store.mask(row) > 0
        guess = cv2.resize(probability, truth.shape[::-1]) >= 0.5
        both, areas = (guess & truth).sum(), guess.sum() + truth.sum()
        overlaps = (2 * both / areas, both / (areas - both)) if areas else (1.0, 1.0)
        found.append((*store.index.loc[row, ["image", "subject"]], *overlaps))
    return pd.DataFrame(found, columns=["image", "subject", "dice", "iou"])


def read(store: FrameStore, rows: Ints, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Frames, uint8, and masks, uint8 0/1, at the network's size: (N, height, width) each."""
    to_size = {"dsize": size[::-1], "interpolation": cv2.INTER_AREA}
    frames = [cv2.resize(store.frame(row), **to_size) for row in rows.tolist()]
    masks = [(cv2.resize(store.mask(row) * np.uint8(255), **to_size) > 127).astype(np.uint8) for row in rows.tolist()]
    return np.stack(frames), np.stack(masks)


def _normalised(frames: np.ndarray) -> torch.Tensor:
    grey = torch.from_numpy(frames).float()[:, None] / 255
    return ((grey.expand(-1, 3, -1, -1) - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)


def _augment(frames: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random affine for each frame and its mask."""
    number = len(frames)
    angle = (torch.rand(number) * 2 - 1) * math.radians(_DEGREES)
    scale = 1 + (torch.rand(number) * 2 - 1) * _SCALE
    flip = torch.where(torch.rand(number) < 0.5, -1.0, 1.0)
    torch.rand(number)  # the draw of its vertical flips, which it leaves out
    theta = torch.zeros(number, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale * flip, -angle.sin() * scale
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * scale * flip, angle.cos() * scale
    theta[:, :, 2] = (torch.rand(number, 2) * 2 - 1) * _SHIFT
    grid = F.affine_grid(theta, [number, 1, *frames.shape[2:]], align_corners=False)
    frames = F.grid_sample(frames, grid, align_corners=False, padding_mode="reflection")
    masks = F.grid_sample(masks, grid, align_corners=False, mode="nearest")
    return frames.contiguous(memory_format=torch.channels_last), masks
