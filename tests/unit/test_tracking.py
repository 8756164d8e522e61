"""How a failure of the tracking server is told from others."""

import errno

import pytest
import requests
from mlflow.exceptions import MlflowException

from nerveseg import tracking
from nerveseg.errors import NervesegError, TransientError


@pytest.mark.parametrize(
    "failure", [MlflowException("no answer"), requests.HTTPError("500 Server Error"), ConnectionRefusedError("refused")]
)
def test_a_server_that_fails_is_worth_another_try(failure: Exception) -> None:
    with pytest.raises(TransientError, match=r"^The MLflow server of .* failed: .*\nNothing is lost.$"):  # noqa: SIM117
        with tracking.reachable("Nothing is lost."):
            raise failure


def test_a_file_that_fails_is_no_failure_of_the_server() -> None:
    with pytest.raises(NervesegError, match="No space left on device: 'reports/figures'") as raised:  # noqa: SIM117
        with tracking.reachable("Nothing is lost."):
            raise OSError(errno.ENOSPC, "No space left on device", "reports/figures")
    assert not isinstance(raised.value, TransientError)
    assert "MLflow" not in str(raised.value)
