"""Clones for the pipeline: what outlives them, and cleaning up after killed processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nerveseg.settings import settings
from nerveseg.workspace import clones

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
