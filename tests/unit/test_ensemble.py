"""By what the run of an ensemble is told from others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from nerveseg import ensemble
from nerveseg.ensemble import Member
from nerveseg.evaluation.card import Card


def run_of(*trainings: str, weights: str = "0" * 64, commit: str = "a") -> dict[str, Any]:
    """The record of the run of an ensemble of these trainings, here made on a server that has copies of their runs."""
    origins = SimpleNamespace(
        weights={"model.safetensors": weights}, code=SimpleNamespace(training={"git_commit": commit})
    )
    params = {"model.architecture": "Unet", "model.encoder": "resnet18", "frames.train": 7}
    records = [{"run_id": run_id, "params": params, "dataset": {}} for run_id in trainings]
    members = [Member(Path(), f"copy-{number}", "") for number in range(len(trainings))]
    return ensemble._run(members, records, cast(Card, SimpleNamespace(origins=origins)))


def test_the_same_weights_of_other_trainings_are_another_ensemble() -> None:
    """Trained again at another commit, they may be the same to the last bit; but the run names the former commit."""
    first = run_of("1", "2")
    assert run_of("1", "2")["run_id"] == first["run_id"]
    assert run_of("1", "3", commit="b")["run_id"] != first["run_id"]
    assert run_of("1", "2", weights="f" * 64)["run_id"] != first["run_id"]
    assert len(first["run_id"]) == 32
