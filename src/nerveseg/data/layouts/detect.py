"""Finds the layout of a dataset zip.

To add a layout, write a module with what `dataset.Layout` asks for and its test, and put it into `LAYOUTS` here, into
`data.layout` of params.py and into the list of docs/reference.md.
"""

from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.data.layouts import dicom, hydrogen_torch, nnunet, pairs
from nerveseg.data.layouts.dataset import Choices, Dataset, Layout, inventory
from nerveseg.errors import NervesegError

LAYOUTS: tuple[Layout, ...] = (dicom, hydrogen_torch, pairs, nnunet)


def find(archive: Archive, name: str, choices: Choices) -> Dataset:
    """Lists the frames of a dataset, without decoding them.

    Args:
        archive: the zip.
        name: `data.layout`: that of a layout, or "auto".
        choices: how to read it.

    Raises:
        NervesegError: it does not have the layout, has none or several; or as by the layout's `read`.
    """
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
        if archive.hides_names:  # which the reasons may have
            reasons = " and ".join(layout.NAME for layout, _ in fitting)
        else:
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
    """The layouts that a dataset may have, each with its evidence."""
    return [(layout, reason) for layout in LAYOUTS if (reason := layout.evidence(archive, choices))]


def _found(archive: Archive) -> str:
    if archive.hides_names:
        return f"{len(archive.names)} files, whose names are not shown, because those of DICOM files may be people's"
    columns = {name: tables.columns(archive, name) for name in archive.names if tables.is_table(name)}
    described = [f"{name} with the columns {', '.join(names[:20])}" for name, names in columns.items()]
    return "; ".join([inventory(archive.names), *described])
