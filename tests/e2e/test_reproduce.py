"""`nerveseg reproduce`: what a version was made from, in a clean clone; or a refusal that says what cannot be had."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import mlflow
import pytest

from conftest import Bucket, aws_variables, put_phantom
from nerveseg.params import load
from workspace import Workspace

NAME = "nerve-segmentation"


@pytest.fixture(scope="module")
def workspace(
    trained: Workspace, bucket: Bucket, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Two versions from different params: the first committed, the second's params and lock not."""
    folder = tmp_path_factory.mktemp("reproduce")
    workspace = trained.copy(folder / "project", aws_variables(s3_endpoint, folder))
    put_phantom(bucket, workspace, folder / "phantom.zip")  # that of `trained`, whose model is the first version
    workspace.set(**{"data.uri": bucket.uri("nerves.zip")})
    workspace.run("dvc", "remote", "add", "--default", "store", f"s3://{bucket.name}/dvc")
    workspace.commit()
    workspace.run("dvc", "repro", "report")
    workspace.commit()
    workspace.set(**{"train.epochs": 3})
    workspace.run("dvc", "repro", "register")
    return workspace


def client_of(workspace: Workspace) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(workspace.store)


def at(workspace: Workspace, root: Path) -> Workspace:
    """The same environment in another folder."""
    return Workspace.of(root, workspace.env)


def weights_of(root: Path) -> str:
    return hashlib.sha256((root / "models" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("version", "epochs"), [("1", 5), ("2", 3)])
def test_a_version_is_restored_and_nothing_runs(
    workspace: Workspace, tmp_path: Path, version: str, epochs: int
) -> None:
    output = workspace.run("nerveseg", "reproduce", version, str(tmp_path / "clone"))
    assert f"{NAME} version {version} is restored" in output
    clone = at(workspace, tmp_path / "clone")
    assert load(clone.root / "params.yaml").train.epochs == epochs
    assert (
        clone.git("rev-parse", "HEAD").strip()
        == client_of(workspace).get_model_version(NAME, version).tags["git_commit"]
    )
    run = client_of(workspace).get_model_version(NAME, version).run_id
    logged = client_of(workspace).search_logged_models(["1"], f"source_run_id = '{run}'")[0]
    artifact = next(Path(str(logged.artifact_location)).rglob("model.safetensors"))
    assert weights_of(clone.root) == hashlib.sha256(artifact.read_bytes()).hexdigest()
    receipt = json.loads((clone.root / "reports" / "registration.json").read_text())
    assert (receipt["version"], receipt["gate"]["mode"]) == (version, "off"), "as it was registered"
    output = clone.run("dvc", "repro")
    assert "Running stage" not in output
    assert "Data and pipelines are up to date." in output
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left beside it"


def test_what_cannot_be_had_is_refused_clearly(workspace: Workspace, tmp_path: Path) -> None:
    client = client_of(workspace)
    target = tmp_path / "clone"

    def refused(version: str) -> str:
        output = " ".join(workspace.run("nerveseg", "reproduce", version, str(target), ok=False).split())
        assert "Traceback" not in output
        assert list(tmp_path.iterdir()) == [], "nothing half restored"
        return output

    assert f"{NAME} has no version 7. Versions: 1, 2." in refused("7")
    assert f"{NAME} has no version best. Versions: 1, 2." in refused("best")

    commit = client.get_model_version(NAME, "1").tags["git_commit"]
    client.set_model_version_tag(NAME, "1", "git_commit", "0" * 40)
    assert f"Revision {'0' * 40} is neither in" in refused("1")
    client.set_model_version_tag(NAME, "1", "git_commit", commit)

    cache = workspace.root / ".dvc" / "cache"
    shutil.move(cache, workspace.root / "cache-elsewhere")
    assert "are neither in the DVC cache nor on the DVC remote store: `dvc push` them" in refused("2")
    shutil.move(workspace.root / "cache-elsewhere", cache)

    (tmp_path / "elsewhere").mkdir()
    elsewhere = at(workspace, tmp_path / "elsewhere")
    assert "run from the root of the repository" in elsewhere.run("nerveseg", "reproduce", "1", ok=False)
    assert list(elsewhere.root.iterdir()) == []

    target.mkdir()
    assert "exists: choose a new folder" in workspace.run("nerveseg", "reproduce", "1", str(target), ok=False)


def test_data_comes_from_the_remote_where_the_cache_lacks_it(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("dvc", "push")
    shutil.move(workspace.root / ".dvc" / "cache", workspace.root / "cache-elsewhere")
    workspace.run("nerveseg", "reproduce", "2", str(tmp_path / "clone"))
    assert "up to date" in at(workspace, tmp_path / "clone").run("dvc", "repro")
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    shutil.move(workspace.root / "cache-elsewhere", workspace.root / ".dvc" / "cache")


def test_a_source_that_moved_on_is_held(workspace: Workspace, bucket: Bucket, tmp_path: Path) -> None:
    put_phantom(bucket, workspace, tmp_path / "phantom.zip", seed=1)
    output = workspace.run("nerveseg", "reproduce", "1", str(tmp_path / "clone"))
    assert "The object at data.uri has changed" in output
    clone = at(workspace, tmp_path / "clone")
    assert "Running stage" not in clone.run("dvc", "repro")
    pipeline = clone.root / "dvc.yaml"
    pipeline.write_text(re.sub(" *frozen: true\n", "", pipeline.read_text()))
    assert "nerves.zip" in clone.run("dvc", "status", "download")


def test_uncommitted_code_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with (workspace.root / "src" / "nerveseg" / "console.py").open("a") as file:
        file.write("# changed\n")
    workspace.run("dvc", "repro", "-f", "-s", "register")
    output = workspace.run("nerveseg", "reproduce", "2", str(tmp_path / "clone"), ok=False)
    assert "uncommitted code changes" in output
