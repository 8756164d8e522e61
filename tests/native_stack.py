"""The native stack in a project of its own, as a person meets it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from prefect_api import Prefect, await_
from workspace import ROOT, Workspace, free_port

FRAMES = "s3://nerveseg/frames.zip"  # what the flow predict works on
PORTS = ("MLFLOW_PORT", "PREFECT_PORT", "PREDICTOR_PORT", "POSTGRES_PORT", "S3_PORT", "WORKER_PORT")


class Stack:
    """A project whose stack `python -m stack.native up` brings up, and what a person knows of it: .env."""

    def __init__(self, root: Path) -> None:
        self.project = Workspace(root)
        for name in ("docker-compose.yml", ".env.example", "Makefile"):
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "stack", root / "stack", ignore=shutil.ignore_patterns("__pycache__"))
        yaml = (root / "prefect.yaml").read_text()
        (root / "prefect.yaml").write_text(yaml.replace("*/5 * * * *", "* * * * *"))  # deliver, each minute
        self.project.set(**{"predict.input": FRAMES})
        (root / "worker.env").write_text("OMP_NUM_THREADS=1\n")
        self.project.commit()
        self.project.run(sys.executable, "-m", "stack.environment")
        environment = root / ".env"
        lines = environment.read_text().splitlines()
        for port in PORTS:
            lines = [f"{port}={free_port()}" if line.startswith(f"{port}=") else line for line in lines]
        environment.write_text("\n".join(lines) + "\n")
        self.env = dict(line.partition(" ")[0].split("=", 1) for line in lines if line and line[0] != "#")
        self.root = root
        self.log = root / "up.log"

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{self.env[f'{service.upper()}_PORT']}"

    @contextmanager
    def up(self) -> Iterator[None]:
        with self.log.open("a") as log:
            command = (sys.executable, "-m", "stack.native", "up")
            process = subprocess.Popen(command, cwd=self.root, env=self.project.env, stdout=log, stderr=log)
        try:
            await_("the stack", lambda: self._is_up(process), 300)
            yield
        finally:
            process.terminate()
            process.wait()

    def _is_up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log.read_text()
        states = self.states()
        return bool(states) and all(state in ("healthy", "completed") for state in states.values())

    def states(self) -> dict[str, str]:
        try:
            states: dict[str, str] = json.loads((self.root / ".stack" / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return states

    def make(self, target: str, **variables: Path) -> str:
        """Runs a target of the Makefile on this stack; PATH's `python` is that of the tests."""
        named = [f"{name}={value}" for name, value in variables.items()]
        return self.project.run("make", target, "COMPOSE=python -m stack.native", *named)

    def processes(self, service: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STACK_SERVICE") == f"{self.root}/.stack/{service}":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, *services: str) -> None:
        """Kills services as a host that fails does, and waits until they are back."""
        for service in services:
            for process in self.processes(service):
                process.kill()
        await_("the end", lambda: all(self.states()[service] != "healthy" for service in services), 10)
        await_("the return", lambda: all(self.states()[service] == "healthy" for service in services), 180)

    @property
    def prefect(self) -> Prefect:
        return Prefect(f"{self.address('prefect')}/api", ("admin", self.env["PREFECT_PASSWORD"]))

    def mlflow(self, user: str) -> requests.Session:
        session = requests.Session()
        session.auth = (user, self.env[f"MLFLOW_{user.upper()}_PASSWORD"])
        return session

    def set_alias(self, user: str, version: str) -> int:
        """Asks MLflow to make a version champion, as its page does; returns the answer's status."""
        content = {"name": "nerve-segmentation", "alias": "champion", "version": version}
        path = f"{self.address('mlflow')}/api/2.0/mlflow/registered-models/alias"
        return self.mlflow(user).post(path, json=content, timeout=60).status_code
