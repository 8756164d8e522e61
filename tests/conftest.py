"""Fixtures that several tests share: a trained workspace, and an S3 server that speaks HTTP."""

import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack, chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from preload import VARIABLE, measured, preloaded
from workspace import EMPTY_STORE, Workspace, prefect_server, s3_server

# Where the tests of a file are run by one process, two processes end together if these come first.
SLOWEST = (
    *("test_flows", "test_crossval", "test_delivery", "test_reproduce", "test_s3_to_registry", "test_table_and_search"),
    *("test_training", "test_prediction", "test_several_processes"),
)
MEMORY, ROOM = "/dev/shm", 10 * 2**30  # bytes; the suite writes 6 GB


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--branch-coverage", action="store_true", help="print the branch coverage; needs -n")
    parser.addoption("--in-memory", action="store_true", help=f"keep temporary files in {MEMORY}, if it has room")


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the others keeps the preloaded one, which costs nothing until a test needs it."""
    if VARIABLE not in os.environ:
        stack = ExitStack()
        if config.option.in_memory:
            _in_memory(stack)
        if config.option.branch_coverage:
            if not config.option.numprocesses:
                raise pytest.UsageError("--branch-coverage needs -n: only forks of the preloaded process are measured")
            os.environ[measured.VARIABLE] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="nerveseg-coverage-")
            )
        os.environ[VARIABLE] = str(stack.enter_context(preloaded()))
        config.add_cleanup(stack.close)


def _in_memory(stack: ExitStack) -> None:
    """Temporary files lie in memory where that has room: the tests create and delete files all the time."""
    with suppress(OSError):
        state = os.statvfs(MEMORY)
        if state.f_bavail * state.f_frsize > ROOM and not state.f_flag & os.ST_NOEXEC:
            folder = tempfile.TemporaryDirectory(prefix="nerveseg-tests-", dir=MEMORY, ignore_cleanup_errors=True)
            os.environ["TMPDIR"] = tempfile.tempdir = stack.enter_context(folder)


def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """The test processes are forks of the preloaded one, too."""
    for spec in specs:
        spec.python = f"{os.environ[VARIABLE]}/python"


def is_worker() -> bool:
    """Whether this is one of several processes that run tests."""
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_sessionfinish() -> None:
    """A test process saves what it ran before the one that started it adds all up."""
    if measured.VARIABLE in os.environ and is_worker():
        measured.save()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.branch_coverage and not is_worker():
        terminalreporter.section("branch coverage")
        measured.report(Path(os.environ[measured.VARIABLE]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = ("e2e", "integration", "contract", "unit")

    def place(item: pytest.Item) -> tuple[int, int]:
        folder, file = item.path.parent.name, item.path.stem
        return (
            SLOWEST.index(file) if file in SLOWEST else len(SLOWEST),
            folders.index(folder) if folder in folders else -1,
        )

    items.sort(key=place)


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all test processes."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if is_worker() else root


def of_all(tmp_path_factory: pytest.TempPathFactory, name: str, start: Callable[[Path], str]) -> str:
    """The address of a server that the first test process starts for all; it ends with the preloaded process."""
    folder = shared(tmp_path_factory) / name
    address = folder / "address"
    with FileLock(f"{folder}.lock"):
        if not address.exists():
            address.write_text(start(folder))
    return address.read_text()


@dataclass(frozen=True)
class Bucket:
    """A fresh, versioned bucket on the test server."""

    client: Any
    name: str
    endpoint: str

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, content: bytes, **more: Any) -> str:
        """Stores an object and returns its version id."""
        version: str = self.client.put_object(Bucket=self.name, Key=key, Body=content, **more)["VersionId"]
        return version


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after `dvc repro`, made once for all test processes; only to be copied."""
    from mlflow import MlflowClient

    root = shared(tmp_path_factory)
    project = root / "trained" / "project"
    with FileLock(root / "trained.lock"):
        if not project.exists():
            making = Workspace(root / "trained" / "making")
            making.run("dvc", "repro")
            making.commit()
            with chdir(project.parent):  # it makes a folder for artifacts, too
                MlflowClient(f"sqlite:///{EMPTY_STORE}").search_experiments()
            making.root.rename(project)
    return Workspace.of(project)


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the API of a Prefect server of all test processes."""
    return of_all(tmp_path_factory, "prefect", prefect_server)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an S3 server, http://127.0.0.1:port, of all test processes."""
    return of_all(tmp_path_factory, "s3", s3_server)


def aws_variables(endpoint: str, folder: Path) -> dict[str, str]:
    """AWS_* that lead to the test server and to nothing of the user's own; `folder` holds no AWS files."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "no-aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-aws-credentials"),
    }


@pytest.fixture
def aws_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AWS_* of this process and its children: the test server, its credentials, and nothing of the user's own."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "NERVESEG_S3_ANONYMOUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in aws_variables(s3_endpoint, tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(s3_endpoint: str, aws_environment: None) -> Bucket:
    """A fresh bucket, and the environment that leads boto3 and DVC to it."""
    return new_bucket(s3_endpoint)


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> Bucket:
    """A bucket that lives as long as the module's tests."""
    return new_bucket(s3_endpoint)


def new_bucket(endpoint: str) -> Bucket:
    """A fresh, versioned bucket on the test server."""
    import boto3

    client = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client(
        "s3", endpoint_url=endpoint
    )
    bucket = Bucket(client, f"test-{uuid.uuid4().hex}", endpoint)
    client.create_bucket(Bucket=bucket.name)
    client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def put_phantom(bucket: Bucket, workspace: Workspace, path: Path, **changes: Any) -> None:
    """Stores the phantom of a workspace's params, with `changes` to them, as nerves.zip; `path` keeps a copy."""
    from nerveseg.params import load
    from nerveseg.phantom import dataset as phantom

    phantom.write(path, load(workspace.root / "params.yaml").phantom.model_copy(update=changes))
    bucket.put("nerves.zip", path.read_bytes())
