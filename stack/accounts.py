"""`python -m stack.accounts` creates MLflow's accounts other than the admin, or updates their passwords from .env.

`pipeline` is the worker's account: it may change the experiments and models it created, above all the registered
model. `reviewer` can only read.
"""

import os
from typing import Any

import requests

from nerveseg.console import console, readable_errors
from nerveseg.errors import NervesegError

ACCOUNTS = {"pipeline": "MLFLOW_PIPELINE_PASSWORD", "reviewer": "MLFLOW_REVIEWER_PASSWORD"}
MODEL = "nerve-segmentation"  # registry.versions.NAME, whose module takes seconds to import


def main() -> None:
    """Creates the accounts on MLFLOW_TRACKING_URI as the admin.

    Raises:
        NervesegError: MLflow does not answer, or refuses.
    """
    admin = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    for name, variable in ACCOUNTS.items():
        account = {"username": name, "password": os.environ[variable]}
        if not _call(admin, "POST", "users/create", **account):
            _call(admin, "PATCH", "users/update-password", **account)
        console.print(f"account {name} is ready")
    # If a model does not exist, MLflow tells only an admin so; for others, access is forbidden.
    _call(("pipeline", os.environ[ACCOUNTS["pipeline"]]), "POST", "registered-models/create", name=MODEL)


def _call(account: tuple[str, str], method: str, path: str, **content: Any) -> bool:
    """Calls MLflow's API. Returns whether it succeeded: False if the item already exists."""
    address = os.environ["MLFLOW_TRACKING_URI"]
    try:
        reply = requests.request(method, f"{address}/api/2.0/mlflow/{path}", json=content, auth=account, timeout=60)
    except requests.ConnectionError:
        raise NervesegError(f"{address} does not answer.") from None
    if not reply.ok and "RESOURCE_ALREADY_EXISTS" not in reply.text:
        raise NervesegError(f"{address} refuses {path}: {reply.status_code} {reply.text}")
    return reply.ok


if __name__ == "__main__":
    with readable_errors():
        main()
