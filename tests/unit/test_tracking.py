"""Telling failures of the tracking server from others."""

import errno

import pytest
import requests
from mlflow.exceptions import MlflowException

from nerveseg import tracking
from nerveseg.errors import NervesegError, TransientError


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
