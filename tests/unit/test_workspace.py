"""Clones for the pipeline: what outlives them, and cleaning up after killed processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nerveseg.cli import app
from nerveseg.errors import NervesegError
from nerveseg.settings import settings
from nerveseg.workspace import clones, commands

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
NAMES = ("MLFLOW_TRACKING_URI", "NERVESEG_CHECKPOINTS")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("", ""), ("sqlite:////here/mlflow.db", "/here/checkpoints")),
        (("sqlite:///runs/mlflow.db", "kept"), ("sqlite:////here/runs/mlflow.db", "/here/kept")),
        (("sqlite:////srv/mlflow.db", "/srv/kept"), ("sqlite:////srv/mlflow.db", "/srv/kept")),
        (("https://mlflow.example.org", "kept"), ("https://mlflow.example.org", "/here/kept")),
    ],
)
def test_runs_and_checkpoints_of_a_clone_are_kept_outside(
    given: tuple[str, str], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(NAMES, given, strict=True):
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    clones.keep_outside(Path("/here"))
    settings.cache_clear()
    assert tuple(os.environ[name] for name in NAMES) == expected


def test_a_clone_shares_the_cache_of_a_repository_whose_path_is_not_ascii(tmp_path: Path) -> None:
    """With processes of git and DVC: what they can read is what matters."""
    source, target = tmp_path / "größe" / "źródło", tmp_path / "größe" / "копия"
    (source / "weights").mkdir(parents=True)
    for command in (("git", "init", "--quiet"), (sys.executable, "-m", "dvc", "init", "--quiet")):
        subprocess.run(command, cwd=source, check=True)
    (source / ".dvc" / "config.local").write_text("[core]\n    autostage = false\n")
    subprocess.run((*GIT, "commit", "--quiet", "--message", "state"), cwd=source, check=True)
    clones.clone(source, target)
    assert commands.dvc(target, "cache", "dir") == str(source / ".dvc" / "cache")
    assert commands.dvc(target, "config", "core.autostage") == "false"


def test_a_clone_gets_augmentations_that_are_not_committed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "clone"
    for root in (source, target):
        (root / "augmentation").mkdir(parents=True)
    (source / "augmentation" / "own.json").write_text("{}")
    clones.bring_state(source, target)
    assert (target / "augmentation" / "own.json").read_text() == "{}"


def test_a_tree_without_git_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "tree").mkdir()
    with pytest.raises(NervesegError, match=r"tree is not a git repository with a commit, .*`git init"):
        clones.clone(tmp_path / "tree", tmp_path / "clone")
    assert not (tmp_path / "clone").exists()


@pytest.mark.parametrize("command", [("verify", "1"), ("predict", "frame.png"), ("reproduce", "1"), ("params", "show")])
def test_a_command_in_a_subfolder_names_the_root_and_writes_nothing(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "models")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings.cache_clear()
    ended = CliRunner().invoke(app, command)
    settings.cache_clear()
    assert ended.exit_code == 1
    assert f"run from the root of the repository, `cd {tmp_path}`" in ended.output
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "is_kept"), [(b"", False), (b'{"read": {', False), (b'{"read": {}, "write": {}}', True)]
)
def test_a_list_of_used_files_that_a_killed_dvc_left_cut_off_is_removed(
    tmp_path: Path, content: bytes, is_kept: bool
) -> None:
    rwlock = tmp_path / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    commands.mend_rwlock(tmp_path)
    rwlock.write_bytes(content)
    commands.mend_rwlock(tmp_path)
    assert rwlock.exists() == is_kept


def test_a_clone_is_deleted_after_its_process_even_if_its_id_is_reused(tmp_path: Path) -> None:
    for name in (str(os.getpid()), "1", "no-number"):  # as if left by killed processes, whose ids have been reused
        (tmp_path / name / "clone").mkdir(parents=True)
    code = (
        "import sys, time, pathlib\nfrom nerveseg.workspace import clones\n"
        "with clones.scratch(pathlib.Path(sys.argv[1])) as root:\n"
        "    root.mkdir(); print(root, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with clones.scratch(tmp_path) as ours:
            assert not ours.exists()
            ours.mkdir()
            left = {path for path in tmp_path.iterdir() if path.is_dir()}
            assert left == {theirs.parent, ours.parent}, "a clone in use is kept"
        assert not ours.parent.exists()
        other.send_signal(signal.SIGKILL)
    with clones.scratch(tmp_path):
        assert not theirs.parent.exists()
