"""From a phantom zip on S3 to a registered model by `dvc repro`, step after step in one workspace."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from conftest import Bucket, aws_variables, put_phantom
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation.metrics import score
from workspace import Workspace

STAGES = ("phantom", "download", "split", "train", "calibrate", "evaluate", "register", "report")
NAME = "nerve-segmentation"
EXP_SHOW = "dvc exp show --only-changed --drop '.*/|weights|Created'"  # as README.md has it


@pytest.fixture(scope="module")
def workspace(bucket: Bucket, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose data.uri is a phantom on S3, after `dvc repro` and a commit of dvc.lock.

    The stages up to train start as a user's do; the other ones in the preloaded process.
    """
    folder = tmp_path_factory.mktemp("pipeline")
    variables = aws_variables(s3_endpoint, folder)
    workspace = Workspace(folder / "project", variables, plain=True)
    put_phantom(bucket, workspace, folder / "phantom.zip")
    workspace.set(**{"data.uri": bucket.uri("nerves.zip")})
    workspace.run("dvc", "repro", "train")
    workspace = Workspace.of(workspace.root, variables)
    workspace.run("dvc", "repro")
    workspace.commit()
    return workspace


def report(workspace: Workspace, name: str) -> Any:
    return json.loads((workspace.root / name).read_text())


def client_of(workspace: Workspace, store: str = "mlflow.db") -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{workspace.root}/{store}")


def stages_run(output: str) -> list[str]:
    return [name for name in STAGES if f"Running stage '{name}'" in output]


def artifacts(client: mlflow.MlflowClient, run_id: str, folder: str) -> set[str]:
    return {Path(info.path).name for info in client.list_artifacts(run_id, folder)}


def test_a_version_is_registered_with_its_lineage(workspace: Workspace, bucket: Bucket) -> None:
    client = client_of(workspace)
    receipt, record = report(workspace, "reports/registration.json"), report(workspace, "models/run.json")
    assert receipt == {
        "registered": True,
        "name": NAME,
        "version": "1",
        "reasons": [],
        "run_id": record["run_id"],
        "experiment_id": client.get_run(record["run_id"]).info.experiment_id,
        "gate": {"mode": "off", "passed": None, "criteria": [], "note": ""},
    }
    version = client.get_model_version_by_alias(NAME, "challenger")
    assert (str(version.version), version.run_id) == ("1", record["run_id"])
    lock = YAML(typ="safe").load(workspace.root / "dvc.lock")["stages"]
    hashes = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}
    head = bucket.client.head_object(Bucket=bucket.name, Key="nerves.zip")
    expected = {
        "dvc_data": hashes["data/raw/dataset.zip"],
        "dvc_split": hashes["data/packed"],
        "dvc_model": hashes["models/model.safetensors"],
        "dvc_spec": hashes["models/model.json"],
        "dataset_uri": bucket.uri("nerves.zip"),
        "dataset_etag": head["ETag"].strip('"'),
        "dataset_version_id": head["VersionId"],
        "git_commit": workspace.git("rev-parse", "HEAD~1").strip(),  # HEAD is the commit of dvc.lock
        "Gate": "off",
    }
    assert expected.items() <= version.tags.items()


def test_the_run_holds_params_curves_figures_and_lineage(workspace: Workspace, bucket: Bucket) -> None:
    client = client_of(workspace)
    record = report(workspace, "models/run.json")
    run = client.get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.learning_rate"] == "0.01"
    assert len(client.get_metric_history(record["run_id"], "validation/iou")) == 5
    (dataset,) = run.inputs.dataset_inputs
    assert bucket.uri("nerves.zip") in dataset.dataset.source
    assert artifacts(client, record["run_id"], "figures") == {
        "best.jpg",
        "worst.jpg",
        "random.jpg",
        "atypical.jpg",
        "curves.png",
    }
    assert artifacts(client, record["run_id"], "reproduce") == {
        "dvc.lock",
        "params.yaml",
        "gate.json",
        "code.sha256",
    }
    metrics = report(workspace, "reports/metrics.json")
    assert run.data.metrics["values/test/dice"] == pytest.approx(metrics["test"]["dice"])
    logged = client.get_logged_model(report(workspace, "models/calibration.json")["model_id"])
    assert metrics["test"]["dice"] in [metric.value for metric in logged.metrics if metric.key == "values/test/dice"]


def test_the_reports_agree(workspace: Workspace) -> None:
    metrics = report(workspace, "reports/metrics.json")
    images = pd.read_csv(workspace.root / "reports/per_image.csv")
    subjects = pd.read_csv(workspace.root / "reports/per_subject.csv")
    assert list(images.columns[:4]) == ["image", "subject", "dice", "iou"]
    assert {"nsd", "hd95", "centroid_error", "atypicality", "confidence"} <= set(images.columns)
    test = metrics["test"]
    for figure in ("dice", "iou", "nsd", "hd95", "centroid_error"):
        assert test[figure] == pytest.approx(images[figure].mean(), abs=1e-6)
        low, high = test[f"{figure}_ci"]
        assert low <= test[figure] <= high
    assert test["worst_subject"] == pytest.approx(subjects["dice"].min(), abs=1e-6)
    assert metrics["test"]["dice_by_subject"] == pytest.approx(subjects["dice"].mean(), abs=1e-6)
    assert (metrics["test"]["frames"], metrics["test"]["subjects"]) == (len(images), len(subjects))
    index = pd.read_parquet(workspace.root / "data/packed/index.parquet")
    assert {"image", "subject", "split", "fold", "height", "width", "mask_area"} <= set(index.columns)
    store = FrameStore.open(workspace.root / "data/packed")
    predictions = pd.read_parquet(workspace.root / "reports/predictions.parquet").set_index("image")
    for row in store.rows("test"):
        found = predictions.loc[store.index.at[row, "image"]]
        mask = rle.decode(found["rle_mask"], found["height"], found["width"])
        dice = images.set_index("image").at[found.name, "dice"]
        assert dice == pytest.approx(score(mask, store.mask(row))[0], abs=1e-6), "the stored masks are the scored ones"
    curves = {path.stem: pd.read_csv(path) for path in (workspace.root / "reports/curves").iterdir()}
    assert curves["risk_coverage"]["risk"].iloc[-1] == pytest.approx(1 - test["dice"], abs=1e-6)
    assert curves["thresholds"]["dice"].max() == pytest.approx(
        metrics["validation"]["dice_at_best_threshold"], abs=1e-6
    )
    assert (
        curves["calibration"]["pixels"].sum()
        == (store.index["height"] * store.index["width"])[store.rows("test")].sum()
    )
    timings = report(workspace, "models/timings.json")
    parts = {"imports", "start_up", "data", "training_steps", "validation", "panels", "checkpoint", "tracking"}
    assert set(timings) == {*parts, "total"}
    assert all(seconds > 0 for seconds in timings.values())
    assert timings["total"] >= sum(timings[part] for part in parts)


def test_pyfunc_predicts_frames_of_another_size_without_the_project(workspace: Workspace) -> None:
    """In a process that cannot import the project: its code travels with the model."""
    frames = np.random.default_rng(0).integers(0, 255, (3, 70, 111), np.uint8)
    np.save(workspace.root / "frames.npy", frames)
    program = (
        "import sys; sys.path = [p for p in sys.path if not p.endswith('src')]\n"
        "import mlflow, numpy as np\n"
        f"model = mlflow.pyfunc.load_model('models:/{NAME}@challenger')\n"
        "out = model.predict({'frames': np.load('frames.npy')})\n"
        "import nerveseg; assert 'mlruns' in nerveseg.__file__ or 'artifacts' in nerveseg.__file__, nerveseg.__file__\n"
        "assert out['mask'].shape == out['probability'].shape == (3, 70, 111)\n"
        "assert out['mask'].dtype == np.uint8 and out['probability'].dtype == np.float32\n"
        "assert ((out['probability'] >= 0.5) == out['mask']).all()\n"
        "assert out['atypicality'].shape == (3,) and out['atypicality'].dtype == np.float32\n"
        "assert ((out['atypicality'] >= 0) & (out['atypicality'] <= 1)).all()\n"
        "one = model.predict(np.load('frames.npy')[:1])\n"
        "assert np.allclose(one['probability'], out['probability'][:1], atol=1e-5)\n"
    )
    env = {**workspace.env, "MLFLOW_TRACKING_URI": workspace.store}
    env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    done = subprocess.run((sys.executable, "-c", program), cwd=workspace.root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (workspace.root / "frames.npy").unlink()
    names = [path.name for path in (workspace.root / "mlruns").rglob("*")]
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pt", ".pt2"))]


def test_a_second_repro_runs_nothing(workspace: Workspace) -> None:
    output = workspace.run("dvc", "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output


def test_registering_twice_makes_no_second_version(workspace: Workspace) -> None:
    assert stages_run(workspace.run("dvc", "repro", "-f", "-s", "register")) == ["register"]
    assert len(client_of(workspace).search_model_versions(f"name = '{NAME}'")) == 1
    assert report(workspace, "reports/registration.json")["version"] == "1"


def test_a_stricter_gate_withdraws_the_version_and_a_milder_one_brings_it_back(workspace: Workspace) -> None:
    client = client_of(workspace)
    workspace.set(**{"register.gate": "enforce", "register.min_dice": 0.999})
    assert stages_run(workspace.run("dvc", "repro")) == ["register", "report"]
    receipt = report(workspace, "reports/registration.json")
    assert (receipt["registered"], receipt["version"]) == (False, None)
    assert "challenger" not in client.get_registered_model(NAME).aliases
    assert "below register.min_dice" in client.get_model_version(NAME, "1").tags["Gate"]
    workspace.set(**{"register.min_dice": 0.0})
    assert "register" in stages_run(workspace.run("dvc", "repro")), "a registry is not restored from DVC's run cache"
    assert client.get_registered_model(NAME).aliases["challenger"] in (1, "1")
    assert client.get_model_version(NAME, "1").tags["Gate"] == "passed"
    workspace.set(**{"register.gate": "off"})  # the tests that follow are of other things


def test_another_threshold_is_another_version_without_a_training(workspace: Workspace) -> None:
    client = client_of(workspace)
    former, version = report(workspace, "models/calibration.json"), client.get_model_version(NAME, "1")
    given = (workspace.root / "params.yaml").read_text()
    workspace.set(**{"model.threshold": 0.3})
    assert stages_run(workspace.run("dvc", "repro")) == ["calibrate", "evaluate", "register", "report"]
    training, calibrated = report(workspace, "models/run.json"), report(workspace, "models/calibration.json")
    assert training["run_id"] == former["run_id"] != calibrated["run_id"], "a run holds one model"
    own = client.get_run(calibrated["run_id"])
    assert own.data.tags["nerveseg.run_id"] == training["run_id"]
    assert own.data.params == client.get_run(training["run_id"]).data.params | {"model.threshold": "0.3"}
    assert len(client.get_metric_history(calibrated["run_id"], "validation/iou")) == 5
    assert report(workspace, "reports/registration.json")["version"] == "2"
    assert client.get_model_version(NAME, "1").tags == version.tags
    for number in ("1", "2"):
        assert "FAILED" not in workspace.run("nerveseg", "verify", number)

    (workspace.root / "params.yaml").write_text(given)
    workspace.run("dvc", "repro")
    assert report(workspace, "models/calibration.json") == former
    assert report(workspace, "reports/registration.json")["version"] == "1"
    client.delete_model_version(NAME, "2")  # the tests that follow are of other things


def test_weights_in_the_folder_make_training_stale(workspace: Workspace) -> None:
    weights = workspace.root / "weights" / "encoder.pth"
    weights.write_bytes(b"other weights")
    assert "train" in workspace.run("dvc", "status", "train")
    weights.unlink()
    assert "up to date" in workspace.run("dvc", "status", "train")


def test_another_tracking_server_gets_run_and_version(workspace: Workspace) -> None:
    workspace.env["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"
    try:
        workspace.run("dvc", "repro", "-f", "-s", "register", "report")
        workspace.run("dvc", "repro", "-f", "-s", "register")
    finally:
        del workspace.env["MLFLOW_TRACKING_URI"]
    former = client_of(workspace).get_run(report(workspace, "models/run.json")["run_id"])
    client = client_of(workspace, "other.db")
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == former.data.params
    for key in ("train/loss", "values/test/dice"):
        assert run.data.metrics[key] == former.data.metrics[key]
    assert "best.jpg" in artifacts(client, version.run_id, "figures")
    assert len(client.get_metric_history(version.run_id, "train/loss")) == 5


def test_push_and_pull_recompute_nothing(workspace: Workspace, bucket: Bucket, tmp_path: Path) -> None:
    workspace.run("dvc", "remote", "add", "--force", "--default", "store", f"s3://{bucket.name}/dvc")
    workspace.commit()
    workspace.run("dvc", "push")
    workspace.git("clone", "--quiet", str(workspace.root), str(tmp_path / "clone"))
    clone = Workspace.__new__(Workspace)
    clone.root = tmp_path / "clone"
    clone.env = {**workspace.env, "MLFLOW_TRACKING_URI": workspace.store}
    clone.run("dvc", "pull")
    assert stages_run(clone.run("dvc", "repro")) == []
    clone.run("dvc", "repro", "-f", "-s", "register")
    assert report(clone, "reports/registration.json")["version"] == "1"


def test_an_experiment_runs_train_and_later_only(workspace: Workspace) -> None:
    output = workspace.run("dvc", "exp", "run", "-S", "train.learning_rate=0.002", "-S", "train.epochs=1")
    assert stages_run(output) == ["train", "calibrate", "evaluate", "register", "report"]
    assert "train.learning_rate" in workspace.run("dvc", "params", "diff")
    differing = workspace.run("dvc", "metrics", "diff", "--all")
    assert " worst_subject " in differing
    shown = workspace.run("env", "COLUMNS=120", *shlex.split(EXP_SHOW), "--no-pager")
    assert {"dice", "iou", "nsd", "hd95", "worst_subject", "train.learning_rate", "train.epochs"} <= set(shown.split())
    assert max(map(len, (differing + shown).splitlines())) <= 120
    assert "index.html" in workspace.run("dvc", "plots", "diff")
    page = (workspace.root / "dvc_plots" / "index.html").read_text()
    assert page.count("vegaEmbed(") == 7
    assert "<script src" not in page, "it works offline"
    assert report(workspace, "reports/registration.json")["version"] == "3"
    workspace.git("checkout", "--quiet", ".")
    workspace.run("dvc", "checkout")


def test_a_replaced_object_reruns_everything(workspace: Workspace, bucket: Bucket, tmp_path: Path) -> None:
    put_phantom(bucket, workspace, tmp_path / "phantom.zip", seed=1)
    assert "nerves.zip" in workspace.run("dvc", "status", "download")
    workspace.set(**{"train.epochs": 1, "register.gate": "enforce", "register.min_dice": 1.0})
    output = workspace.run("dvc", "repro")
    assert stages_run(output) == list(STAGES[1:])
    receipt = report(workspace, "reports/registration.json")
    assert receipt["registered"] is False
    assert receipt["version"] is None
    (reason, *_) = receipt["reasons"]
    assert "is below register.min_dice 1" in reason
    assert reason in " ".join(output.split())
    client = client_of(workspace)
    assert reason in client.get_run(report(workspace, "models/run.json")["run_id"]).data.tags["Gate"]
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2
