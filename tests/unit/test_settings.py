"""The environment: what is rejected, and the messages."""

import pytest

from nerveseg.errors import NervesegError
from nerveseg.model.device import device_name
from nerveseg.settings import settings


@pytest.fixture(autouse=True)
def read_anew() -> None:
    settings.cache_clear()


def test_an_unknown_setting_is_rejected_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVESEG_DEVISE", "cpu")
    with pytest.raises(NervesegError, match="NERVESEG_DEVISE: no such setting; did you mean NERVESEG_DEVICE"):
        settings()


def test_an_invalid_value_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVESEG_WORKERS", "-1")
    with pytest.raises(NervesegError, match="NERVESEG_WORKERS"):
        settings()


@pytest.mark.parametrize("credentials", ["nurse", "nurse:", ":secret"])
def test_credentials_have_two_parts_and_are_not_shown(monkeypatch: pytest.MonkeyPatch, credentials: str) -> None:
    monkeypatch.setenv("NERVESEG_PREDICTOR_AUTH", credentials)
    with pytest.raises(NervesegError, match=r"NERVESEG_PREDICTOR_AUTH: .*use user:password") as refused:
        settings()
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("NERVESEG_PREDICTOR_AUTH", "nurse:secret:word")
    assert "secret" not in repr(settings())


def test_an_unavailable_device_is_rejected() -> None:
    import torch

    if torch.cuda.is_available():
        assert device_name("cuda") == "cuda"
    else:
        with pytest.raises(NervesegError, match="this machine has none"):
            device_name("cuda")
