"""Preprocessing of frames and postprocessing of probabilities."""

import cv2
import numpy as np

from nerveseg.model.spec import ModelSpec


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image (H, W) without keeping its aspect ratio: by area to shrink, linearly to grow."""
    shrinks = image.shape[0] * image.shape[1] > height * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def normalise(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A uint8 frame normalised for the network: float32, same shape."""
    return (frame.astype(np.float32) / 255 - spec.mean) / spec.std


def restore(probability: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes probabilities, float32, from the network's size to the frame's `shape` (H, W)."""
    return cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR)


def to_mask(probability: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A uint8 mask from probabilities of any shape: 1 where they reach the threshold."""
    return (probability >= spec.threshold).astype(np.uint8)
