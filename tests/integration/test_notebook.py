"""The notebook, run from its first cell to its last."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets.config import Config

from preload import VARIABLE
from workspace import ROOT

TOUR = ROOT / "notebooks/tour.ipynb"


class Preloaded(AsyncKernelManager):
    """A kernel in a fork of the preloaded process, reached through a socket file."""

    @property
    def kernel_spec(self) -> KernelSpec:
        python = f"{os.environ[VARIABLE]}/python"
        return KernelSpec(argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def checkout() -> dict[Path, int]:
    """What lies in the repository's folder, and since when."""
    return {path: path.stat().st_mtime_ns for path in ROOT.glob("*")}


def test_the_tour_goes_from_parameters_to_an_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as it is committed, so it trains: a reader would train the same network for as long."""
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    before = checkout()
    tour = nbformat.read(TOUR, as_version=4)
    NotebookClient(
        tour,
        config=Config(KernelManager={"transport": "ipc", "ip": str(tmp_path / "kernel")}),
        kernel_manager_class=Preloaded,
        timeout=300,
        resources={"metadata": {"path": str(TOUR.parent)}},
    ).execute()

    outputs = {cell.id: cell.outputs for cell in tour.cells if cell.cell_type == "code"}
    text = str(outputs)
    assert re.findall(r"epoch (\d+)   Dice:", text) == [str(epoch) for epoch in range(1, 9)]
    (mean,) = re.findall(r"mean +(0\.\d+)", text)
    assert float(mean) > 0.7, "the network has learned where the nerve is"
    assert "image/png" in outputs[tour.cells[-1].id][-1].data
    assert not re.search("warning", text, re.IGNORECASE)
    assert checkout() == before, "the checkout stays as it was"


def test_the_tour_is_committed_without_outputs() -> None:
    tour = nbformat.read(TOUR, as_version=4)
    nbformat.validate(tour)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert "pip install jupyterlab" in tour.cells[0].source
