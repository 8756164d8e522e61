"""Augmentation of training frames with albumentations."""

import random
from collections.abc import Iterable
from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Frame, Mask

_LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)  # an image with every grey level


def _soft() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
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
        """Args: name: `none` or `soft` (flips, small shifts, scales and rotations, brightness and contrast)."""
        self._compose = A.Compose({"none": list, "soft": _soft}[name]())

    def __call__(self, frame: Frame, mask: Mask, seed: int) -> tuple[Frame, Mask]:
        """Args: frame uint8 (H, W) and mask uint8 0/1 (H, W). Returns: both, transformed alike, same shape and type."""
        self._seed(seed)
        changed = self._compose(image=frame, mask=mask)
        return changed["image"], changed["mask"]

    @property
    def by_batch(self) -> bool:
        """Whether `drawn` can say all that happens to a frame."""
        return all(_is_warp(transform) or _is_recolouring(transform) for transform in self._compose.transforms)

    def drawn(
        self, seeds: Iterable[int], height: int, width: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """What calls with these seeds would do to frames (height, width), for `training.warp` to do it to a batch.

        Returns:
            For each seed a matrix, (N, 3, 3), from the old to the new coordinates (x, y, 1) of a pixel, and the new
            value of each grey level, (N, 256).
        """
        found = [self._drawn(seed, height, width) for seed in seeds]
        return np.array([matrix for matrix, _ in found]), np.array([levels.ravel() for _, levels in found])

    def _drawn(self, seed: int, height: int, width: int) -> tuple[npt.NDArray[np.float64], Frame]:
        self._seed(seed)
        data = {"image": np.broadcast_to(np.uint8(0), (height, width))}
        matrix, levels = np.eye(3), _LEVELS
        self._compose.py_random.random()  # drawn by Compose for its own probability, which is 1
        for transform in self._compose.transforms:
            if transform.should_apply():
                drawn = transform.update_transform_params(transform.get_params(), data)
                drawn |= transform.get_params_dependent_on_data(drawn, data)
                if isinstance(transform, A.Affine):
                    matrix = drawn["matrix"] @ matrix
                elif isinstance(transform, A.HorizontalFlip):
                    matrix = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
                elif isinstance(transform, A.VerticalFlip):
                    matrix = np.array([[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]) @ matrix
                else:
                    levels = transform.apply(levels, **drawn)
        return matrix, levels

    def _seed(self, seed: int) -> None:
        # One state shared by all transforms: set_random_seed would give each its own state, all with the same draws.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311


def _is_warp(transform: Any) -> bool:
    """Whether it moves pixels by a matrix, as `training.warp` does."""
    if type(transform) is A.Affine:
        sampling = transform.interpolation, transform.mask_interpolation, transform.border_mode, transform.fit_output
        return sampling == (cv2.INTER_LINEAR, cv2.INTER_NEAREST, cv2.BORDER_REFLECT_101, False)
    return type(transform) in (A.HorizontalFlip, A.VerticalFlip)


def _is_recolouring(transform: Any) -> bool:
    """Whether the new value of a pixel depends on its old value only."""
    if type(transform) is A.RandomBrightnessContrast:
        return transform.brightness_by_max and not transform.ensure_safe_range
    return type(transform) is A.RandomGamma
