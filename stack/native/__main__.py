"""The team stack without containers: the services in docker-compose.yml as processes on this machine.

    python -m stack.native up             brings everything up and keeps it up, until Ctrl-C or `down`
    python -m stack.native ps             shows what is up, and its memory
    python -m stack.native stop NAME...   stops services; `start NAME...` starts them again
    python -m stack.native run NAME       runs a service that is not up, such as backup-databases
    python -m stack.native down           ends `up`; data are kept in .stack/

A service runs its real command with its real environment and nothing else from this shell. Differences from a
container: the name of another service in an address becomes 127.0.0.1, a path in a container becomes one in .stack/,
and third-party images are replaced (`_STAND_INS`). Memory limits and read-only file systems need containers.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, BinaryIO

import psutil
import typer
from filelock import FileLock, Timeout
from rich.table import Table

from nerveseg import mlflow_pages
from nerveseg.console import console, readable_errors
from nerveseg.errors import NervesegError
from nerveseg.files import replacing
from stack.native import compose
from stack.native.compose import Service
from stack.native.ports import is_taken

STATE = Path(".stack")
MARK = "STACK_SERVICE"  # variable in all processes of a service: its state folder and name
TICK = 0.25  # seconds
ONE_SHOT = "service_completed_successfully"
# By the start of the image's name: arguments for python that do the same here.
_STAND_INS = {
    "postgres": [
        "-m",
        "stack.native.postgres_server",
        "/var/lib/postgresql/data",
        "/docker-entrypoint-initdb.d/init.sh",
    ],
    "chrislusf/seaweedfs": ["-m", "stack.native.s3_server", "127.0.0.1", "{S3_PORT}", "/data"],
}
_ADDRESSES = (  # shown once everything is up
    ("MLFLOW_PORT", "MLflow: runs, models, promotion", "admin or reviewer"),
    ("PREFECT_PORT", "Prefect: deployments, flow runs", "admin:PREFECT_PASSWORD, in one line"),
    ("PREDICTOR_PORT", "Predictor: drop a frame", "predictor"),
)


def with_local_addresses(text: str, services: Iterable[str]) -> str:
    """The text with 127.0.0.1 in place of each service's name before a port; user:password is no address."""
    names = "|".join(map(re.escape, services))
    return re.sub(rf"(?<![\w.-])(?:{names})(?=:\d{{1,5}}(?!\w))", "127.0.0.1", text)


class Stack:
    """The services chosen in .env, and their files on this machine."""

    def __init__(self) -> None:
        self.variables = compose.environment()
        self.services = compose.load(self.variables)
        self.root = Path.cwd()
        self.state = self.root / STATE

    def chosen(self) -> list[Service]:
        """The services that `up` starts, by COMPOSE_PROFILES, each after those it depends on."""
        profiles = set(self.variables.get("COMPOSE_PROFILES", "").split(","))
        wanted = {name: one for name, one in self.services.items() if not one.profiles or profiles & set(one.profiles)}
        if tls := wanted.pop("caddy", None):
            console.print(f"{tls.name} is left out: TLS needs containers")
        order = TopologicalSorter({name: set(one.depends_on) & set(wanted) for name, one in wanted.items()})
        return [wanted[name] for name in order.static_order()]

    def mark(self, name: str) -> str:
        return f"{self.state}/{name}"

    def command(self, service: Service) -> list[str]:
        """The command of a service."""
        stand_in = next((new for image, new in _STAND_INS.items() if service.image.startswith(image)), None)
        if stand_in and "backup" not in service.profiles:
            arguments = [one.format(S3_PORT=self.variables["S3_PORT"]) for one in stand_in]
            return [sys.executable, *(self.here(service, one) for one in arguments)]
        return [self.here(service, one) for one in service.command]

    def environment(self, service: Service) -> dict[str, str]:
        """A service's environment: its own, and what every container has."""
        scratch = self._folder("tmp", service.name)
        path = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
        container = {"PATH": os.pathsep.join(path), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
        own = {
            name: "127.0.0.1" if name == "PGHOST" else self.here(service, value)
            for name, value in service.environment.items()
        }
        return container | own | {MARK: self.mark(service.name)}

    def here(self, service: Service, text: str) -> str:
        """An argument or variable with the addresses and paths of this machine."""
        text = with_local_addresses(text, self.services).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        places = {mount.target: self._source(mount) for mount in service.mounts}
        places["/tmp"] = self._folder("tmp", service.name)  # noqa: S108  the container's
        targets = "|".join(re.escape(target) for target in sorted(places, key=len, reverse=True))
        return re.sub(rf"(?<![\w.-])(?:{targets})(?![\w.-])", lambda match: places[match[0]], text)

    def _source(self, mount: compose.Mount) -> str:
        return self._folder("volumes", mount.source) if mount.is_volume else str((self.root / mount.source).resolve())

    def _folder(self, kind: str, name: str) -> str:
        folder = self.state / kind / name
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def popen(
        self, service: Service, command: list[str], output: BinaryIO | int | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a process of a service.

        Args:
            output: where its output and errors go, as `subprocess.Popen` takes it; None: where this process's go.

        Raises:
            NervesegError: its program is not installed.
        """
        try:
            return subprocess.Popen(
                command, env=self.environment(service), start_new_session=True, stdout=output, stderr=output
            )
        except FileNotFoundError:
            raise NervesegError(f"{service.name}: {command[0]} is not installed on this machine.") from None

    def processes(self, name: str) -> set[psutil.Process]:
        """All processes of a service, including those that left its session, which a container would end too."""
        found = set()
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark(name) and process.status() != psutil.STATUS_ZOMBIE:
                    found |= {
                        process,
                        *process.children(recursive=True),
                    }  # PostgreSQL's processes overwrite their environment
            except psutil.Error:
                continue
        return found


class Runner:
    """One service while it is up."""

    def __init__(self, stack: Stack, service: Service) -> None:
        self._stack, self.service = stack, service
        self._process: subprocess.Popen[bytes] | None = None
        self._probe: subprocess.Popen[bytes] | None = None
        self._again = 0.0  # when it may start (again)
        self.started = 0.0
        self.state = "waiting"  # waiting, starting, healthy, completed, stopped
        self.log = stack.state / "logs" / f"{service.name}.log"

    @property
    def is_ready(self) -> bool:
        return self.state in ("healthy", "completed")

    @property
    def _wanted(self) -> bool:
        return not (self._stack.state / "stopped" / self.service.name).exists()

    def tick(self, runners: dict[str, "Runner"]) -> None:
        """Advances the service's state, if something is due."""
        if self._process is not None and self._process.poll() is not None:
            self._ended(self._process.returncode)
        if self._process is not None:
            if not self._wanted:
                self.stop()
            elif self.state == "starting":
                self._check()
        elif self.state == "stopped" and self._wanted:
            self.state = "waiting"
        elif self.state == "waiting" and time.monotonic() >= self._again:
            if not self._wanted:
                self.state = "stopped"
            elif all(self._is_met(runners, *need) for need in self.service.depends_on.items()):
                self._start()

    def _is_met(self, runners: dict[str, "Runner"], name: str, condition: str) -> bool:
        if name not in runners:  # not chosen, and not required
            return True
        return runners[name].state == ("completed" if condition == ONE_SHOT else "healthy")

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = self._stack.popen(self.service, self._stack.command(self.service), log)
        self.started, self.state = time.monotonic(), "starting"

    def _check(self) -> None:
        """Runs the health check without waiting for it."""
        if not self.service.health:
            return
        if self._probe is None:
            command = [self._stack.here(self.service, one) for one in self.service.health]
            self._probe = self._stack.popen(self.service, command, subprocess.DEVNULL)
        elif (status := self._probe.poll()) is not None:
            self._probe = None
            if status == 0:
                self.state = "healthy"
                console.print(f"{self.service.name} is ready after {time.monotonic() - self.started:.1f} s")

    def _ended(self, status: int) -> None:
        self._end_all()
        self._process, self._probe = None, None
        if status == 0 and self.service.restart == "on-failure":
            self.state = "completed"
            console.print(f"{self.service.name} completed after {time.monotonic() - self.started:.1f} s")
            return
        self.state, self._again = "waiting", time.monotonic() + 1
        console.print(f"{self.service.name} ended with status {status} and is restarted; see {self.log}")

    def stop(self) -> None:
        """Ends all of its processes."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(self.service.grace)
            except subprocess.TimeoutExpired:
                console.print(f"{self.service.name} does not stop and is killed")
        self._end_all()
        self._process, self._probe, self.state = None, None, "stopped"

    def _end_all(self) -> None:
        for process in self._stack.processes(self.service.name):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self._process is not None:
            self._process.wait()


def _supervise(stack: Stack) -> None:
    begun, announced = time.monotonic(), False
    runners = {one.name: Runner(stack, one) for one in stack.chosen()}
    for port in (one.split(":")[1] for runner in runners.values() for one in runner.service.ports):
        if is_taken(int(port)):
            raise NervesegError(f"Port {port} is in use: stop the process that uses it, or set another port in .env.")
    shutil.rmtree(stack.state / "stopped", ignore_errors=True)
    (stack.state / "stopped").mkdir(parents=True)
    try:
        while True:
            before = {name: runner.state for name, runner in runners.items()}
            for runner in runners.values():
                runner.tick(runners)
            states = {name: runner.state for name, runner in runners.items()}
            if states != before:
                with replacing(stack.state / "state.json") as beside:
                    beside.write_text(json.dumps(states))
            if not announced and all(runner.is_ready for runner in runners.values()):
                announced = True
                _announce(stack, time.monotonic() - begun)
            time.sleep(TICK)
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C would leave the rest running
            signal.signal(one, signal.SIG_IGN)
        for runner in reversed(runners.values()):
            runner.stop()
        (stack.state / "state.json").unlink(missing_ok=True)
        console.print("everything is down; data are kept in .stack/")


def _announce(stack: Stack, seconds: float) -> None:
    table = Table("address", "what", "account (passwords: .env)", title=f"ready after {seconds:.0f} s")
    for port, what, account in _ADDRESSES:
        address = f"http://127.0.0.1:{stack.variables[port]}"
        table.add_row(mlflow_pages.experiments(address) if port == "MLFLOW_PORT" else address, what, account)
    console.print(table)


@contextmanager
def _alone(stack: Stack) -> Iterator[None]:
    """Allows one `up` per folder; its process id is in the file next to the lock."""
    stack.state.mkdir(exist_ok=True)
    try:
        with FileLock(stack.state / "lock", timeout=0):
            (stack.state / "pid").write_text(str(os.getpid()))
            yield
            (stack.state / "pid").unlink()
    except Timeout:
        raise NervesegError("The stack in this folder is already up: `python -m stack.native ps` shows it.") from None


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Names = Annotated[list[str], typer.Argument(help="Services in docker-compose.yml.")]


@app.command()
def up() -> None:
    """Bring everything up and keep it up, until Ctrl-C or `down`."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    with readable_errors():
        stack = Stack()
        with _alone(stack):
            try:
                _supervise(stack)
            except KeyboardInterrupt:
                return


@app.command()
def down() -> None:
    """End `up`; data are kept in .stack/."""
    with readable_errors():
        pid = STATE / "pid"
        if not pid.exists() or not psutil.pid_exists(int(pid.read_text())):
            raise NervesegError("The stack in this folder is not up.")
        psutil.Process(int(pid.read_text())).terminate()
        with FileLock(STATE / "lock"):  # held by `up` until it ends
            return


@app.command()
def ps() -> None:
    """Show what is up, and its memory."""
    with readable_errors():
        stack = Stack()
        table = Table("service", "state", "processes", "memory [MB]")
        for name, state in _states(stack).items():
            processes = stack.processes(name)
            memory = sum(process.memory_full_info().pss for process in processes) / 1e6
            table.add_row(name, state, str(len(processes)), f"{memory:.0f}")
        console.print(table)


@app.command()
def stop(names: Names) -> None:
    """Stop services."""
    with readable_errors():
        stack = Stack()
        _require(stack, names)
        for name in names:
            (stack.state / "stopped" / name).touch()
        _wait(stack, names, ("stopped",))


@app.command()
def start(names: Names) -> None:
    """Start services again."""
    with readable_errors():
        stack = Stack()
        _require(stack, names)
        for name in names:
            (stack.state / "stopped" / name).unlink(missing_ok=True)
        _wait(stack, names, ("healthy", "completed"))


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A service in docker-compose.yml.")],
    rm: Annotated[bool, typer.Option("--rm", help="Accepted as in Compose, without effect.")] = False,
) -> None:
    """Run a service once, next to those that are up, and exit with its status."""
    with readable_errors():
        stack = Stack()
        _require(stack, [])
        if name not in stack.services:
            raise NervesegError(f"{name} is not a service in {compose.COMPOSE_FILE}.")
        service = stack.services[name]
        process = stack.popen(service, stack.command(service))
        raise SystemExit(process.wait())


def _states(stack: Stack) -> dict[str, str]:
    try:
        states: dict[str, str] = json.loads((stack.state / "state.json").read_text())
    except FileNotFoundError:
        raise NervesegError("The stack in this folder is not up: `make stack-native` starts it.") from None
    return states


def _require(stack: Stack, names: list[str]) -> None:
    if unknown := set(names) - set(_states(stack)):
        raise NervesegError(f"Not up here: {', '.join(sorted(unknown))}.")


def _wait(stack: Stack, names: list[str], states: tuple[str, ...]) -> None:
    while not all(_states(stack)[name] in states for name in names):
        time.sleep(TICK)


if __name__ == "__main__":
    app()
