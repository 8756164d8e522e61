"""The content of `model.json`: everything besides the weights that scoring needs. Read without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, field_validator

from nerveseg.errors import NervesegError
from nerveseg.files import read_json, write_json

SPEC_FILE = "model.json"
Flip = Literal["horizontal", "vertical"]  # left and right swapped; up and down
BOTH_FLIPS: tuple[Flip, ...] = ("horizontal", "vertical")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Record):
    """Mean and standard deviation."""

    mean: float
    deviation: float


class Place(_Record):
    """Mean and inverse covariance of centroids: row and column as shares of the frame's height and width."""

    mean: tuple[float, float]
    inverse_covariance: tuple[tuple[float, float], tuple[float, float]]


class Outlines(_Record):
    """Statistics of the masks that are not empty."""

    area: Spread  # of the logarithm of the share of the frame
    residual: Spread  # of 1 minus the Dice with the ellipse, in [0, 1]
    place: Place
    odd: float  # 95th percentile of the squared distance of the training masks


class Plausibility(_Record):
    """Statistics of the true masks of the training frames, for model/plausibility.py."""

    empty_share: float
    outlines: Outlines | None  # None: no training frame has a nerve


class NetworkSpec(_Record):
    """The network by its names, and the pixels it sees: what a training needs to know."""

    architecture: str
    encoder: str
    height: int  # network input, pixels
    width: int
    # ImageNet's channel means and deviations, averaged: frames are grey. https://pytorch.org/vision/stable/models.html
    mean: float = 0.449
    std: float = 0.226


class ModelSpec(NetworkSpec):
    """The network, how its output is used, and the statistics of its training masks.

    Fields with a default may be missing in files from older versions.
    """

    threshold: float  # a pixel is nerve from this probability up
    flips: tuple[Flip, ...] = ()  # the probabilities of a frame and of it flipped so, and by both, are averaged
    members: PositiveInt = 1  # networks whose probabilities are averaged
    plausibility: Plausibility | None = None

    @field_validator("flips", mode="before")
    @classmethod
    def _former_flips(cls, flips: Any) -> Any:
        """In files from older versions, `true` stands for both flips and `false` for none."""
        return (BOTH_FLIPS if flips else ()) if isinstance(flips, bool) else flips


def trained_flips(training: Mapping[str, Any]) -> tuple[Flip, ...]:
    """The flips of a training's augmentation. Args: training: the content of `run.json`.

    Older versions did not record them: they had the augmentations `soft`, with both flips, and `none`.
    """
    former = BOTH_FLIPS if training["params"]["train.augmentation"] == "soft" else ()
    return tuple(training.get("flips", former))


def usable_flips(wanted: bool, trained: Sequence[Flip]) -> tuple[Flip, ...]:
    """The flips that scoring averages over: those that the training's augmentation had, or none.

    A network scores a flipped frame well only if it has seen such frames.

    Args:
        wanted: the parameter `model.flips`.
        trained: the flips in the training's augmentation.

    Raises:
        NervesegError: they are wanted, and the training had none.
    """
    if wanted and not trained:
        raise NervesegError(
            "model.flips: true averages over the flips that the network was trained with, but train.augmentation has "
            "none: set model.flips: false, or train with flips, such as those of train.augmentation: soft."
        )
    return tuple(trained) if wanted else ()


def read_spec(folder: Path) -> ModelSpec:
    """The spec of the model in `folder`. Raises NervesegError if it is missing or invalid."""
    try:
        return ModelSpec.model_validate(read_json(folder / SPEC_FILE))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) or "the whole file" for detail in error.errors())
        raise NervesegError(
            f"{folder / SPEC_FILE} is not a valid spec of a network ({wrong}): `dvc repro calibrate` recreates it, "
            "`dvc pull` fetches it."
        ) from None


def write_spec(spec: ModelSpec, folder: Path) -> None:
    """Writes `model.json` into `folder`."""
    write_json(folder / SPEC_FILE, spec.model_dump())
