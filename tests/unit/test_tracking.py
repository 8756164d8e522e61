"""Telling failures of the tracking server from others, and a server that never answers."""

import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException

from nerveseg import tracking
from nerveseg.errors import NervesegError, TransientError
from nerveseg.settings import settings


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tracking server accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # also so that it is as before afterwards
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.mark.parametrize(
    "failure", [MlflowException("no answer"), requests.HTTPError("500 Server Error"), ConnectionRefusedError("refused")]
)
def test_a_server_failure_is_transient(failure: Exception) -> None:
    with pytest.raises(TransientError, match=r"^The MLflow server of .* failed: .*\nNothing is lost.$"):  # noqa: SIM117
        with tracking.reachable("Nothing is lost."):
            raise failure


def test_a_file_error_is_not_a_server_failure() -> None:
    with pytest.raises(NervesegError, match="No space left on device: 'reports/figures'") as raised:  # noqa: SIM117
        with tracking.reachable("Nothing is lost."):
            raise OSError(errno.ENOSPC, "No space left on device", "reports/figures")
    assert not isinstance(raised.value, TransientError)
    assert "MLflow" not in str(raised.value)


@pytest.mark.parametrize("own", ["1", None])
def test_training_starts_without_a_server_that_never_answers(
    mute: None, own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if own is None:
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
        monkeypatch.setattr(tracking, "ANSWER", 1)
    begun = time.monotonic()
    run = tracking.TrainingRun({"tags": {}}, tmp_path / "run.json").__enter__()
    assert time.monotonic() - begun < 5
    assert "does not answer within 1 s" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(TransientError, match="The training is complete and kept") as error:
        run.finish([], [])
    assert "secret" not in str(error.value)


def test_a_limit_of_the_users_own_wins(mute: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "ANSWER", 60)
    with pytest.raises(TransientError, match="does not answer within 1 s"), tracking.reachable("Nothing is lost."):
        tracking.connect()
