"""Label Studio's layout: images in any folder, and its JSON export of tasks with brush masks or polygons.

Format: https://labelstud.io/guide/export and https://labelstud.io/guide/task_format
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

from nerveseg.arrays import Floats
from nerveseg.data import documents
from nerveseg.data.archive import Archive
from nerveseg.data.brush import Brush
from nerveseg.data.decoding import Region
from nerveseg.data.layouts import drawn
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, Choices, Dataset, has_suffix
from nerveseg.data.layouts.drawn import Entry, Labelled
from nerveseg.data.layouts.members import Images
from nerveseg.data.outlines import Polygon
from nerveseg.errors import NervesegError

NAME = "label-studio"
EXPECTED = "images and Label Studio's JSON export"

_TASKS = re.compile(r'\[\s*\{.*?"(annotations|completions)"\s*:\s*\[', re.DOTALL)
_BRUSH_EXPORT = re.compile(r"(?:.*/)?task-\d+-annotation-\d+-by-[^/]*\.(png|npy)")
_ABOUT_THE_IMAGE = ("choices", "datetime", "number", "rating", "relation", "taxonomy", "textarea")  # these draw nothing


class _Result(BaseModel):
    id: str | int | None = None
    type: str
    value: dict[str, Any] = {}
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float | None = None


class _Annotation(BaseModel):
    result: list[_Result] = []
    ground_truth: bool | None = None
    was_cancelled: bool | None = Field(None, validation_alias=AliasChoices("was_cancelled", "skipped"))


class _Task(BaseModel):
    id: int | str | None = None
    data: dict[str, Any]
    annotations: list[_Annotation] = Field([], validation_alias=AliasChoices("annotations", "completions"))


def evidence(archive: Archive, choices: Choices) -> str:
    if found := _files(archive):
        return f"{found[0]} lists Label Studio's tasks"
    if masks := _brush_exports(archive):
        return f"it has brush masks of Label Studio such as {masks[0]}"
    return ""


def read(archive: Archive, choices: Choices) -> Dataset:
    files, masks = _files(archive), _brush_exports(archive)
    if not files:
        raise NervesegError(
            f"{archive.path} has brush masks of Label Studio such as {masks[0]}, but nothing says of which images they "
            "are. Export the project as JSON, which holds these masks too, and add that file."
        )
    tasks = [(source, task) for source, tasks in _documents(archive, files) for task in tasks]
    entries = [entry for source, task in tasks if (entry := _entry(archive, source, task))]
    if not entries:
        raise NervesegError(f"{', '.join(files)} in {archive.path}: no task has an annotation.")
    images = Images(sorted({*archive.names} - {*masks}))
    dataset = drawn.assemble(NAME, images, entries, choices, "label")
    if masks:
        detail = f"{len(masks)} brush masks such as this are not read: {dataset.table} holds them too"
        dataset.warn("ignored file", masks[0], detail)
    return dataset


def _files(archive: Archive) -> list[str]:
    return [name for name in documents.candidates(archive) if _TASKS.match(documents.start(archive, name))]


def _brush_exports(archive: Archive) -> list[str]:
    return [name for name in archive.names if _BRUSH_EXPORT.fullmatch(name)]


def _documents(archive: Archive, files: Sequence[str]) -> Iterator[tuple[str, list[_Task]]]:
    tasks = TypeAdapter(list[_Task])
    for name, content in documents.read(archive, files, _convert):
        try:
            yield name, tasks.validate_python(content)
        except ValidationError as error:
            raise NervesegError(
                f"{name} in {archive.path} is not Label Studio's JSON export: {documents.first_problem(error)}."
            ) from None


def _convert(found: dict[str, Any]) -> dict[str, Any]:
    """Replaces a brush mask and points by what takes less memory; left as they are if they are something else."""
    for key, kind in (("rle", bytes), ("points", _points)):
        if isinstance(found.get(key), list):
            with suppress(TypeError, ValueError, OverflowError):
                found[key] = kind(found[key])
    return found


def _points(pairs: list[Any]) -> Floats:
    points = np.array(pairs, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError
    return points


def _entry(archive: Archive, source: str, task: _Task) -> Entry | None:
    """The image of a task; None: nobody has annotated it."""
    done = [annotation for annotation in task.annotations if not annotation.was_cancelled]
    if not done:
        return None
    truths = [annotation for annotation in done if annotation.ground_truth]
    results = [
        result
        for result in (truths if len(truths) == 1 else done)[0].result
        if result.type.lower() not in _ABOUT_THE_IMAGE
    ]
    sizes = {(result.original_height or 0, result.original_width or 0) for result in results}
    size = next(iter(sizes), (0, 0))
    key = _image_key(archive, source, task)
    entry = Entry(
        source,
        _path(task.data[key]),
        {name: value for name, value in task.data.items() if name != key},
        size if all(size) else None,
        list(_labelled(results, *size)),
    )
    if len(done) > 1 and len(truths) != 1:
        detail = f"task {task.id} in {source} has {len(done)} annotations; leave one, or make one the ground truth"
        entry.problems.append(("several annotations", detail))
    if len(sizes) > 1:
        entry.problems.append(("size mismatch", f"task {task.id} in {source} has regions of images of several sizes"))
    if any((result.image_rotation or 0) % 360 for result in results):
        detail = f"was rotated in Label Studio when task {task.id} in {source} was annotated; annotate it as it is"
        entry.problems.append(("rotated image", detail))
    return entry


def _labelled(results: Sequence[_Result], height: int, width: int) -> Iterator[Labelled]:
    """What was drawn; the tags Brush or Polygon beside the tag Labels have two results of one id for it."""
    together = defaultdict(list)
    for number, result in enumerate(results):
        together[result.id or number].append(result)
    for same in together.values():
        values = [result.value for result in same]
        labels = dict.fromkeys(str(name) for value in values for name in _names(value))
        drawn_once = [region for value in values if (region := _region(value, height, width))][:1]
        for label in labels or (None,):
            yield Labelled(label, tuple(drawn_once))


def _names(value: dict[str, Any]) -> Iterator[Any]:
    for key, names in value.items():
        if key.endswith("labels") and isinstance(names, list):
            yield from names


def _region(value: dict[str, Any], height: int, width: int) -> Region | None:
    if isinstance(stream := value.get("rle"), bytes):
        return Brush(stream)
    if isinstance(points := value.get("points"), np.ndarray):
        return Polygon((points / 100 * [width, height]).ravel())  # in percent
    return None


def _image_key(archive: Archive, source: str, task: _Task) -> str:
    """The key of the data that is the image's address."""
    found = [
        key for key, value in task.data.items() if isinstance(value, str) and has_suffix(_path(value), IMAGE_SUFFIXES)
    ]
    if len(found) != 1:
        raise NervesegError(
            f"task {task.id} of {source} in {archive.path} has {len(found)} addresses of images in its data: it "
            "takes one, of a PNG, JPEG, TIFF or BMP."
        )
    return found[0]


def _path(address: str) -> str:
    """The path of a file that was uploaded, in local storage (`?d=`) or at a URL; otherwise the address itself."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
