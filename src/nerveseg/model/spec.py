"""What `model.json` holds: enough to rebuild a network and to feed it, read without torch."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nerveseg.errors import NervesegError
from nerveseg.files import read_json

SPEC_FILE = "model.json"


class ModelSpec(BaseModel):
    """The network by its names, the pixels it sees, and the probability from which a pixel is nerve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    encoder: str
    height: int  # pixels the network sees
    width: int
    threshold: float
    # ImageNet's channel means and deviations, averaged: frames are grey. https://pytorch.org/vision/stable/models.html
    mean: float = 0.449
    std: float = 0.226


def read_spec(folder: Path) -> ModelSpec:
    """The spec of the model in `folder`. Raises NervesegError where it is missing or describes no network."""
    try:
        return ModelSpec.model_validate(read_json(folder / SPEC_FILE))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) or "all of it" for detail in error.errors())
        raise NervesegError(
            f"{folder / SPEC_FILE} describes no network ({wrong} does not fit): `dvc repro train` makes it anew, "
            "`dvc pull` brings it."
        ) from None
