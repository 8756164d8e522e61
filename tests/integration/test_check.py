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
