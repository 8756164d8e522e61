"""`python -m stack.accounts` makes MLflow's accounts beside the admin, or gives them the passwords of .env.

`pipeline` is the worker's: it may change the experiments and models that it made itself, the registered model above
all. `reviewer` only reads.
"""

import os
from typing import Any

import requests

from nerveseg.console import console, readable_errors
from nerveseg.errors import NervesegError

ACCOUNTS = {"pipeline": "MLFLOW_PIPELINE_PASSWORD", "reviewer": "MLFLOW_REVIEWER_PASSWORD"}
MODEL = "nerve-segmentation"  # registry.versions.NAME, whose module takes seconds to import


def main() -> None:
    """Speaks to MLFLOW_TRACKING_URI as the admin.

    Raises:
        NervesegError: MLflow does not answer, or refuses.
    """
    admin = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    for name, variable in ACCOUNTS.items():
        account = {"username": name, "password": os.environ[variable]}
        if not _call(admin, "POST", "users/create", **account):
            _call(admin, "PATCH", "users/update-password", **account)
        console.print(f"account {name} is ready")
    # Of a model that does not exist, MLflow tells nobody but an admin that it does not: it would forbid looking.
    _call(("pipeline", os.environ[ACCOUNTS["pipeline"]]), "POST", "registered-models/create", name=MODEL)


def _call(account: tuple[str, str], method: str, path: str, **content: Any) -> bool:
    """Whether it was done; not, where the thing exists already."""
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
