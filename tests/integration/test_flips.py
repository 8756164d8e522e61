"""model.flips: calibrate averages over the flips that the training recorded, and over no others."""

import json
from pathlib import Path

import pytest

from workspace import Workspace


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """A trained workspace that wants flips."""
    workspace = trained.copy(tmp_path / "project")
    workspace.set(**{"model.flips": True})
    return workspace


def recorded(workspace: Workspace, name: str) -> list[str]:
    flips: list[str] = json.loads((workspace.root / "models" / name).read_text())["flips"]
    return flips


def record(workspace: Workspace, flips: list[str]) -> None:
    """Has the training record other flips than it had."""
    path = workspace.root / "models" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flips": flips}))


def test_a_model_has_the_flips_of_its_training(workspace: Workspace) -> None:
    assert recorded(workspace, "run.json") == ["horizontal", "vertical"], "the recipe card's"
    assert recorded(workspace, "model.json") == []
    record(workspace, ["horizontal"])
    workspace.stage("calibrate")
    assert recorded(workspace, "model.json") == ["horizontal"]


def test_a_network_trained_without_flips_refuses_them(workspace: Workspace) -> None:
    record(workspace, [])
    said = workspace.stage("calibrate", ok=False)
    assert "model.flips: true averages over the flips that the network was trained with" in said
    assert recorded(workspace, "model.json") == []
