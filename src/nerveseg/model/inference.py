"""From a frame to a mask: the one way that training, evaluation and the served model share."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from nerveseg.model.network import ModelSpec, load

BATCH = 16  # frames a forward pass; bounds memory whatever is asked at once


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Squashes or stretches an image (H, W), by areas where it shrinks and linearly where it grows."""
    shrinks = image.shape[0] * image.shape[1] > height * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def normalise(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A uint8 frame as the float32 that the network takes, same shape."""
    return (frame.astype(np.float32) / 255 - spec.mean) / spec.std


class Segmenter:
    """A network with what it takes to segment frames of any size."""

    def __init__(self, network: torch.nn.Module, spec: ModelSpec, device: str = "cpu") -> None:
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        self.spec = spec
        self.device = device

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Segmenter":
        """Loads `model.safetensors` and `model.json`. Raises NervesegError as `network.load` does."""
        return cls(*load(folder), device)

    def probabilities(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Nerve probability of every pixel.

        Args:
            frames: uint8 grey frames (H, W), each of its own size.

        Returns:
            float32 arrays in [0, 1], each of its frame's size.
        """
        found: list[np.ndarray] = []
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            for frame, small in zip(batch, self._forward(batch), strict=True):
                found.append(cv2.resize(small, frame.shape[::-1], interpolation=cv2.INTER_LINEAR))
        return found

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """A probability (H, W) as uint8 mask, 1 where it reaches the threshold."""
        return (probability >= self.spec.threshold).astype(np.uint8)

    @torch.inference_mode()
    def _forward(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        inputs = np.stack([normalise(resize(frame, self.spec.height, self.spec.width), self.spec) for frame in frames])
        tensor = torch.from_numpy(inputs)[:, None].to(self.device, memory_format=torch.channels_last)
        return torch.sigmoid(self.network(tensor))[:, 0].float().cpu().numpy()
