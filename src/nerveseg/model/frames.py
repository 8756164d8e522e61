"""Preprocessing of frames and postprocessing of probabilities."""

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Frame, Mask, Probability
from nerveseg.model.spec import ModelSpec, NetworkSpec

_Pixel = TypeVar("_Pixel", np.uint8, np.float32)


def resize(image: npt.NDArray[_Pixel], height: int, width: int) -> npt.NDArray[_Pixel]:
    """Resizes an image (H, W) without keeping its aspect ratio: by area to shrink, linearly to grow."""
    shrinks = image.shape[0] * image.shape[1] > height * width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, image.dtype)


def normalise(frame: Frame, spec: NetworkSpec) -> npt.NDArray[np.float32]:
    """A uint8 frame normalised for the network: float32, same shape."""
    return np.asarray((frame.astype(np.float32) / 255 - spec.mean) / spec.std, np.float32)


def restore(probability: Probability, shape: tuple[int, ...]) -> Probability:
    """Resizes probabilities, float32, from the network's size to the frame's `shape` (H, W)."""
    return np.asarray(cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def to_mask(probability: Probability, spec: ModelSpec) -> Mask:
    """A uint8 mask from probabilities of any shape: 1 where they reach the threshold."""
    return (probability >= spec.threshold).astype(np.uint8)
