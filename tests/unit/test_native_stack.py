"""How the stack without containers reads what docker-compose.yml says to containers."""

import pytest

from stack.native.__main__ import with_local_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://mlflow:5000/health", "http://127.0.0.1:5000/health"),
        ("predictor:8000", "127.0.0.1:8000"),
        ("predictor:5h2iN1XX9NByqd4B", "predictor:5h2iN1XX9NByqd4B"),  # a password that begins with a digit
        ("predictor:secret", "predictor:secret"),
        ("other-mlflow:5000", "other-mlflow:5000"),
    ],
)
def test_only_addresses_of_services_become_local(text: str, expected: str) -> None:
    assert with_local_addresses(text, ["mlflow", "predictor"]) == expected
