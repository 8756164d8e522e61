"""What `model.json` holds: enough to rebuild a network and to feed it, read without torch."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from nerveseg.errors import NervesegError
from nerveseg.files import read_json, write_json

SPEC_FILE = "model.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Record):
    """Mean and standard deviation of a figure."""

    mean: float
    deviation: float


class Place(_Record):
    """Mean and inverse covariance of centroids, row and column in shares of a frame's height and width."""

    mean: tuple[float, float]
    inverse_covariance: tuple[tuple[float, float], tuple[float, float]]


class Outlines(_Record):
    """Figures of masks that are not empty."""

    area: Spread  # of the logarithm of the share of the frame
    residual: Spread  # of what no ellipse explains, in [0, 1]
    place: Place
    odd: float  # squared distance that one training mask in twenty exceeds


class Plausibility(_Record):
    """What the true masks of the training frames are like: model/plausibility.py fits it and judges by it."""

    empty_share: float
    outlines: Outlines | None  # None: no training frame has a nerve


class NetworkSpec(_Record):
    """The network by its names, and the pixels it sees: what a training needs to know."""

    architecture: str
    encoder: str
    height: int  # pixels the network sees
    width: int
    # ImageNet's channel means and deviations, averaged: frames are grey. https://pytorch.org/vision/stable/models.html
    mean: float = 0.449
    std: float = 0.226


class ModelSpec(NetworkSpec):
    """The network, how it is asked, and what its masks should be like.

    What has a default may be missing from files of older versions.
    """

    threshold: float  # probability from which a pixel is nerve
    flips: bool = False  # whether the probabilities of a frame and its flips are averaged
    members: PositiveInt = 1  # networks whose probabilities are averaged
    plausibility: Plausibility | None = None


def read_spec(folder: Path) -> ModelSpec:
    """The spec of the model in `folder`. Raises NervesegError where it is missing or describes no network."""
    try:
        return ModelSpec.model_validate(read_json(folder / SPEC_FILE))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) or "all of it" for detail in error.errors())
        raise NervesegError(
            f"{folder / SPEC_FILE} describes no network ({wrong} does not fit): `dvc repro calibrate` makes it anew, "
            "`dvc pull` brings it."
        ) from None


def write_spec(spec: ModelSpec, folder: Path) -> None:
    """Writes `model.json` into `folder`."""
    write_json(folder / SPEC_FILE, spec.model_dump())
