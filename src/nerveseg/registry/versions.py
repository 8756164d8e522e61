"""Versions and aliases of the registered model."""

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from nerveseg.errors import NervesegError

NAME = "nerve-segmentation"
CHALLENGER = "challenger"


def register(client: MlflowClient, run_id: str, model_id: str, tags: dict[str, str], description: str) -> str:
    """Registers a logged model under `nerve-segmentation` with the alias `challenger`, once.

    A model that has a version already keeps it; its tags and description are renewed.

    Returns:
        The version.
    """
    try:
        client.create_registered_model(NAME, description="Nerve in an ultrasound frame: uint8 frames to masks.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = find(client, model_id)
    if version is None:
        source = client.get_logged_model(model_id).artifact_location
        version = str(client.create_model_version(NAME, source, run_id, model_id=model_id).version)
    for key, value in tags.items():
        client.set_model_version_tag(NAME, version, key, value)
    client.update_model_version(NAME, version, description)
    client.set_registered_model_alias(NAME, CHALLENGER, version)
    return version


def origin(client: MlflowClient, version: str) -> tuple[str, str]:
    """The run of a version, and the commit that the params.yaml and dvc.lock on it belong to.

    Raises:
        NervesegError: there is no such version, or its code is not that of a commit.
    """
    try:
        found = client.get_model_version(NAME, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        known = sorted(int(other.version) for other in client.search_model_versions(f"name = '{NAME}'"))
        listed = ", ".join(map(str, known)) or "none"
        raise NervesegError(f"{NAME} has no version {version}. Versions: {listed}.") from None
    if "git_commit" not in found.tags or found.run_id is None:
        raise NervesegError(f"Version {version} names no git commit: it was not registered from a git repository.")
    if found.tags.get("git_changed") == "true":
        raise NervesegError(
            f"Version {version} was registered with uncommitted changes of code on {found.tags['git_commit']}; they "
            "are nowhere recorded, so that its state cannot be restored. Commit before a run that matters."
        )
    return found.run_id, found.tags["git_commit"]


def receipt(run_id: str, version: str | None, reasons: list[str]) -> dict[str, Any]:
    """What `reports/registration.json` holds: the run on this server, the version, or None and the reasons why not."""
    return {"registered": version is not None, "name": NAME, "version": version, "reasons": reasons, "run_id": run_id}


def withdraw(client: MlflowClient, model_id: str, reasons: str) -> None:
    """Takes the alias `challenger` from the version of a model that is refused now, and says why on it."""
    version = find(client, model_id)
    if version is None:
        return
    client.set_model_version_tag(NAME, version, "gate", f"refused: {reasons}")
    if CHALLENGER in client.get_model_version(NAME, version).aliases:
        client.delete_registered_model_alias(NAME, CHALLENGER)


def find(client: MlflowClient, model_id: str) -> str | None:
    """The version that a logged model is registered as, if it is."""
    source = client.get_logged_model(model_id).artifact_location  # the store keeps no model id on a version
    versions = client.search_model_versions(f"name = '{NAME}'")
    return next((str(version.version) for version in versions if version.source == source), None)
