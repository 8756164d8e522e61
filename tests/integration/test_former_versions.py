"""A version that nerveseg 0.1 registered and delivered: loaded, verified, served, predicted with, and compared with.

It lies in tests/data/registered_by_0_1.tar.xz; tests/data/make_former_version.py tells what is in it and made it.
"""

import json
import sqlite3
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nerveseg import tracking
from nerveseg.cli import app
from nerveseg.compare.run import compare
from nerveseg.data import rle
from nerveseg.evaluation import metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.files import parse_sums, read_json
from nerveseg.modelcard import card, smoke
from nerveseg.params import load
from nerveseg.prediction import batch as batches
from nerveseg.prediction import drift, files, inputs
from nerveseg.prediction.batch import Batch
from nerveseg.registry import bundle, delivery, verification
from nerveseg.stages import calibrate, evaluate, register, report
from nerveseg.storage import FolderStorage
from workspace import Workspace, entered, free_port, wait_for

ARCHIVE = Path(__file__).parents[1] / "data" / "registered_by_0_1.tar.xz"
FOLDER = "/FOLDER"  # stands in the archive for the folder that it was made in
NAME = "nerve-segmentation"
FORMERLY = "mistrust"  # codespell:ignore mistrust -- what 0.1 called atypicality


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project after an update of its code, with the files, MLflow store and delivery of the former."""
    folder = tmp_path_factory.mktemp("former")
    workspace = Workspace(folder / "project")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder)  # our own; Python has filters for others from 3.11.4 on
    for path in (workspace.root / "mlruns").rglob("MLmodel"):
        path.write_text(path.read_text().replace(FOLDER, str(folder)))
    with closing(sqlite3.connect(workspace.root / "mlflow.db")) as store:
        store.executescript((folder / "mlflow.sql").read_text().replace(FOLDER, str(folder)))
    workspace.set(**{"register.gate": "report"})
    return workspace


@pytest.fixture(autouse=True)
def project(workspace: Workspace) -> Iterator[Path]:
    """This process is in the workspace and has its environment."""
    with entered(workspace) as patch:
        patch.setattr(sys, "path", [*sys.path])  # MLflow puts the former code on it
        tracking.connect()
        yield workspace.root


@pytest.fixture
def bundles(project: Path) -> FolderStorage:
    return FolderStorage(project / "delivery")


@pytest.fixture
def recorded(project: Path) -> list[smoke.Pair]:
    """Frames and the masks that the version gave them when it was registered."""
    pairs = smoke.read(project / "reports" / "smoke.npz")
    assert any(mask.any() for _, mask in pairs)
    return pairs


def test_mlflow_loads_the_model_and_it_gives_the_recorded_masks(recorded: list[smoke.Pair]) -> None:
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    for frame, mask in recorded:
        found = model.predict({"frames": frame[None]})
        assert metrics.score(found["mask"][0], mask)[0] > 0.98
        assert set(found) == {"mask", "probability", FORMERLY}, "the outputs of its signature"
        assert 0 <= found[FORMERLY][0] <= 1


def test_verify_passes_every_check() -> None:
    result = CliRunner().invoke(app, ["verify", "1"])
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output
    for check in ("chain", "lineage", "params", "logged figures", "gate", "split here", "smoke test", "export"):
        assert check in result.output


def test_verify_says_that_nothing_covers_its_code(tmp_path: Path) -> None:
    checks = {check.name: check for check in verification.of_record(tracking.connect(), "1", tmp_path)}
    assert checks["logged code"].passed
    assert checks["logged code"].found.startswith("no hash covers the code logged with it")


def test_the_delivery_stands_and_its_bundle_is_whole(bundles: FolderStorage, tmp_path: Path) -> None:
    pointer, _ = bundle.current(bundles)
    assert pointer is not None
    assert pointer.version == "1"
    assert delivery.is_complete(bundles, pointer), "or `deliver` would deliver it again"
    sums, _ = bundles.read(f"1/{bundle.SUMS}")
    bundle.fetch(bundles, pointer, parse_sums(sums), tmp_path)
    assert card.read(tmp_path / "card.json").network.encoder == "tu-test_efficientnet"


def test_the_predictor_serves_the_bundle(bundles: FolderStorage, recorded: list[smoke.Pair], tmp_path: Path) -> None:
    command = (Path(sys.executable).with_name("nerveseg"), "serve", "--port", str(port := free_port()))
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen((*command, "--delivery", bundles.uri), stdout=log, stderr=log, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            wait_for("a champion", lambda: is_ready(client), server)
            for frame, mask in recorded:
                picture = cv2.imencode(".png", frame)[1].tobytes()
                found = client.post("/v1/segment", files={"frame": ("frame.png", picture)}).json()
                assert metrics.score(rle.decode(found["rle_mask"], *mask.shape), mask)[0] > 0.98
                assert found["model_version"] == "1"
                assert 0 <= found["atypicality"] <= 1
    finally:
        server.kill()
        server.wait()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_champion_predicts_a_batch_and_drift_is_measured(recorded: list[smoke.Pair], tmp_path: Path) -> None:
    frames, model = tmp_path / "frames", tmp_path / "model"
    frames.mkdir()
    model.mkdir()
    for number, (frame, _) in enumerate(recorded, 1):
        cv2.imwrite(str(frames / f"{number}_1.png"), frame)
    chosen = files.fetch("champion", model)
    weights = chosen.tags["sha256_weights"]
    batch = Batch(str(frames), str(tmp_path / "output"), str(model), chosen.label, weights, overlays=False)
    entries, _ = inputs.select(inputs.open_frames(str(frames)).entries(), str(frames))
    batches.predict_shard(batch, entries, threads=1)
    summary = batches.merge(batch, [tuple(entries)], read_json(model / "reference.json"))
    areas = np.array([mask.mean() for _, mask in recorded])
    assert summary.figures.areas == pytest.approx(areas, abs=0.02)
    drifts = drift.compare(read_json(model / "reference.json"), summary.figures, threshold=0.25)
    assert [one.figure for one in drifts] == ["intensity", "area", "confidence", "atypicality"]


def test_scores_under_former_names_are_read(project: Path) -> None:
    per_image = pd.read_csv(project / "reports" / "per_image.csv")
    table = Scores.read(project / "reports" / "predictions.parquet").table
    assert table["atypicality"].to_numpy() == pytest.approx(per_image[FORMERLY].to_numpy(), abs=1e-6)


def test_a_new_candidate_is_compared_with_the_champion_on_the_same_frames(workspace: Workspace, project: Path) -> None:
    """The candidate is the trained network from before the update, asked with another threshold."""
    workspace.set(**{"model.threshold": 0.9, "model.flips": True})
    run = project / "models" / "run.json"
    run.write_text(json.dumps({**read_json(run), "run_id": uuid.uuid4().hex}))  # not the champion's own training
    former = pd.read_csv(project / "reports" / "per_image.csv")
    for stage in (calibrate, evaluate, register, report):
        stage.run(load())
    receipt = read_json(project / "reports" / "registration.json")
    assert receipt["version"] == "2"
    assert read_json(project / "models" / "model.json")["flips"] == ["horizontal", "vertical"], "soft had both, then"
    scored = pd.read_csv(project / "reports" / "per_image.csv")
    (champion,) = [one["detail"] for one in receipt["gate"]["criteria"] if "champion, version 1" in one["detail"]]
    assert f"on the same {len(scored)} frames" in champion
    assert f"mean Dice {scored['dice'].mean():.4f} against {former['dice'].mean():.4f}" in champion
    assert "champion, version 1" in (project / "reports" / "index.html").read_text()


def test_it_is_compared_with_new_masks_on_the_frames_that_both_were_scored_on(project: Path) -> None:
    """Its run has a table of its frames, and none of its masks: its network scores them."""
    scored = pd.read_csv(project / "reports" / "per_image.csv")
    compare("1", "reports/predictions.parquet", project / "compared")
    found = read_json(project / "compared" / "comparison.json")
    assert found["compared_on"] == f"{len(scored)} frames that both were scored on"
    assert found["figures"]["dice"]["b"] == pytest.approx(scored["dice"].mean(), abs=1e-5)
    assert found["remarks"] == []
