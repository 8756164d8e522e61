"""What happens to a frame before the network sees it, and to what the network says of it."""

import cv2
import numpy as np

from nerveseg.model.spec import ModelSpec, NetworkSpec


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Squashes or stretches an image (H, W), by areas where it shrinks and linearly where it grows."""
    shrinks = image.shape[0] * image.shape[1] > height * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def normalise(frame: np.ndarray, spec: NetworkSpec) -> np.ndarray:
    """A uint8 frame as the float32 that the network takes, same shape."""
    return (frame.astype(np.float32) / 255 - spec.mean) / spec.std


def restore(probability: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A probability at the network's size, float32, at its frame's `shape` (H, W)."""
    return cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR)


def to_mask(probability: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Probabilities of any shape as uint8 mask, 1 where they reach the threshold."""
    return (probability >= spec.threshold).astype(np.uint8)
