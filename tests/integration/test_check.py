"""A mistake in params.yaml costs nothing: DVC finds it before it deletes the outputs of the stage that is stale."""

from pathlib import Path

from workspace import Workspace


def test_a_misspelt_parameter_deletes_nothing(trained: Workspace, tmp_path: Path) -> None:
    """With DVC, which deletes the outputs of a stage before it runs it."""
    workspace = trained.copy(tmp_path / "project")
    right = (workspace.root / "params.yaml").read_text()
    outputs = set(workspace.root.glob("models/*"))
    assert outputs
    workspace.set(**{"train.epoch": 3, "model.height": 100})
    said = workspace.run("dvc", "repro", "train", ok=False)
    assert "train.epoch: unknown key; did you mean train.epochs?" in said
    assert "model.height: " in said, "all mistakes at once"
    assert "Running stage 'train'" not in said
    assert set(workspace.root.glob("models/*")) == outputs
    (workspace.root / "params.yaml").write_text(right)
    assert "Running stage" not in workspace.run("dvc", "repro", "train"), "with the mistake undone, nothing runs"


def test_an_augmentation_that_cannot_be_used_is_found_first(tmp_path: Path) -> None:
    """As a stage: it looks at files of the workspace."""
    workspace = Workspace(tmp_path / "project")
    own = workspace.root / "augmentation" / "own.json"
    workspace.set(**{"train.augmentation": "augmentation/own.json"})
    assert "train.augmentation: augmentation/own.json cannot be read" in workspace.stage("check", ok=False)
    own.write_text('{"transform": {"__class_fullname__": "RandomCrop", "height": 32, "width": 32, "p": 1}}')
    assert "augmentation/own.json makes a uint8 frame of (32, 32)" in workspace.stage("check", ok=False)
    own.write_text('{"transform": {"__class_fullname__": "Blur", "p": 1}}')
    workspace.stage("check")
    workspace.set(**{"model.flips": True})
    assert "train.augmentation has none: set model.flips: false" in workspace.stage("check", ok=False)
    own.write_text('{"transform": {"__class_fullname__": "HorizontalFlip", "p": 0.5}}')
    workspace.stage("check")
