"""What a dataset is read as: facts to show, and the sections of params.yaml that use it."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from nerveseg.data import subjects
from nerveseg.data.layouts.dataset import Choices, Dataset, Record
from nerveseg.data.names import natural_key

_EXAMPLES = 3
_CLASSES_SHOWN = 20
_FOLDS_SHOWN = 10


def facts(dataset: Dataset, classes: Sequence[int | str] | None) -> dict[str, str]:
    """How frames, subjects, sites, classes, folds and pixel spacing are read, by these names, each with examples.

    Args:
        dataset: with its subjects assigned.
        classes: those that are nerve; None: not said.
    """
    return {
        "frames": _counted([record.image for record in dataset.records]),
        "subjects": _subjects(dataset),
        "sites": _sites(dataset),
        "classes": _classes(dataset, classes),
        "folds": _folds(dataset.records),
        "pixel spacing": _spacings(dataset.records),
    }


def is_ambiguous(dataset: Dataset, classes: Sequence[int | str] | None) -> bool:
    """Whether several classes have masks, and nothing says which of them are nerve."""
    return classes is None and sum(number != 0 for number in dataset.classes.values()) > 1


def sections(uri: str, dataset: Dataset, subject: str, choices: Choices) -> dict[str, dict[str, Any]]:
    """An overlay of params.yaml that uses the dataset as it was read.

    Args:
        subject, choices: `data.subject` and the other parameters as they held.

    Returns:
        The section `data` and, if the folds of the dataset can be used, `split`.
    """
    data = {
        "uri": uri,
        "version_id": None,
        "sha256": None,
        "layout": dataset.layout,
        "mask_suffixes": _in_one_line(choices.mask_suffixes),
        "subject": subject,
        "classes": None if choices.classes is None else _in_one_line(choices.classes),
    }
    folds = _usable_folds(dataset.records)
    if not folds:
        return {"data": data}
    validation = folds[-2] if len(folds) > 2 else None
    by_fold = {"by": "fold", "validation_fold": validation, "test_fold": folds[-1], "folds": None, "fold": None}
    return {"data": data, "split": by_fold}


def as_yaml(content: dict[str, Any]) -> str:
    """An overlay as a file has it."""
    yaml = YAML()
    yaml.width = 4096  # do not wrap lines
    yaml.representer.add_representer(
        type(None), lambda each, _: each.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def _in_one_line(values: Sequence[int | str]) -> CommentedSeq:
    listed = CommentedSeq(values)
    listed.fa.set_flow_style()
    return listed


def _subjects(dataset: Dataset) -> str:
    first = _first((record.subject, record.image) for record in dataset.records)
    read = subjects.described(dataset)
    return f"{_read_from(first) if first else 'none'}. {read}"


def _sites(dataset: Dataset) -> str:
    first = _first((record.site, record.image) for record in dataset.records)
    if not first:
        return "none is known"
    return f"{_read_from(first)}. They were read from {dataset.site_from or 'the file names by data.subject'}."


def _classes(dataset: Dataset, classes: Sequence[int | str] | None) -> str:
    if not dataset.classes:
        return _with_choice("the masks have no names of classes", classes)
    most = sorted(dataset.classes.items(), key=lambda each: -(each[1] or 0))
    shown = [name[:40] + ("" if number is None else f" ({number} masks)") for name, number in most[:_CLASSES_SHOWN]]
    listed = ", ".join(shown) + (", ..." if len(most) > _CLASSES_SHOWN else "")
    if is_ambiguous(dataset, classes):
        return f"{listed}. Nothing says which of them are nerve"
    return _with_choice(listed, classes)


def _with_choice(listed: str, classes: Sequence[int | str] | None) -> str:
    return listed if classes is None else f"{listed}. Read as nerve: {', '.join(map(str, classes))}"


def _folds(records: Sequence[Record]) -> str:
    images = defaultdict(list)
    for record in records:
        if record.fold is not None:
            images[record.fold].append(record.image)
    if not images:
        return "the dataset has none of its own"
    counts = [f"fold {fold} has {_counted(images[fold])}" for fold in sorted(images)]
    listed = "; ".join(counts[:_FOLDS_SHOWN]) + ("; ..." if len(counts) > _FOLDS_SHOWN else "")
    without = sum(record.fold is None for record in records)
    why_not = f". {without} frames have none, so they cannot divide the frames" if without else ""
    if split := _in_several_folds(records):
        why_not += f". {len(split)} subjects are in several, such as {split[0]}, so they cannot divide the subjects"
    return f"{len(images)}; {listed}{why_not}"


def _usable_folds(records: Sequence[Record]) -> list[int]:
    """The folds, if there are several, every frame has one and every subject is in one; otherwise none."""
    folds = {record.fold for record in records}
    if None in folds or len(folds) < 2 or _in_several_folds(records):
        return []
    return sorted(fold for fold in folds if fold is not None)


def _in_several_folds(records: Sequence[Record]) -> list[str]:
    folds = defaultdict(set)
    for record in records:
        folds[record.group].add(record.fold)
    return sorted((group for group, of in folds.items() if len(of) > 1), key=natural_key)


def _counted(images: Sequence[str]) -> str:
    number = f"{len(images)} frame{'' if len(images) == 1 else 's'}"
    return f"{number}, such as {', '.join(images[:_EXAMPLES])}" if images else number


def _first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of each value but the empty one the first frame, in natural order."""
    first: dict[str, str] = {}
    for value, image in pairs:
        if value:
            first.setdefault(value, image)
    return {value: first[value] for value in sorted(first, key=natural_key)}


def _read_from(first: dict[str, str]) -> str:
    shown = [f"{value} from {image}" for value, image in list(first.items())[:_EXAMPLES]]
    return f"{len(first)}, such as {', '.join(shown)}"


def sizes(found: Iterable[tuple[int, int]]) -> str:
    """The sizes of frames (height, width), the most frequent first; empty: "unknown"."""
    return _most_frequent(f"{width}x{height}" for height, width in found) or "unknown"


def _spacings(records: Sequence[Record]) -> str:
    if all(record.spacing_mm is None for record in records):
        return "unknown"
    return _most_frequent(
        f"{record.spacing_mm[0]:.3g} mm between rows and {record.spacing_mm[1]:.3g} mm between columns"
        if record.spacing_mm
        else "unknown"
        for record in records
    )


def _most_frequent(texts: Iterable[str]) -> str:
    counts = Counter(texts).most_common()
    shown = [f"{text} ({number})" for text, number in counts[:_EXAMPLES]]
    return ", ".join(shown) + (f" and {len(counts) - _EXAMPLES} more" if len(counts) > _EXAMPLES else "")
