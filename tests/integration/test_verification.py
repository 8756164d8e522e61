"""What verification finds in a registered version that was tampered with; nothing of it needs a server."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from nerveseg import params, tracking
from nerveseg.errors import NervesegError
from nerveseg.modelcard.card import Card
from nerveseg.prediction import files
from nerveseg.registry import versions
from nerveseg.registry.verification import failures, of_record
from nerveseg.registry.verify import of_repository
from nerveseg.stages import register
from tampering import NAME, changed, forge, tag
from workspace import Workspace, entered

VERSION = "1"
Found = Callable[[], set[str]]


@pytest.fixture(scope="module")
def workspace(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A trained workspace, the current folder, with a version in an MLflow store of its own."""
    workspace = trained.copy(tmp_path_factory.mktemp("verification") / "project")
    with entered(workspace):
        register.run(params.load())
        yield workspace


@pytest.fixture
def client(workspace: Workspace) -> MlflowClient:
    return tracking.connect()


@pytest.fixture
def artifacts(client: MlflowClient) -> Path:
    """The artifacts of the version's run."""
    uri = client.get_run(str(client.get_model_version(NAME, VERSION).run_id)).info.artifact_uri
    return Path(str(uri).removeprefix("file://"))


@pytest.fixture
def weights(client: MlflowClient) -> Path:
    """The version's weights, as MLflow's store has them."""
    source = str(client.get_model_version(NAME, VERSION).source)
    return Path(source.removeprefix("file://")) / "artifacts" / "model.safetensors"


@pytest.fixture
def code(weights: Path) -> Path:
    """The folder of the logged model: what MLflow runs to load the version."""
    return weights.parents[1]


@pytest.fixture
def found(workspace: Workspace) -> Found:
    """Verifies the version without its network; returns the names of the checks that fail."""

    def run() -> set[str]:
        with tempfile.TemporaryDirectory() as name:
            checks = of_record(tracking.connect(), VERSION, Path(name))
            checks += [] if failures(checks) else of_repository(Path(name))
        return {check.name for check in checks if not check.passed}

    return run


def reason(client: MlflowClient, version: str) -> str:
    """Why a version would not be delivered."""
    with tempfile.TemporaryDirectory() as name:
        return failures(of_record(client, version, Path(name)))


def test_tampered_or_missing_weights_are_named(client: MlflowClient, weights: Path) -> None:
    with changed(weights, lambda content: content[:-1] + bytes([content[-1] ^ 1])):
        assert "model.safetensors has SHA-256" in reason(client, VERSION)
    content = weights.read_bytes()
    weights.unlink()
    assert "missing from MLflow's artifact store" in reason(client, VERSION)
    weights.write_bytes(content)


def test_tampered_code_is_named_and_nothing_of_it_is_used(found: Found, code: Path, tmp_path: Path) -> None:
    inference, model = code / "code" / "nerveseg" / "model" / "inference.py", code / "MLmodel"
    for file in (code / "pyfunc.py", inference, model):
        with changed(file, lambda content: content + b"\n# payload\n"):
            assert found() == {"logged code"}
            with pytest.raises(NervesegError, match=rf"{file.relative_to(code)} was changed"):
                files.fetch(VERSION, tmp_path)
    inference.rename(code / "numpy.py")
    with pytest.raises(NervesegError, match=r"inference\.py is missing; numpy\.py was added"):
        files.fetch(VERSION, tmp_path)
    (code / "numpy.py").rename(inference)
    compiled = code / "code" / "nerveseg" / "__pycache__"  # where MLflow loads a model from a folder, Python leaves it
    compiled.mkdir()
    (compiled / "errors.cpython-311.pyc").touch()
    assert found() == set()
    compiled.joinpath("errors.cpython-311.pyc").unlink()
    compiled.rmdir()


def test_the_hashes_of_the_code_cannot_be_left_out(found: Found, client: MlflowClient, artifacts: Path) -> None:
    listed = artifacts / "reproduce" / "code.sha256"
    with changed(listed, lambda content: content.replace(b"pyfunc.py", b"other.py")):
        assert found() == {"hash of code.sha256"}
    digest = client.get_model_version(NAME, VERSION).tags["sha256_code"]
    client.delete_model_version_tag(NAME, VERSION, "sha256_code")
    assert found() == {"hash of code.sha256"}
    client.set_model_version_tag(NAME, VERSION, "sha256_code", digest)
    assert found() == set()


def test_a_tampered_hash_is_named(client: MlflowClient, found: Found) -> None:
    digest = client.get_model_version(NAME, VERSION).tags["sha256_weights"]
    client.set_model_version_tag(NAME, VERSION, "sha256_weights", "0" * 64)
    assert found() == {"hash of model.safetensors"}
    assert f"the tag sha256_weights is {'0' * 64}" in reason(client, VERSION)
    client.set_model_version_tag(NAME, VERSION, "sha256_weights", digest)
    assert found() == set()


def test_a_version_that_the_pipeline_did_not_register_is_named(client: MlflowClient) -> None:
    run = client.get_run(str(client.get_model_version(NAME, VERSION).run_id))
    (logged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    created = client.create_model_version(NAME, logged.artifact_location, run.info.run_id, model_id=logged.model_id)
    assert "it was not registered by the pipeline" in reason(client, str(created.version))
    client.delete_model_version(NAME, str(created.version))


@pytest.mark.parametrize(
    ("file", "former", "new", "link"),
    [
        ("reports/metrics.json", b'"dice"', b'"dice" ', {"figures"}),
        ("reports/per_image.csv", b"0.", b"1.", {"figures"}),
        ("reports/card.json", b'"license": null', b'"license": "mit"', {"hash of card.json"}),
        ("reproduce/dvc.lock", b"path: models/model.safetensors\n", b"path: other\n", {"hash of dvc.lock", "lineage"}),
        ("reproduce/dvc.lock", b"validation: 0.15", b"validation: 0.25", {"hash of dvc.lock", "params"}),
        ("reproduce/params.yaml", b"epochs: 5", b"epochs: 7", {"hash of params.yaml", "params"}),
        ("reproduce/params.yaml", b"prior_margin: 0.0", b"prior_margin: 0.1", {"hash of params.yaml"}),
        ("reproduce/gate.json", b'"off"', b'"report"', {"gate"}),
    ],
)
def test_a_tampered_artifact_is_named(
    found: Found, artifacts: Path, file: str, former: bytes, new: bytes, link: set[str]
) -> None:
    with changed(artifacts / file, lambda content: content.replace(former, new)):
        assert found() == link
    stored = artifacts / file
    stored.rename(stored.with_suffix(".gone"))
    assert link <= found(), "also one that is gone"
    stored.with_suffix(".gone").rename(stored)


def test_a_tampered_value_in_mlflow_is_named(found: Found, client: MlflowClient, artifacts: Path) -> None:
    version = client.get_model_version(NAME, VERSION)
    dice = client.get_run(str(version.run_id)).data.metrics["values/test/dice"]
    client.log_metric(str(version.run_id), "values/test/dice", 0.999)
    assert found() == {"logged figures"}
    client.log_metric(str(version.run_id), "values/test/dice", dice)
    assert found() == set()
    client.set_model_version_tag(NAME, VERSION, "dataset_sha256", "0" * 64)
    assert found() == {"dataset"}
    client.set_model_version_tag(NAME, VERSION, "dataset_sha256", version.tags["dataset_sha256"])
    for name in ("Gate", "Gate.scorer"):
        client.set_model_version_tag(NAME, VERSION, name, "passed")
        assert found() == {"gate"}
    client.delete_model_version_tag(NAME, VERSION, "Gate.scorer")
    client.set_model_version_tag(NAME, VERSION, "Gate", version.tags["Gate"])


@pytest.mark.parametrize(
    ("former", "new"),
    [
        (b"subjects: 8", b"subjects: 9"),
        (b"frames: nonempty", b"frames: all"),
        (b"near_duplicate: 6", b"near_duplicate: 7"),
        (b"\nsplit:", b"\nother:"),
        (b"\nevaluate:", b"\nevaluate: {}\nother:"),
    ],
)
def test_params_are_held_against_dvcs_record_where_their_tags_were_forged(
    found: Found, client: MlflowClient, artifacts: Path, former: bytes, new: bytes
) -> None:
    stored = artifacts / "reproduce" / "params.yaml"
    with changed(stored, lambda content: content.replace(former, new, 1)):
        tag(client, VERSION, "params", stored)
        assert found() == {"params"}
    tag(client, VERSION, "params", stored)


def test_a_card_whose_tags_were_forged_too_is_found_by_its_links(
    found: Found, client: MlflowClient, artifacts: Path
) -> None:
    """Whoever may write to MLflow can change a file and its hash; what else follows from it still tells."""
    stored = artifacts / "reports" / "card.json"
    code = Card.model_validate_json(stored.read_bytes()).origins.code.model_copy(update={"source": "0" * 64})
    for changes, link in (
        (lambda content: content.replace(b'"link": "split"', b'"link": "other"'), "chain"),
        (lambda content: forge(content, weights={"model.safetensors": "0" * 64}), "weights"),
        (lambda content: forge(content, split="0" * 64), "split here"),
        (lambda content: forge(content, code=code), "code here"),
    ):
        with changed(stored, changes):
            tag(client, VERSION, "card", stored)
            assert found() == {link}
    tag(client, VERSION, "card", stored)
    assert found() == set()


def test_a_card_without_owner_and_licence_is_delivered_only_if_the_data_is_the_phantom(
    found: Found, client: MlflowClient, artifacts: Path
) -> None:
    lock = artifacts / "reproduce" / "dvc.lock"
    another = rb"\g<1>" + b"0" * 32
    with changed(lock, lambda content: re.sub(rb"(path: data/phantom.zip\n +hash: md5\n +md5: )\w+", another, content)):
        tag(client, VERSION, "lock", lock)
        assert "card: it does not state card.owner, card.contact, card.licence" in reason(client, VERSION)
    tag(client, VERSION, "lock", lock)
    assert found() == set()


def test_a_model_whose_logging_was_cut_off_is_not_that_of_its_run(client: MlflowClient) -> None:
    version = client.get_model_version(NAME, VERSION)
    run = client.get_run(str(version.run_id)).info
    cut_off = client.create_logged_model(run.experiment_id, name="model", source_run_id=run.run_id)
    assert versions.locate(client, run.run_id).source == version.source
    client.delete_logged_model(cut_off.model_id)


def test_what_is_here_is_compared_and_what_is_not_is_said(
    found: Found, workspace: Workspace, client: MlflowClient
) -> None:
    masks = workspace.root / "data" / "packed" / "masks.npy"
    with changed(masks, lambda content: content[:-1] + bytes([1 - content[-1]])):
        assert found() == {"split here"}
    frames = workspace.root / "data" / "packed" / "frames.npy"
    with changed(frames, lambda content: content[:-1] + bytes([content[-1] ^ 1])):
        assert found() == {"split here"}
    with changed(workspace.root / "data" / "raw" / "dataset.zip", lambda content: content + b"0"):
        assert found() == {"dataset here"}
    with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
        assert found() == set(), "elsewhere, nothing but the registry can be asked"
