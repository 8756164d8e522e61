"""Mixing the frames of a batch in pairs: mixup and CutMix, for masks as well as frames."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from nerveseg.training.warp import sent

MIXED = 0.5  # share of the frames that are mixed: the others stay as they are
MIXUP = 0.4  # both parameters of the beta distribution of a frame's own share; Zhang et al., arXiv:1710.09412
CUTMIX = 1.0  # the same for CutMix: a share as likely as any other; Yun et al., arXiv:1905.04899


def mix(
    frames: torch.Tensor, masks: torch.Tensor, mixing: Literal["mixup", "cutmix"], random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes frames, and their masks alike, each with another one of the batch.

    Args:
        frames, masks: float (N, 1, H, W), masks 0/1.
        mixing: mixup: the weighted mean of two frames; cutmix: a rectangle of one in the place that it had, on the
            other.
        random: what the result depends on, beside the batch.

    Returns:
        Frames and masks like those given; with mixup, masks are in [0, 1].
    """
    count, _, height, width = frames.shape
    partner = sent(random.permutation(count), frames.device)
    concentration = MIXUP if mixing == "mixup" else CUTMIX
    share = np.where(random.random(count) < MIXED, random.beta(concentration, concentration, count), 1.0)
    weight = share[:, None, None] if mixing == "mixup" else ~_rectangles(1 - share, height, width, random)
    own = sent(weight.astype(np.float32), frames.device)[:, None]
    mixed_frames, mixed_masks = (own * batch + (1 - own) * batch[partner] for batch in (frames, masks))
    return mixed_frames, mixed_masks


def _rectangles(
    area: npt.NDArray[np.float64], height: int, width: int, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Where the partner shows: rectangles of the frames' shape with the given areas, as shares, (N, H, W).

    As in the paper, their centres are anywhere in the frame, and what lies outside it is cut off.
    """
    places = [(np.arange(length) + 0.5) / length for length in (height, width)]
    rows, columns = (np.abs(place - random.random((len(area), 1))) < np.sqrt(area)[:, None] / 2 for place in places)
    return rows[:, :, None] & columns[:, None, :]
