"""Datasets whose masks are regions, drawn on images and listed in JSON files."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from nerveseg.data.decoding import ImageFile, Region, Regions
from nerveseg.data.layouts import classes
from nerveseg.data.layouts.dataset import Choices, Dataset, Record, subject_column
from nerveseg.data.layouts.members import Images, parts_of, short_names, shown
from nerveseg.data.names import natural_key


@dataclass(frozen=True)
class Labelled:
    """What was drawn as one, and its class.

    Attributes:
        label: the class; None: it has none.
        regions: none, if it is a box, a point or the like.
    """

    label: str | None
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Entry:
    """An image as a JSON file lists it.

    Attributes:
        source: the JSON file.
        path: where the image is, as the file says.
        facts: what else it says of the image, by key.
        size: height and width of the image; None: not said, as where nothing was drawn.
        drawn: what was drawn on it.
        problems: kind and detail of errors that keep it from being read.
    """

    source: str
    path: str
    facts: Mapping[str, Any]
    size: tuple[int, int] | None = None
    drawn: list[Labelled] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def assemble(layout: str, images: Images, entries: Sequence[Entry], choices: Choices, key: str) -> Dataset:
    """The dataset of these images.

    Args:
        layout: its name.
        images: those of the zip.
        entries: the images with their regions.
        choices: `classes` are labels.
        key: what labels are called there, such as "category".

    Raises:
        NervesegError: two keys name the person scanned, or a class is chosen that there is not.
    """
    sources = list(dict.fromkeys(entry.source for entry in entries))
    listed = ", ".join(sources)
    keys = tuple(dict.fromkeys(key for entry in entries for key in entry.facts))
    subject = subject_column(keys, listed)
    dataset = Dataset(
        layout,
        table=listed,
        columns=keys,
        subject_from=f"the key {subject} of {listed}" if subject else "",
        site_from=f"the key site of {listed}" if "site" in keys else "",
    )
    if len(sources) > 1:
        dataset.warn_of_joined(sources)
    masks = Counter(each.label for entry in entries for each in entry.drawn)
    nerve = classes.chosen(dataset, listed, key, choices.classes, masks)
    placed = _placed(dataset, entries, images)
    names = short_names(placed)
    for member in sorted(placed, key=lambda member: natural_key(names[member])):
        entry, name = placed[member], names[member]
        facts = [_text(entry.facts.get(key)) for key in (subject, "site")]
        mask = _mask(dataset, name, entry, nerve)
        dataset.records.append(Record(name, facts[0], ImageFile(member), mask, site=facts[1]))
    unlabelled = images.others(placed)
    if unlabelled:
        dataset.warn_of_unlabelled(unlabelled, f"no annotations for them in {listed}")
    return dataset


def _mask(dataset: Dataset, name: str, entry: Entry, nerve: Collection[str | None]) -> Regions | None:
    shapes = [each.regions for each in entry.drawn if each.label in nerve]
    problems = list(entry.problems)
    if not all(shapes):
        detail = (
            f"has {shapes.count(())} annotations in {entry.source} that are boxes, points or the like; draw their "
            "outlines, or leave out their class by data.classes"
        )
        problems.append(("no outline", detail))
    if shapes and not entry.size:
        problems.append(("missing size", f"has no width and height in {entry.source}"))
    for kind, detail in problems:
        dataset.error(kind, name, detail)
    return None if problems else Regions(tuple(chain(*shapes)), entry.size, entry.source)


def _placed(dataset: Dataset, entries: Sequence[Entry], images: Images) -> dict[str, Entry]:
    """The entries by the image's name in the zip; where there is not exactly one, the dataset has a finding."""
    placed: dict[str, Entry] = {}
    for entry in entries:
        name = parts_of(entry.path)[-1]
        found = images.find(entry.path, entry.source)
        if not found:
            dataset.error("missing frame", name, f"is listed in {entry.source}, but is not in the zip")
        elif len(found) > 1:
            dataset.error(
                "duplicate name",
                name,
                f"is in the zip as {shown(found)}; write the folder before its name in {entry.source}",
            )
        elif found[0] in placed:
            others = f"{placed[found[0]].source} and {entry.source}"
            dataset.error("duplicate name", PurePosixPath(found[0]).name, f"is listed twice, in {others}; keep one")
        else:
            placed[found[0]] = entry
    return placed


def _text(fact: Any) -> str:
    return "" if fact is None else str(fact).strip()
