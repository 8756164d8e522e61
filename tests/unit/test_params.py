"""params.yaml: what is accepted, what is rejected, and the messages."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nerveseg import params, profiles
from nerveseg.cli import app
from nerveseg.data.layouts import options
from nerveseg.data.layouts.dataset import Choices
from nerveseg.errors import NervesegError
from nerveseg.training import recipes

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "params"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the shipped params.yaml and profiles."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("overlay", sorted((CASES / "valid").glob("*.yaml")), ids=lambda path: path.stem)
def test_valid_overlays_load(overlay: Path, workspace: Path) -> None:
    profiles.apply(overlay)
    params.load()


@pytest.mark.parametrize("overlay", sorted((CASES / "invalid").glob("*.yaml")), ids=lambda path: path.stem)
def test_invalid_overlays_are_clear_errors_and_change_nothing(overlay: Path, workspace: Path) -> None:
    """The first line of each file is a comment with text that the error must contain."""
    expected = overlay.read_text().splitlines()[0].removeprefix("# ")
    before = (workspace / "params.yaml").read_text()
    result = CliRunner().invoke(app, ["profile", "apply", str(overlay)])
    assert result.exit_code == 1
    assert expected in result.stderr
    assert (workspace / "params.yaml").read_text() == before


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")))
def test_every_profile_applies_once(profile: str, workspace: Path) -> None:
    first = CliRunner().invoke(app, ["profile", "apply", profile])
    assert first.exit_code == 0, first.output
    assert "data.uri: " in first.stdout
    assert "# Every parameter" in (workspace / "params.yaml").read_text(), "comments are kept"
    second = CliRunner().invoke(app, ["profile", "apply", profile])
    assert second.stdout == ""


def test_the_quickstart_has_the_model_cards_network_and_epochs() -> None:
    shipped = params.load(ROOT / "params.yaml")
    assert (shipped.model.architecture, shipped.model.encoder, shipped.model.threshold) == ("Unet", "resnet34", 0.5)
    assert (shipped.train.batch_size, shipped.train.epochs) == (16, 5)


def test_datasets_are_read_outside_the_pipeline_as_the_shipped_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without a params.yaml
    shipped = params.load(ROOT / "params.yaml").data
    assert options.read(None, None) == (shipped.subject, Choices(shipped.classes, tuple(shipped.mask_suffixes)))


def test_the_shipped_file_leaves_every_setting_of_a_recipe_to_it() -> None:
    assert recipes.changes(params.load(ROOT / "params.yaml").train) == {}


def test_the_file_of_a_former_version_is_told_where_the_new_keys_are(workspace: Path) -> None:
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(text.replace("  quarantine_cap:", "  # quarantine_cap:"))
    with pytest.raises(NervesegError) as caught:
        params.load()
    assert "data.quarantine_cap: missing\nThe params.yaml of this version has every key" in str(caught.value)


def test_all_errors_are_reported_at_once(workspace: Path) -> None:
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(text.replace("epochs: 5", "epochs: 0").replace("seed: 70", "seed: x"))
    with pytest.raises(NervesegError) as caught:
        params.load()
    assert "train.epochs" in str(caught.value)
    assert "split.seed" in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:hunter2@host/nerves.zip",
        "https://hunter2@host/nerves.zip",
        "https://host/nerves.zip?X-Amz-Signature=hunter2",
        "https://host/nerves.zip?token=hunter2",
        "s3://user:hunter2@bucket/nerves.zip",
        "ftp://user:hunter2@host/nerves.zip",
    ],
)
@pytest.mark.parametrize("name", ["data.uri", "delivery.uri", "predict.input", "predict.output"])
def test_an_address_with_a_secret_is_refused_without_quoting_it(uri: str, name: str, workspace: Path) -> None:
    with pytest.raises(NervesegError) as caught:
        profiles.override({name: uri}, workspace / "params.yaml")
    assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)
    for instead in (".netrc", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        assert instead in str(caught.value)


def test_what_a_query_starts_with_may_be_part_of_a_key(workspace: Path) -> None:
    profiles.override({"data.uri": "s3://bucket/a@b?c.zip"}, workspace / "params.yaml")
    assert params.load().data.uri == "s3://bucket/a@b?c.zip"


def test_numbers_are_read_as_dvc_reads_them(workspace: Path) -> None:
    text = (workspace / "params.yaml").read_text().replace("\n  learning_rate: null", "\n  learning_rate: 3e-4")
    (workspace / "params.yaml").write_text(text)
    assert params.load().train.learning_rate == 3e-4


def test_show_and_schema_name_every_parameter(workspace: Path) -> None:
    shown = CliRunner().invoke(app, ["params", "show"]).stdout
    schema = json.loads(CliRunner().invoke(app, ["params", "schema"]).stdout)
    for name in params.known_names():
        section, _, key = name.partition(".")
        assert section in schema["properties"]
        assert not key or f"{name} = " in shown


@pytest.mark.parametrize("content", ["", "- a\n", "a: [", "\x00"])
def test_other_files_are_rejected(content: str, workspace: Path) -> None:
    (workspace / "params.yaml").write_text(content)
    result = CliRunner().invoke(app, ["params", "check"])
    assert result.exit_code == 1
    assert "params.yaml" in result.stderr


def test_a_missing_profile_lists_the_existing_ones(workspace: Path) -> None:
    result = CliRunner().invoke(app, ["profile", "apply", "nope"])
    assert result.exit_code == 1
    assert "hydrogen-torch-70" in result.stderr
