"""Augmentation of training frames with albumentations: levels by name, or a pipeline from the user's file.

A file holds what `albumentations.save` writes, which Hydrogen Torch exports too. It names classes of albumentations and
their arguments; nothing in it is run.
"""

import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
from albumentations.core.type_definitions import Targets
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nerveseg.arrays import Frame, Mask
from nerveseg.errors import NervesegError
from nerveseg.model.spec import Flip

Floats32 = npt.NDArray[np.float32]
_BORDER = cv2.BORDER_REFLECT_101  # what lies outside the frame: its mirror image
_SLIDERS = 8  # of the time-gain compensation: a console has 6 to 10, one above the other
_POINTS = 5  # of the grid of Bend, across and down
_TRIALS = 32  # frames that a pipeline is tried out on
_FLIPS: dict[type[A.BasicTransform], set[Flip]] = {
    A.HorizontalFlip: {"horizontal"},
    A.VerticalFlip: {"vertical"},
    A.D4: {"horizontal", "vertical"},
}


class Bend(A.DualTransform):  # type: ignore[misc]
    """A free-form deformation: the points of a coarse grid are shifted, and all between them follows smoothly.

    Not albumentations' ElasticTransform, which counts in pixels, so that its bends would depend on the input size; nor
    its ThinPlateSpline, which applies another kernel than it has fitted, and takes 15 times as long.

    Args:
        limit: standard deviation of the shifts, as a share of the frame's height and width.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(A.BasicTransform.InitSchema):  # type: ignore[misc]
        limit: float

    def __init__(self, limit: float = 0.01, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.limit = limit

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Returns `map_x` and `map_y`, float32 (H, W): the column and the row that each pixel is taken from."""
        height, width = params["shape"][:2]
        shifts = self.random_generator.normal(0, self.limit, (_POINTS, _POINTS, 2)).astype(np.float32)
        smooth = cv2.resize(shifts, (width, height), interpolation=cv2.INTER_CUBIC)
        return {
            "map_x": np.arange(width, dtype=np.float32) + width * smooth[..., 0],
            "map_y": np.arange(height, dtype=np.float32)[:, None] + height * smooth[..., 1],
        }

    def apply(self, img: Frame, map_x: Floats32, map_y: Floats32, **_: Any) -> Frame:
        return _moved(img, map_x, map_y, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: Mask, map_x: Floats32, map_y: Floats32, **_: Any) -> Mask:
        return _moved(mask, map_x, map_y, cv2.INTER_NEAREST)


class TimeGain(A.ImageOnlyTransform):  # type: ignore[misc]
    """Time-gain compensation set otherwise: a smooth curve over depth multiplies the grey levels.

    Args:
        limit: standard deviation of the sliders, as the logarithm of the gain.
    """

    class InitSchema(A.BasicTransform.InitSchema):  # type: ignore[misc]
        limit: float

    def __init__(self, limit: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.limit = limit

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Returns `gain`, float32 (H, 1)."""
        sliders = self.random_generator.normal(0, self.limit, (_SLIDERS, 1)).astype(np.float32)
        gain = np.exp(cv2.resize(sliders, (1, params["shape"][0]), interpolation=cv2.INTER_CUBIC))
        return {"gain": gain}

    def apply(self, img: Frame, gain: Floats32, **_: Any) -> Frame:
        return _scaled(img, gain)


class BeamShadow(A.ImageOnlyTransform):  # type: ignore[misc]
    """An acoustic shadow: below a reflector, a band along the beams is darker, with soft edges.

    The beams of a linear probe run straight down. The mask stays: an annotator outlines a nerve through a shadow.

    Args:
        darkness: range of the share of the grey level that is lost in the middle of the shadow.
        width: range of the band's width, as a share of the frame's.
    """

    class InitSchema(A.BasicTransform.InitSchema):  # type: ignore[misc]
        darkness: tuple[float, float]
        width: tuple[float, float]

    def __init__(
        self, darkness: tuple[float, float] = (0.3, 0.8), width: tuple[float, float] = (0.05, 0.2), p: float = 0.5
    ) -> None:
        super().__init__(p=p)
        self.darkness = darkness
        self.width = width

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Returns `gain`, float32 (H, W)."""
        height, width = params["shape"][:2]
        draw = self.random_generator.uniform
        middle, top = draw(), draw(0, 0.7)
        across = (np.arange(width) / width - middle) / (draw(*self.width) / 2)
        down = np.clip((np.arange(height) / height - top) / 0.1, 0, 1)  # the edge of the reflector
        band = np.exp(-(across**4))  # nearly flat within the width, then falling
        return {"gain": (1 - draw(*self.darkness) * down[:, None] * band).astype(np.float32)}

    def apply(self, img: Frame, gain: Floats32, **_: Any) -> Frame:
        return _scaled(img, gain)


def _moved(pixels: Frame, map_x: Floats32, map_y: Floats32, interpolation: int) -> Frame:
    moved = cv2.remap(pixels, map_x, map_y, interpolation, borderMode=_BORDER)
    return moved.astype(np.uint8, copy=False)


def _scaled(frame: Frame, gain: Floats32) -> Frame:
    """A frame, uint8 (H, W) or (H, W, 1), times a gain that (H, W) broadcasts with; rounded and clipped."""
    product = frame.reshape(frame.shape[:2]) * gain
    scaled: Frame = np.clip(np.rint(product), 0, 255).astype(np.uint8).reshape(frame.shape)
    return scaled


def _affine(shift: float, scale: float, degrees: float, shear: float, p: float) -> A.Affine:
    """Args: largest shift, a share of height and width; change of scale, a share; rotation and shear, degrees."""
    return A.Affine(
        translate_percent=(-shift, shift),
        scale=(1 - scale, 1 + scale),
        rotate=(-degrees, degrees),
        shear=(-shear, shear),
        border_mode=_BORDER,
        p=p,
    )


def _soft() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        _affine(shift=0.05, scale=0.1, degrees=10, shear=0, p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5),
    ]


def _card() -> list[A.BasicTransform]:
    horizontal, *others = _soft()
    return [horizontal, A.VerticalFlip(p=0.5), *others]


def _medium() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        _affine(shift=0.08, scale=0.15, degrees=15, shear=8, p=0.7),
        Bend(limit=0.01, p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.5),
        A.RandomGamma(gamma_limit=(80, 125), p=0.3),
        TimeGain(limit=0.15, p=0.3),
        A.MultiplicativeNoise(multiplier=(0.85, 1.15), elementwise=True, p=0.3),  # speckle grows with the echo
    ]


def _strong() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        _affine(shift=0.12, scale=0.25, degrees=20, shear=12, p=0.8),
        Bend(limit=0.02, p=0.4),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        A.RandomGamma(gamma_limit=(65, 150), p=0.4),
        TimeGain(limit=0.25, p=0.4),
        BeamShadow(darkness=(0.3, 0.8), width=(0.05, 0.2), p=0.3),
        A.CoarseDropout(num_holes_range=(1, 3), hole_height_range=(0.05, 0.15), hole_width_range=(0.05, 0.15), p=0.2),
        A.GaussianBlur(sigma_limit=(0.3, 1.0), blur_limit=0, p=0.2),
        A.MultiplicativeNoise(multiplier=(0.7, 1.3), elementwise=True, p=0.4),
    ]


_LEVELS: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "none": list,
    "card": _card,
    "soft": _soft,
    "medium": _medium,
    "strong": _strong,
}


class Augmentation:
    """Random changes to a frame and its mask that depend only on the given seed.

    So a training sees the same frames with any number of workers, and after it was killed and resumed.

    Attributes:
        pipeline: what albumentations applies.
        flips: the flips that it contains, which are symmetries of the network after training.
    """

    def __init__(self, name: str) -> None:
        """Args: name: one of `params.LEVELS`, or the path of a .yaml or .json file with a pipeline of albumentations.

        Raises:
            NervesegError: the file is missing, or does not hold such a pipeline.
        """
        self._name = name
        level = _LEVELS.get(name)
        self.pipeline = A.Compose(level()) if level else _load(Path(name))
        contained = set[Flip]().union(*(_flips_of(leaf) for leaf in _leaves(self.pipeline)))
        self.flips: tuple[Flip, ...] = tuple(sorted(contained))

    def __call__(self, frame: Frame, mask: Mask, seed: int) -> tuple[Frame, Mask]:
        """Args: frame uint8 (H, W) and mask uint8 0/1 (H, W). Returns: both, transformed alike, same shape and type.

        Raises:
            NervesegError: the pipeline of a file made something else of them.
        """
        # One state shared by all transforms: set_random_seed would give each its own state, all with the same draws.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        changed = self.pipeline(image=frame, mask=mask)
        self._require_alike(changed["image"], frame, "frame")
        self._require_alike(changed["mask"], mask, "mask")
        if changed["mask"].max() > 1:
            raise NervesegError(
                f"{self._name} makes a mask with values above 1: fill what it uncovers in masks with 0 (fill_mask)."
            )
        return changed["image"], changed["mask"]

    def try_out(self, height: int, width: int) -> None:
        """Augments a few frames of that size, in pixels. Raises NervesegError if the pipeline cannot."""
        frame = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
        mask = np.zeros_like(frame)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 1
        for seed in range(_TRIALS):
            try:
                self(frame, mask, seed)
            except NervesegError:
                raise
            except Exception as error:  # transforms raise many kinds
                raise NervesegError(
                    f"{self._name} fails on a grey frame of {height} x {width} pixels: {error}"
                ) from None

    def _require_alike(self, changed: Any, given: Frame | Mask, what: str) -> None:
        if (changed.shape, changed.dtype) != (given.shape, given.dtype):
            raise NervesegError(
                f"{self._name} makes a {changed.dtype} {what} of {changed.shape} from a {given.dtype} one of "
                f"{given.shape}: leave out what resizes, crops, normalises or converts. nerveseg does that itself."
            )


def read(path: Path) -> bytes:
    """The content of a file with a pipeline. Raises NervesegError if it is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NervesegError(f"train.augmentation: {path} cannot be read: {error.strerror}.") from None


def _load(path: Path) -> A.Compose:
    try:
        text = read(path).decode()
        content = json.loads(text) if path.suffix == ".json" else YAML(typ="safe", pure=True).load(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of arguments that it does not know, and would ignore
            pipeline = A.from_dict({"transform": _without_former_arguments(content["transform"])})
    except (json.JSONDecodeError, YAMLError, UnicodeDecodeError) as error:
        raise NervesegError(f"{path} is not {path.suffix[1:].upper()}: {error}") from None
    except KeyError as error:
        raise NervesegError(
            f"{path}: {error} is missing, or no transform of albumentations {A.__version__}. Use a file that "
            "albumentations.save has written."
        ) from None
    except (ValueError, TypeError, AttributeError, UserWarning) as error:
        raise NervesegError(f"{path} is not a pipeline of albumentations {A.__version__}: {error}") from None
    return pipeline if isinstance(pipeline, A.Compose) else A.Compose([pipeline])


def _without_former_arguments(node: Any) -> Any:
    """A serialised pipeline without what albumentations 1 wrote for every transform and 2 does not know.

    `always_apply: false` says nothing. Only its value true is left, to be refused: it overrode `p`.
    """
    if isinstance(node, dict):
        kept = {name: value for name, value in node.items() if (name, value) != ("always_apply", False)}
        return {name: _without_former_arguments(value) for name, value in kept.items()}
    if isinstance(node, list):
        return [_without_former_arguments(part) for part in node]
    return node


def _leaves(node: A.BasicTransform | A.BaseCompose) -> Iterator[A.BasicTransform]:
    """The transforms of a pipeline that can be applied."""
    if node.p > 0:
        if isinstance(node, A.BaseCompose):
            for part in node.transforms:
                yield from _leaves(part)
        else:
            yield node


def _flips_of(transform: A.BasicTransform) -> Sequence[Flip]:
    return [flip for kind, flips in _FLIPS.items() if isinstance(transform, kind) for flip in flips]
