"""Addresses of MLflow's pages. Without `workflowType` in the address, MLflow shows its pages for language models.

`python -m nerveseg.mlflow_pages ADDRESS` prints where on the server at ADDRESS the runs in MLFLOW_TRACKING_URI are.
"""

import sys

from nerveseg.console import readable_errors
from nerveseg.settings import settings

_TRAINING = "?workflowType=machine_learning"


def experiments(server: str) -> str:
    """The page that lists the experiments."""
    return f"{_root(server)}/experiments{_TRAINING}"


def runs(server: str, experiment_id: str) -> str:
    """The page that lists the runs of an experiment."""
    return f"{_root(server)}/experiments/{experiment_id}/runs{_TRAINING}"


def run(server: str, experiment_id: str | None, run_id: str) -> str:
    """The page of a run.

    Args:
        experiment_id: None if it is not known: MLflow finds the run without it, but drops `workflowType`.
    """
    if experiment_id is None:
        return f"{_root(server)}/runs/{run_id}"
    return f"{_root(server)}/experiments/{experiment_id}/runs/{run_id}{_TRAINING}"


def artifact(experiment_id: str, run_id: str, path: str) -> str:
    """The page that shows an artifact of a run, as a link from another page of the same server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{path}{_TRAINING}"


def version(server: str, name: str, number: str) -> str:
    """The page of a version of a registered model."""
    return f"{_root(server)}/models/{name}/versions/{number}{_TRAINING}"


def _root(server: str) -> str:
    return f"{server.rstrip('/')}/#"


def main(server: str) -> None:
    """Prints the page of the runs in MLFLOW_TRACKING_URI, which `server` serves, or of all experiments without a run.

    Raises:
        NervesegError: the tracking store failed.
    """
    from nerveseg import tracking  # it imports mlflow

    with tracking.reachable("MLflow cannot show it."):
        found = tracking.connect().get_experiment_by_name(settings().experiment)
    print(experiments(server) if found is None else runs(server, found.experiment_id))


if __name__ == "__main__":
    with readable_errors():
        main(sys.argv[1])
