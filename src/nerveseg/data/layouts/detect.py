"""Finds the layout of a dataset zip.

To add a layout, write a module with what `dataset.Layout` asks for and its test, and put it into `LAYOUTS` here, into
`data.layout` of params.py and into the list of docs/reference.md.
"""

from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.data.layouts import coco, dicom, hydrogen_torch, label_studio, nnunet, pairs
from nerveseg.data.layouts.dataset import Choices, Dataset, Layout, inventory
from nerveseg.errors import NervesegError

LAYOUTS: tuple[Layout, ...] = (dicom, hydrogen_torch, pairs, nnunet, coco, label_studio)


def find(archive: Archive, name: str, choices: Choices) -> Dataset:
    """Lists the frames of a dataset, without decoding them.

    Args:
        archive: the zip.
        name: `data.layout`: that of a layout, or "auto".
        choices: how to read it.

    Raises:
        NervesegError: it does not have the layout, has none or several, or there is no such layout; or as by the
            layout's `read`.
    """
    require_known(name)
    if name != "auto":
        layout = next(layout for layout in LAYOUTS if name == layout.NAME)
        if not layout.evidence(archive, choices):
            raise NervesegError(
                f"{archive.path} does not have the layout {layout.NAME} (data.layout), which is {layout.EXPECTED}. "
                f"Found: {_found(archive)}."
            )
        return layout.read(archive, choices)
    fitting = recognised(archive, choices)
    if len(fitting) > 1:
        reasons = "; ".join(f"{layout.NAME}, because {reason}" for layout, reason in fitting)
        raise NervesegError(
            f"{archive.path} fits several layouts: {reasons}. Choose one by data.layout, or leave out what does not "
            "belong to the dataset."
        )
    if not fitting:
        expected = "; ".join(f"{layout.EXPECTED} ({layout.NAME})" for layout in LAYOUTS)
        raise NervesegError(f"{archive.path} has none of the layouts. Expected: {expected}. Found: {_found(archive)}.")
    return fitting[0][0].read(archive, choices)


def recognised(archive: Archive, choices: Choices) -> list[tuple[Layout, str]]:
    """The layouts that a dataset may have, each with its evidence, or without where that may have people's names."""
    found = [(layout, reason) for layout in LAYOUTS if (reason := layout.evidence(archive, choices))]
    hidden = "of what its files are called or hold"
    return [(each, hidden if archive.hides_names and each is not dicom else reason) for each, reason in found]


def _found(archive: Archive) -> str:
    if archive.hides_names:
        return inventory(archive)
    columns = {name: tables.columns(archive, name) for name in archive.names if tables.is_table(name)}
    described = [f"{name} with the columns {', '.join(names[:20])}" for name, names in columns.items()]
    return "; ".join([inventory(archive), *described])


def require_known(name: str) -> None:
    """Raises NervesegError if there is no layout of this name."""
    names = ["auto", *(layout.NAME for layout in LAYOUTS)]
    if name not in names:
        raise NervesegError(f"There is no layout {name}: use {', '.join(names)}.")
