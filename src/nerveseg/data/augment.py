"""Augmentation of training frames with albumentations."""

import random

import albumentations as A
import cv2
import numpy as np

from nerveseg.arrays import Frame, Mask


def _card() -> list[A.BasicTransform]:
    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), *_small()]


def _soft() -> list[A.BasicTransform]:
    return [A.HorizontalFlip(p=0.5), *_small()]


def _small() -> list[A.BasicTransform]:
    return [
        A.Affine(
            translate_percent=(-0.05, 0.05),
            scale=(0.9, 1.1),
            rotate=(-10, 10),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5),
    ]


class Augmentation:
    """Random changes to a frame and its mask that depend only on the given seed.

    So a training sees the same frames with any number of workers, and after it was killed and resumed.
    """

    def __init__(self, name: str) -> None:
        """Args: name: `none`, `soft` (horizontal flips, small shifts, scales and rotations, brightness and contrast) or
        `card` (the same with vertical flips).
        """
        self._compose = A.Compose({"none": list, "soft": _soft, "card": _card}[name]())

    def __call__(self, frame: Frame, mask: Mask, seed: int) -> tuple[Frame, Mask]:
        """Args: frame uint8 (H, W) and mask uint8 0/1 (H, W). Returns: both, transformed alike, same shape and type."""
        # One state shared by all transforms: set_random_seed would give each its own state, all with the same draws.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        changed = self._compose(image=frame, mask=mask)
        return changed["image"], changed["mask"]
