"""A copy of the project in which tests run DVC and stages as a user would: as processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from ruamel.yaml import YAML

from preload import VARIABLE
from stack.native.ports import free_port

ROOT = Path(__file__).parents[1]
PROJECT = (
    *("dvc.yaml", "params.yaml", "prefect.yaml", "prefect.toml", "weights/README.md", "LICENSE"),
    "augmentation/README.md",
    *(".dvc/config", ".dvc/plots.html", ".dvc/.gitignore", ".dvcignore", ".gitignore"),
)
EMPTY_STORE = "empty.db"  # beside a workspace that is to be copied: MLflow takes half a second to create its tables
SMALL: dict[str, Any] = {
    "phantom.subjects": 8,
    "phantom.frames_per_subject": 10,
    "phantom.height": 96,
    "phantom.width": 128,
    # A fifth of a Unet's weights, and the smallest encoder that timm has: training is not what most tests are about.
    "model.architecture": "Linknet",
    "model.encoder": "tu-test_resnet",
    "model.height": 64,
    "model.width": 64,
    "train.recipe": "card",  # ours changes with what is found, and with it the figures of tests
    "train.learning_rate": 0.01,
    "train.epochs": 5,
    "train.batch_size": 4,
    "evaluate.overlays": 1,
    "evaluate.resamples": 1000,
    "register.gate": "off",  # it loads torch and two networks; tests of the gate turn it on
    "register.min_dice": 0.0,
    "register.prior_margin": 0.0,
    "register.min_worst_subject": 0.0,
    "register.champion_margin": 1.0,
}


class Workspace:
    """A git repository with the project's pipeline and small params.

    Args:
        root: an empty or missing folder.
        variables: what the environment holds beside the test's own.
        plain: commands start as a user's do, and import what they need; otherwise a preloaded process runs them.
    """

    def __init__(self, root: Path, variables: Mapping[str, str] | None = None, *, plain: bool = False) -> None:
        self._enter(root, variables, plain=plain)
        for name in PROJECT:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        for name in ("src", "flows"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.egg-info"))
        self.set(**SMALL)
        self.git("init", "--quiet")
        self.commit()

    def copy(self, root: Path, variables: Mapping[str, str] | None = None) -> "Workspace":
        """The same state in another folder, with an empty MLflow store."""
        shutil.copytree(self.root, root, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns"))
        if (empty := self.root.parent / EMPTY_STORE).exists():
            shutil.copy(empty, root / "mlflow.db")
        return Workspace.of(root, variables)

    @classmethod
    def of(cls, root: Path, variables: Mapping[str, str] | None = None) -> "Workspace":
        """The workspace that lies in a folder."""
        workspace = cls.__new__(cls)
        workspace._enter(root, variables)
        return workspace

    def _enter(self, root: Path, variables: Mapping[str, str] | None, *, plain: bool = False) -> None:
        self.root = root
        commands = Path(sys.executable).parent if plain else os.environ[VARIABLE]
        path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        self.env.pop("MLFLOW_TRACKING_URI", None)
        self.env |= {"NERVESEG_WORKERS": "0", "NERVESEG_DEVICE": "cpu", **(variables or {})}

    @property
    def store(self) -> str:
        """The URI of the MLflow store in its folder."""
        return f"sqlite:///{self.root}/mlflow.db"

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        done = subprocess.run(
            ("git", *identity, *arguments), cwd=self.root, env=self.env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def set(self, **values: Any) -> None:
        """Changes params.yaml: `set(**{"train.epochs": 3})`."""
        yaml = YAML()
        content = yaml.load(self.root / "params.yaml")
        for name, value in values.items():
            section, _, key = name.partition(".")
            content[section][key] = value
        yaml.dump(content, self.root / "params.yaml")

    def run(self, *command: str, ok: bool = True) -> str:
        """Runs a command here; returns what it printed on both streams. Fails the test where its status is not `ok`."""
        done = subprocess.run(
            command, cwd=self.root, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert (done.returncode == 0) == ok, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def stage(self, name: str, ok: bool = True) -> str:
        return self.run("python", "-m", f"nerveseg.stages.{name}", ok=ok)

    def start(self, name: str) -> subprocess.Popen[str]:
        """Starts a stage and returns at once; its output goes to `NAME.log`."""
        log = (self.root / f"{name}.log").open("a")
        command = ("python", "-m", f"nerveseg.stages.{name}")
        return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=log, stderr=log, text=True)


def kill(process: subprocess.Popen[str], folder: Path) -> None:
    """Sends SIGKILL, and waits for the end of what the preloaded process runs for it in `folder`."""
    running = [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]
    process.kill()
    process.wait()
    psutil.wait_procs(running, timeout=10)


@contextmanager
def entered(workspace: Workspace) -> Iterator[pytest.MonkeyPatch]:
    """This process is in the workspace and has its environment; yields what undoes further changes with these."""
    from nerveseg.settings import settings

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.root)
        for name, value in workspace.env.items():
            patch.setenv(name, value)
        # MLflow keeps one store per URI, so that of a relative one could be another workspace's.
        patch.setenv("MLFLOW_TRACKING_URI", workspace.env.get("MLFLOW_TRACKING_URI", workspace.store))
        settings.cache_clear()
        yield patch
    settings.cache_clear()


def wait_for(what: str, condition: Any, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Waits until `condition()` holds; fails when the process ends before or the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with {process.returncode} before {what}"
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.05)


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A real MLflow server with its store in `folder`; yields its address."""
    command = (
        *("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/store.db", "--artifacts-destination", str(folder / "artifacts")),
    )
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # jobs of language models: five more processes
    server = _serve(folder, command, f"http://127.0.0.1:{port}/health", quiet)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def prefect_server(folder: Path) -> str:
    """Starts a real Prefect server with its store in `folder`; returns the address of its API.

    It ends with the preloaded process.
    """
    address = f"http://127.0.0.1:{(port := free_port())}/api"
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    variables = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_API_URL": address}
    _serve(folder, command, f"{address}/health", variables)
    return address


def s3_server(folder: Path) -> str:
    """Starts an S3 server; returns its address. It ends with the preloaded process."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    _serve(folder, ("moto.server", "--host", "127.0.0.1", "--port", str(port)), f"{address}/moto-api/data.json", {})
    return address


def _serve(folder: Path, command: tuple[str, ...], health: str, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts a server as a fork of the preloaded process, and waits for its answer."""
    folder.mkdir(exist_ok=True)
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            (f"{os.environ[VARIABLE]}/python", "-m", *command),
            env=os.environ | dict(variables),
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    wait_for("the server's answer", lambda: _answers(health), server)
    return server


def _answers(url: str) -> bool:
    try:
        return bool(urlopen(url, timeout=2).status == 200)
    except (URLError, OSError):
        return False
