"""From frame to mask: the only implementation, shared by training, evaluation and the served model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nerveseg.arrays import Frame, Mask, Probability
from nerveseg.model import plausibility
from nerveseg.model.frames import normalise, resize, restore, to_mask
from nerveseg.model.network import load
from nerveseg.model.spec import ModelSpec

BATCH = 16  # frames per forward pass; bounds memory for any number of frames


class Segmenter:
    """A network with everything needed to segment frames of any size."""

    def __init__(self, network: torch.nn.Module, spec: ModelSpec, device: str = "cpu") -> None:
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        self.spec = spec
        self.device = device

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Segmenter":
        """Loads `model.safetensors` and `model.json`. Raises NervesegError like `network.load`."""
        return cls(*load(folder), device)

    def probabilities(self, frames: Sequence[Frame]) -> list[Probability]:
        """Nerve probability of every pixel.

        Args:
            frames: uint8 greyscale frames (H, W) of any sizes.

        Returns:
            float32 arrays in [0, 1], each the size of its frame.
        """
        found: list[Probability] = []
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            for frame, small in zip(batch, self._forward(batch), strict=True):
                found.append(restore(small, frame.shape))
        return found

    def mask(self, probability: Probability) -> Mask:
        """Like `to_mask`, with the network's own threshold."""
        return to_mask(probability, self.spec)

    def atypicality(self, mask: Mask) -> float:
        """Like `plausibility.atypicality`, compared with the network's training masks."""
        return plausibility.atypicality(mask, self.spec.plausibility)

    @torch.inference_mode()
    def _forward(self, frames: Sequence[Frame]) -> Probability:
        inputs = np.stack([normalise(resize(frame, self.spec.height, self.spec.width), self.spec) for frame in frames])
        tensor = torch.from_numpy(inputs)[:, None].to(self.device, memory_format=torch.channels_last)
        return torch.sigmoid(self.network(tensor))[:, 0].float().cpu().numpy()
