"""COCO's layout: images in any folder, and JSON files such as instances_train.json with polygons or run lengths.

As CVAT, Label Studio, Roboflow and others export it. Format: https://cocodataset.org/#format-data
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from nerveseg.arrays import Ints
from nerveseg.data import documents
from nerveseg.data.archive import Archive
from nerveseg.data.decoding import Region
from nerveseg.data.layouts import drawn
from nerveseg.data.layouts.dataset import Choices, Dataset
from nerveseg.data.layouts.drawn import Entry, Labelled
from nerveseg.data.layouts.members import Images
from nerveseg.data.outlines import CocoRuns, Polygon
from nerveseg.errors import NervesegError

NAME = "coco"
EXPECTED = "images and COCO's JSON with images, annotations and categories"

_LIST = re.compile(r'"(images|annotations|categories)"\s*:\s*\[\s*\{')
_KEY = re.compile(r'"(file_name|image_id|category_id|segmentation|supercategory)"\s*:')


class _Image(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    id: int | str
    name: str


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int | str | None = None
    segmentation: tuple[Any, ...] = ()  # of regions, after `_convert`


class _Document(BaseModel):
    images: list[_Image]
    categories: list[_Category] = []
    annotations: list[_Annotation] = []


def evidence(archive: Archive, choices: Choices) -> str:
    found = _files(archive)
    return f"{found[0]} has COCO's keys" if found else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    files = _files(archive)
    found = {
        name: document
        for name, document in _documents(archive, files)
        if any(annotation.segmentation for annotation in document.annotations)
    }
    if not found:
        raise NervesegError(
            f"{', '.join(files)} in {archive.path}: no annotation has an outline, which is a segmentation of "
            "polygons or run lengths. Boxes, points and captions are no masks."
        )
    if choices.classes is not None:
        choices = replace(choices, classes=_names(choices.classes, found))
    entries = [entry for source, document in found.items() for entry in _entries(archive, source, document)]
    dataset = drawn.assemble(NAME, Images(archive.names), entries, choices, "category")
    if empty := sum(not entry.drawn for entry in entries):
        dataset.warn(
            "no annotation",
            dataset.table,
            f"{empty} of {len(entries)} images have no annotation and are read as frames without a nerve; leave them "
            "out of the JSON if nobody has looked at them",
        )
    return dataset


def _files(archive: Archive) -> list[str]:
    starts = {name: documents.start(archive, name) for name in documents.candidates(archive)}
    return [name for name, start in starts.items() if start[:1] == "{" and _LIST.search(start) and _KEY.search(start)]


def _documents(archive: Archive, files: Sequence[str]) -> Iterator[tuple[str, _Document]]:
    for name, content in documents.read(archive, files, _convert):
        try:
            yield name, _Document.model_validate(content)
        except ValidationError as error:
            problem = documents.first_problem(error)
            raise NervesegError(f"{name} in {archive.path} is not COCO's JSON: {problem}.") from None


def _convert(found: dict[str, Any]) -> dict[str, Any]:
    """Replaces a segmentation by its regions, which take less memory than lists."""
    if "segmentation" in found:
        try:
            found["segmentation"] = tuple(_regions(found["segmentation"]))
        except (TypeError, ValueError, OverflowError, KeyError):
            raise ValueError(
                f"the segmentation of annotation {found.get('id')} consists neither of polygons nor of run lengths"
            ) from None
    return found


def _regions(segmentation: Any) -> Iterator[Region]:
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        yield CocoRuns((int(height), int(width)), counts if isinstance(counts, str) else _integers(counts))
        return
    for numbers in segmentation or ():
        points = np.array(numbers, np.float64)
        if points.ndim != 1:
            raise ValueError
        yield Polygon(points)


def _integers(counts: list[int]) -> Ints:
    found = np.array(counts)
    if found.ndim != 1 or found.dtype != np.int64:
        raise ValueError
    return found


def _names(classes: Sequence[int | str], found: Mapping[str, _Document]) -> list[str]:
    """The names of the categories that `data.classes` has by their names or ids.

    Raises:
        NervesegError: one of them means several.
    """
    categories = [category for document in found.values() for category in document.categories]
    names = []
    for value in map(str, classes):
        meant = sorted({category.name for category in categories if value in (category.name, str(category.id))})
        if len(meant) > 1:
            raise NervesegError(
                f"data.classes has {value}, which is the name or id of several categories of {', '.join(found)}: "
                f"{', '.join(meant)}. Give them names of their own, or leave out what does not belong to the dataset."
            )
        names += meant or [value]
    return names


def _entries(archive: Archive, source: str, document: _Document) -> list[Entry]:
    for kind, ids in (
        ("images", [image.id for image in document.images]),
        ("categories", [category.id for category in document.categories]),
    ):
        if len(ids) > len(set(ids)):
            twice = Counter(ids).most_common(1)[0][0]
            raise NervesegError(f"{source} in {archive.path} has several {kind} of the id {twice}. Keep one of them.")
    names = {category.id: category.name for category in document.categories}
    entries = {
        image.id: Entry(
            source,
            image.file_name,
            image.model_extra or {},
            (image.height, image.width) if image.height and image.width else None,
        )
        for image in document.images
    }
    strays = [annotation for annotation in document.annotations if annotation.image_id not in entries]
    if strays:
        raise NervesegError(
            f"{source} in {archive.path} has {len(strays)} annotations of images that it does not list, such as one of "
            f"image_id {strays[0].image_id}. List the images, or leave the annotations out."
        )
    for annotation in document.annotations:
        category = annotation.category_id
        label = None if category is None else names.get(category, str(category))
        entries[annotation.image_id].drawn.append(Labelled(label, annotation.segmentation))
    return list(entries.values())
