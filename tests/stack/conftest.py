"""The native stack, brought up once for all tests, and a browser."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from playwright.sync_api import Browser, sync_playwright

from native_stack import Stack
from nerveseg import tracking

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own user can reach; pytest's are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="nerveseg-stack-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(folder: Path) -> Iterator[Stack]:
    stack = Stack(folder / "project")
    with stack.up():
        yield stack


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """MLflow with the account of the flows."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.address("mlflow"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "pipeline")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", stack.env["MLFLOW_PIPELINE_PASSWORD"])
    return tracking.connect()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *quiet])
        yield browser
        browser.close()
