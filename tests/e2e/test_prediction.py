"""Batch prediction by the flow, with threads and with Dask, on files, on S3 and from a zip; and single frames."""

import json
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import mlflow
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from conftest import Bucket, aws_variables
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.model import plausibility
from nerveseg.model.inference import Segmenter
from nerveseg.model.spec import read_spec
from nerveseg.params import load
from nerveseg.phantom import dataset as phantom
from preload import VARIABLE, measured
from workspace import Workspace, entered, free_port, kill, wait_for

COLUMNS = ["image", "rle_mask", "area", "confidence", "atypicality", "height", "width", "model_version"]
JSON = {"Content-Type": "application/json"}
Predict = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prediction")


@pytest.fixture(scope="module")
def workspace(folder: Path, trained: Workspace, s3_endpoint: str, prefect_api: str) -> Workspace:
    """A workspace whose version 1 is champion and delivered."""
    variables = {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(folder / "client")}
    workspace = trained.copy(folder / "project", variables | aws_variables(s3_endpoint, folder))
    workspace.stage("register")
    client_of(workspace).set_registered_model_alias("nerve-segmentation", "champion", "1")
    workspace.run("python", "-m", "flows.deliver")
    return workspace


@pytest.fixture(scope="module")
def frames(workspace: Workspace, folder: Path) -> Path:
    """Fresh frames of people whom the model has not seen: a zip and, beside it, the same files in a folder."""
    params = load(workspace.root / "params.yaml").phantom
    phantom.write(folder / "fresh.zip", params.model_copy(update={"seed": 7, "empty_share": 0.0}))
    with zipfile.ZipFile(folder / "fresh.zip") as archive:
        archive.extractall(folder / "fresh")
    return folder / "fresh" / "images"


@pytest.fixture
def predict(workspace: Workspace) -> Iterator[Predict]:
    """Runs the flow in this process, in the workspace; returns name and message of its state."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.predict import predict as flow

    def run(**parameters: Any) -> tuple[str, str]:
        with temporary_settings({PREFECT_API_URL: workspace.env["PREFECT_API_URL"]}):
            state = flow(**parameters, return_state=True)
        return state.name, state.message

    with entered(workspace):
        yield run


@pytest.fixture(scope="module")
def expected(workspace: Workspace, frames: Path) -> dict[str, np.ndarray]:
    """The masks that the trained network gives, by torch."""
    segmenter = Segmenter.load(workspace.root / "models")
    names = sorted(path.name for path in frames.iterdir())
    pixels = [cv2.imread(str(frames / name), cv2.IMREAD_GRAYSCALE) for name in names]
    found = [segmenter.mask(probability) for probability in segmenter.probabilities(pixels)]
    return dict(zip(names, found, strict=True))


def client_of(workspace: Workspace) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(workspace.store)


def index_of(output: Path) -> Any:
    return json.loads((output / "1" / "index.json").read_text())


def test_masks_runs_and_figures_are_the_networks(
    predict: Predict, workspace: Workspace, frames: Path, expected: dict[str, np.ndarray], folder: Path
) -> None:
    training = read_spec(workspace.root / "models").plausibility
    assert training is not None
    output = folder / "first"
    name, message = predict(input=str(frames), output=str(output), overlays=True)
    assert (name, message) == ("Completed", f"predicted {len(expected)} frames with version 1 into {output}/1")
    table = pd.read_parquet(output / "1" / "predictions.parquet")
    assert list(table.columns) == COLUMNS
    assert set(table["image"]) == set(expected)
    assert set(table["model_version"]) == {"1"}
    different = 0
    for row in table.itertuples():
        mask = rle.decode(row.rle_mask, row.height, row.width)
        different += np.count_nonzero(mask != expected[row.image])
        assert row.area == mask.sum()
        assert row.atypicality == plausibility.atypicality(mask, training)
        png = cv2.imread(str(output / "1" / "masks" / row.image), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(png, mask * 255)
        assert np.isnan(row.confidence) if row.area == 0 else 0.5 <= row.confidence <= 1
        overlay = cv2.imread(str(output / "1" / "overlays" / row.image))
        assert overlay.shape == (*mask.shape, 3)
        assert (overlay[..., 0] != overlay[..., 2]).any() == bool(row.area), "an outline in colour"
    assert different <= 2 * len(table), "the exported network is the network"


def test_an_index_says_what_was_done_and_it_is_not_done_twice(
    predict: Predict, frames: Path, folder: Path, expected: dict[str, np.ndarray]
) -> None:
    index = index_of(folder / "first")
    assert (index["frames"], index["predicted"], index["unreadable"]) == (len(expected), len(expected), [])
    assert index["model"]["version"] == "1"
    name, message = predict(input=str(frames), output=str(folder / "first"), overlays=True)
    assert (name, message.partition(":")[0]) == ("Completed", "nothing to do")


def test_fresh_frames_do_not_drift_and_the_table_is_in_mlflow(
    workspace: Workspace, folder: Path, predict: Predict, frames: Path
) -> None:
    index = index_of(folder / "first")
    assert [row["figure"] for row in index["drift"]] == ["intensity", "area", "confidence", "atypicality"]
    assert not any(row["drifted"] for row in index["drift"])
    client = client_of(workspace)
    run = client.get_run(index["mlflow_run"])
    assert run.data.metrics["psi/intensity"] == pytest.approx(index["drift"][0]["psi"])
    assert {"drift.json", "index.json"} <= {info.path for info in client.list_artifacts(run.info.run_id)}
    assert client.get_experiment(run.info.experiment_id).name == "nerveseg-predictions"


def test_shifted_frames_are_a_warning(predict: Predict, frames: Path, folder: Path) -> None:
    shifted = folder / "shifted"
    shifted.mkdir()
    for path in frames.iterdir():
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(shifted / path.name), (pixels // 4).astype(np.uint8))
    name, message = predict(input=str(shifted), output=str(folder / "shifted-output"))
    assert name == "Warning"
    assert "drift of intensity (PSI" in message


@pytest.mark.parametrize("shard", [1000, 7])
def test_the_sharding_does_not_matter(predict: Predict, frames: Path, folder: Path, shard: int) -> None:
    predict(input=str(frames), output=str(folder / f"by-{shard}"), shard=shard)
    first, other = (folder / name / "1" / "predictions.parquet" for name in ("first", f"by-{shard}"))
    assert first.read_bytes() == other.read_bytes()


def test_a_zip_on_s3_and_a_prefix_give_the_same(predict: Predict, frames: Path, folder: Path, bucket: Bucket) -> None:
    bucket.put("fresh.zip", (folder / "fresh.zip").read_bytes())
    for path in frames.iterdir():
        bucket.put(f"frames/{path.name}", path.read_bytes())
    predict(input=bucket.uri("frames"), output=bucket.uri("by-prefix"))
    predict(input=bucket.uri("fresh.zip"), output=str(folder / "by-zip"))
    content = bucket.client.get_object(Bucket=bucket.name, Key="by-prefix/1/predictions.parquet")["Body"].read()
    assert content == (folder / "first" / "1" / "predictions.parquet").read_bytes()
    mask = bucket.client.get_object(Bucket=bucket.name, Key=f"by-prefix/1/masks/{next(frames.iterdir()).name}")
    assert mask["Body"].read(4) == b"\x89PNG"
    zipped = pd.read_parquet(folder / "by-zip" / "1" / "predictions.parquet")
    zipped["image"] = zipped["image"].str.removeprefix("images/")
    pd.testing.assert_frame_equal(zipped, pd.read_parquet(folder / "first" / "1" / "predictions.parquet"))


@contextmanager
def dask_cluster(workspace: Workspace, log: Path) -> Iterator[str]:
    """A scheduler and two workers with one thread each, as processes; yields the scheduler's address."""
    address = f"tcp://127.0.0.1:{(port := free_port())}"
    path = ":".join(str(workspace.root / name) for name in ("", "src", "flows"))
    quiet = ("--no-dashboard", "--host", "127.0.0.1")
    commands = (
        ("dask_scheduler", "--port", str(port), *quiet),
        ("dask_worker", address, "--nworkers", "2", "--nthreads", "1", *quiet),
    )
    with log.open("w") as file:
        processes = [
            subprocess.Popen(
                ("python", "-m", f"distributed.cli.{name}", *arguments),
                cwd=log.parent,
                env=workspace.env | {"PYTHONPATH": path},
                stdout=file,
                stderr=file,
                text=True,
                start_new_session=True,
            )
            for name, *arguments in commands
        ]
        try:
            yield address
        finally:
            for process in processes:
                os.killpg(process.pid, 9)
                process.wait()


def test_dask_workers_elsewhere_give_the_same(workspace: Workspace, frames: Path, folder: Path) -> None:
    """The flow is loaded as a worker of Prefect loads it, by its path."""
    (workspace.root / "flows" / "by_dask.py").write_text(
        "from prefect.flows import load_flow_from_entrypoint\n"
        "if __name__ == '__main__':\n"
        "    predict = load_flow_from_entrypoint('flows/predict.py:predict')\n"
        f"    predict(input={str(frames)!r}, output={str(folder / 'by-dask')!r}, shard=16)\n"
    )
    with dask_cluster(workspace, folder / "dask.log") as address:
        elsewhere = Workspace.of(workspace.root, workspace.env | {"NERVESEG_TASK_RUNNER": address})
        elsewhere.env.pop(measured.VARIABLE, None)  # code with probes cannot be sent to a worker
        elsewhere.run("python", "-m", "flows.by_dask")
    first, other = (folder / name / "1" / "predictions.parquet" for name in ("first", "by-dask"))
    assert first.read_bytes() == other.read_bytes()


def test_a_killed_run_goes_on_with_what_is_missing(
    workspace: Workspace, predict: Predict, frames: Path, folder: Path
) -> None:
    output = folder / "killed"
    (workspace.root / "flows" / "cut_off.py").write_text(
        f"from flows.predict import predict\npredict(input={str(frames)!r}, output={str(output)!r}, shard=4)\n"
    )
    with (folder / "killed.log").open("w") as log:
        command = ("python", "-m", "flows.cut_off")
        process = subprocess.Popen(command, cwd=workspace.root, env=workspace.env, stdout=log, stderr=log, text=True)
        shards = output / "1" / "shards"
        wait_for("three shards", lambda: len(list(shards.glob("*.parquet"))) >= 3, process)
        kill(process, workspace.root)
    done = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert not (output / "1" / "predictions.parquet").exists()
    assert predict(input=str(frames), output=str(output), shard=4)[0] == "Completed"
    assert len(list(shards.glob("*.parquet"))) > len(done)
    assert all((shards / name).stat().st_mtime_ns == time for name, time in done.items()), "predicted once"
    first, other = (folder / name / "1" / "predictions.parquet" for name in ("first", "killed"))
    assert first.read_bytes() == other.read_bytes()
    assert not [one for one in psutil.process_iter(["name"]) if one.info["name"] == "flows.cut_off"]


def test_unreadable_frames_are_listed(predict: Predict, frames: Path, folder: Path) -> None:
    mixed = folder / "mixed"
    mixed.mkdir()
    good = sorted(frames.iterdir())[:3]
    for path in good:
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "1_cut.png").write_bytes(good[0].read_bytes()[:500])
    (mixed / "1_text.png").write_text("no picture")
    (mixed / good[0].with_suffix(".jpg").name).write_bytes(b"the same stem")
    (mixed / "1_1_mask.png").write_bytes(good[0].read_bytes())
    (mixed / "notes.txt").write_text("no frame")
    _, message = predict(input=str(mixed), output=str(folder / "mixed-output"))
    assert "predicted 2 frames" in message
    assert "4 unreadable" in message
    listed = {entry["image"]: entry["reason"] for entry in index_of(folder / "mixed-output")["unreadable"]}
    same_stem = good[0].with_suffix(".jpg").name
    assert set(listed) == {"1_cut.png", "1_text.png", same_stem, good[0].name}
    assert "rename one of them" in listed[good[0].name]
    assert "is not a PNG, JPEG, TIFF or BMP" in listed["1_text.png"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"input": "no-such-folder"}, "neither a folder nor a zip"),
        ({"input": "src"}, "contains no frames"),
        ({"input": "data", "model": "champio"}, "has no version champio. Versions: 1. Aliases: challenger, champion."),
        ({"input": "data", "model": "9"}, "has no version 9. Versions: 1."),
        ({"input": "data", "shard": 0}, "at least one frame"),
        ({"input": "https://host/x"}, "neither a folder nor a zip"),
    ],
)
def test_what_cannot_be_predicted_fails_with_a_reason(
    predict: Predict, folder: Path, parameters: dict[str, Any], said: str
) -> None:
    name, message = predict(output=str(folder / "never"), **parameters)
    assert name == "Failed"
    assert said in message
    assert not (folder / "never").exists()


def test_an_output_belongs_to_one_input(predict: Predict, frames: Path, folder: Path) -> None:
    name, message = predict(input=str(folder / "fresh.zip"), output=str(folder / "first"))
    assert name == "Failed"
    assert f"has predictions for {frames}, not for" in message
    name, message = predict(input=str(folder / "fresh"), output=str(folder / "fresh" / "output"))
    assert name == "Failed"
    assert "is inside its input" in message
    name, message = predict(input=str(frames), output="gs://bucket/prefix")
    assert name == "Failed"
    assert "neither s3://bucket/prefix nor a folder" in message


def test_without_an_input_there_is_nothing_to_do(predict: Predict) -> None:
    assert predict() == ("Completed", "nothing to do: predict.input in params.yaml is null")


def test_a_run_can_be_predicted_with(predict: Predict, workspace: Workspace, frames: Path, folder: Path) -> None:
    run_id = client_of(workspace).get_model_version("nerve-segmentation", "1").run_id
    predict(input=str(frames), output=str(folder / "by-run"), model=run_id)
    table = pq.read_table(folder / "by-run" / f"run-{run_id}" / "predictions.parquet").to_pandas()
    first = pd.read_parquet(folder / "first" / "1" / "predictions.parquet")
    assert set(table["model_version"]) == {f"run-{run_id}"}
    pd.testing.assert_frame_equal(table[COLUMNS[:-1]], first[COLUMNS[:-1]])


def test_a_person_predicts_one_frame(
    workspace: Workspace, frames: Path, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    path = next(iter(sorted(frames.iterdir())))
    (tmp_path / "frame [1].png").write_bytes(path.read_bytes())
    (tmp_path / "black.png").write_bytes(cv2.imencode(".png", np.zeros((96, 128), np.uint8))[1].tobytes())
    given = (str(tmp_path / name) for name in ("frame [1].png", "black.png"))
    output = workspace.run("nerveseg", "predict", "--spacing-mm", "0.08 0.1", *given, "missing.png", ok=False)
    assert "missing.png: No such file or directory" in output
    assert "Traceback" not in output
    mask = cv2.imread(str(tmp_path / "frame [1]_predicted_mask.png"), cv2.IMREAD_UNCHANGED)
    assert np.count_nonzero((mask > 0) != expected[path.name]) <= 2
    overlay = cv2.imread(str(tmp_path / "frame [1]_predicted_overlay.png"))
    assert overlay.shape == (*mask.shape, 3)
    training = read_spec(workspace.root / "models").plausibility
    atypicality = plausibility.atypicality(mask // 255, training)
    row = next(line for line in output.splitlines() if "frame [1].png" in line)
    cells = [cell.strip() for cell in row.split("│")]
    kind = "atypical" if atypicality > 0.5 else "typical"
    area = np.count_nonzero(mask)
    assert cells[1:5] == ["frame [1].png", kind, str(area), f"{area * 0.08 * 0.1:.4g}"]
    assert cells[6:8] == [f"{atypicality:.3f}", "frame [1]_predicted_*.png"]
    assert "area [px]" in output
    assert "area [mm²]" in output
    assert ("frame [1].png: This mask is more atypical than 95 %" in output) == (kind == "atypical")
    black = cv2.imread(str(tmp_path / "black_predicted_mask.png"), cv2.IMREAD_UNCHANGED)
    said = "black.png: This mask is more atypical" if black.any() else "black.png: No nerve was found in this frame"
    assert said in output


def test_a_spacing_that_is_none_is_refused_before_anything_is_fetched(workspace: Workspace) -> None:
    output = workspace.run("nerveseg", "predict", "--spacing-mm", "80", "frame.png", ok=False)
    assert "'80' is not a pixel spacing" in output


def test_mlflow_serves_the_champion(
    workspace: Workspace, frames: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """In processes, as docs/how-to.md says: MLflow starts uvicorn by its name, for which the preloaded one stands."""
    uvicorn = tmp_path / "uvicorn"
    uvicorn.write_text(f'#!/bin/sh\nexec {os.environ[VARIABLE]}/python -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    env = workspace.env | {"PATH": f"{tmp_path}:{workspace.env['PATH']}", "MLFLOW_TRACKING_URI": workspace.store}
    model, port = "models:/nerve-segmentation@champion", free_port()
    serve = ("models", "serve", "--model-uri", model, "--env-manager", "local", "--port", str(port))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ("python", "-m", "mlflow", *serve), cwd=workspace.root, env=env, stdout=log, stderr=log, text=True
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        try:
            wait_for("MLflow's server", lambda: answers(client), process)
            example = f"{model}/serving_input_example.json"
            with entered(workspace):
                stored = Path(mlflow.artifacts.download_artifacts(artifact_uri=example, dst_path=str(tmp_path)))
            answer = client.post("/invocations", content=stored.read_bytes(), headers=JSON)
            assert answer.status_code == 200, answer.text
            assert np.shape(answer.json()["predictions"]["mask"]) == (1, 24, 32)
            path = min(frames.iterdir())
            frame = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            found = client.post("/invocations", json={"inputs": {"frames": [frame.tolist()]}}).json()["predictions"]
            assert np.count_nonzero(np.array(found["mask"][0]) != expected[path.name]) <= 2
            refused = client.post("/invocations", json={"inputs": {"frames": [(frame // 128).tolist()]}})
            assert (refused.status_code, "These are not 8-bit frames" in refused.text) == (400, True)
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
            process.wait()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def test_a_champion_that_is_not_delivered_is_not_used(workspace: Workspace, predict: Predict, frames: Path) -> None:
    client = client_of(workspace)
    said = client.get_model_version("nerve-segmentation", "1").tags["delivery"]
    client.set_model_version_tag("nerve-segmentation", "1", "delivery", "refused")
    name, message = predict(input=str(frames))
    client.set_model_version_tag("nerve-segmentation", "1", "delivery", said)
    assert name == "Failed"
    assert "Version 1 is champion, but not delivered yet" in message


def test_tampered_weights_are_not_used(workspace: Workspace, predict: Predict, frames: Path, folder: Path) -> None:
    source = Path(client_of(workspace).get_model_version("nerve-segmentation", "1").source)
    stored = source / "artifacts" / "model.safetensors"
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    name, message = predict(input=str(frames), output=str(folder / "tampered"))
    stored.write_bytes(content)
    assert name == "Failed"
    assert "is not used: hash of model.safetensors" in message
    assert not (folder / "tampered").exists()


def test_the_stored_training_set_is_what_frames_are_compared_with(workspace: Workspace) -> None:
    reference = json.loads((workspace.root / "reports" / "reference.json").read_text())
    store = FrameStore.open(workspace.root / "data" / "packed")
    rows = store.rows("train")
    assert reference["frames"] == len(rows)
    assert reference["subjects"] == store.index.loc[rows, "subject"].nunique()
    assert sum(reference["intensity"]["counts"]) == pytest.approx(len(rows))
    assert reference["intensity"]["mean"] == pytest.approx(np.mean([store.frame(row).mean() for row in rows]))
