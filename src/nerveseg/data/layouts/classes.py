"""Which classes of a dataset are nerve."""

from collections import Counter
from collections.abc import Iterable, Sequence

from nerveseg.data.layouts.dataset import Dataset
from nerveseg.errors import NervesegError

_SHOWN = 20


def example(labels: Iterable[str]) -> str:
    """The class to name in advice: the first that is called nerve, otherwise the first."""
    return min(labels, key=lambda label: "nerve" not in label.casefold())


def chosen(
    dataset: Dataset,
    source: str,
    key: str,
    classes: Sequence[int | str] | None,
    masks: Counter[str | None],
) -> set[str | None]:
    """The classes that are nerve.

    Errors go to the dataset's findings: "several classes", where none is chosen, and "missing class".

    Args:
        source: the file that has the classes.
        key: what says in it of which class a mask is, such as "class_id".
        classes: `data.classes`.
        masks: the number of masks of each class, also of those without any; None: of masks without a class.

    Raises:
        NervesegError: `classes` has a value that the dataset does not have.
    """
    dataset.classes.update({label: number for label, number in masks.items() if label is not None})
    labels = [label for label, _ in masks.most_common() if label is not None]
    listed = ", ".join(f"{label[:40]} ({masks[label]} masks)" for label in labels[:_SHOWN])
    listed += ", ..." if len(labels) > _SHOWN else ""
    found = {label for label, number in masks.items() if number}
    if classes is not None:
        wanted = set(map(str, classes))
        if unknown := sorted(wanted - set(masks)):
            has = f"by {key}, it has {listed}" if labels else "it has none: set data.classes: null"
            raise NervesegError(f"data.classes has {', '.join(unknown)}, which is no class of {source}; {has}.")
        found = {*wanted}
    elif len(found - {None}) > 1:
        detail = f"has masks of several classes by {key}: {listed}. Set data.classes to those that are nerve"
        dataset.error("several classes", source, f"{detail}, such as data.classes: [{example(labels)}]")
    if len(masks) > 1 and masks[None]:
        dataset.error("missing class", source, f"{masks[None]} masks have no {key}; others have one")
    return found
