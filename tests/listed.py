"""Datasets of small files, as a layout lists them."""

from pathlib import Path
from typing import Any

import pytest

from dataset_zips import frame, image, write_zip
from nerveseg import params, paths
from nerveseg.arrays import Frame, Mask
from nerveseg.data.archive import Archive
from nerveseg.data.layouts import detect
from nerveseg.data.layouts.dataset import Choices, Dataset
from nerveseg.errors import NervesegError

SHIPPED = params.load(Path(__file__).parents[1] / paths.PARAMS).data
PNG = image(frame(1), "png")
TIF = image(frame(1))


def find(tmp_path: Path, members: dict[str, bytes], layout: str = "auto", **choices: Any) -> Dataset:
    """Lists a zip of `members`, with params.yaml's own values but for these."""
    choices = {"classes": SHIPPED.classes, "mask_suffixes": SHIPPED.mask_suffixes} | choices
    with Archive(write_zip(tmp_path / "a.zip", members)) as archive:
        return detect.find(archive, layout, Choices(**choices))


def pixels(tmp_path: Path, members: dict[str, bytes], **choices: Any) -> dict[str, tuple[Frame, Mask]]:
    """The frames and masks of a zip of `members`, which has no errors, by name."""
    dataset = find(tmp_path, members, **choices)
    assert [finding for finding in dataset.findings if finding.severity == "error"] == []
    with Archive(tmp_path / "a.zip") as archive:
        frames = {record.image: record.frame.read(archive).pixels for record in dataset.records}
        return {
            r.image: (frames[r.image], r.mask.read(archive, frames[r.image]).pixels) for r in dataset.records if r.mask
        }


def refusal(tmp_path: Path, members: dict[str, bytes], layout: str = "auto", **choices: Any) -> str:
    """The error of `find`."""
    with pytest.raises(NervesegError) as error:
        find(tmp_path, members, layout, **choices)
    return str(error.value)


def kinds(dataset: Dataset) -> list[tuple[str, str, str]]:
    """Severity, kind and image of each finding."""
    return [(finding.severity, finding.kind, finding.image) for finding in dataset.findings]
