"""Versions and aliases of the registered model."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from rich.text import Text

from nerveseg import logged_code, paths
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.files import sha256
from nerveseg.registry import gate
from nerveseg.registry.gate import Verdict, outdated

NAME = "nerve-segmentation"
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
FILES = {  # as written by the stages, by the NAME of the tag `sha256_NAME` with their hash
    "weights": paths.MODELS / "model.safetensors",
    "spec": paths.MODELS / "model.json",
    "reference": paths.REFERENCE_JSON,
    "smoke": paths.SMOKE,
    "card": paths.CARD_JSON,
    "model_card": paths.CARD,
    "metadata": paths.METADATA_JSON,
}
FIGURES = (paths.METRICS_JSON, paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.PREDICTIONS)  # hashed in the card
RECORDED = {"params": paths.PARAMS, "lock": paths.DVC_LOCK}  # of each training; by the NAME of their tag, like FILES
REPRODUCE = Path("reproduce")  # folder in a run's artifacts with RECORDED and the gate's verdict
VERDICT = REPRODUCE / "gate.json"
ENSEMBLE = "ensemble"  # tag of an ensemble: its number of networks
LOGGED = "logged"  # in the folder of `fetch`: the logged model but for its artifacts, so its code
_RUN_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Model:
    """A model in MLflow.

    Attributes:
        version: its number; None for the model of a run without a version.
        run_id: its training run.
        source: location of its logged files.
        tags: tags of the version or, without one, of the run.
    """

    version: str | None
    run_id: str
    source: str
    tags: dict[str, str]

    @property
    def label(self) -> str:
        """Its name in predictions: the version, or `run-` and the run id."""
        return self.version or f"run-{self.run_id}"

    @property
    def members(self) -> int:
        """Its number of networks, each from its own training."""
        return int(self.tags.get(ENSEMBLE, 1))


def settle(
    client: MlflowClient,
    record: dict[str, Any],
    verdict: Verdict,
    tags: dict[str, str],
    git: dict[str, str],
    description: str,
) -> str | None:
    """Registers a logged model or not, as the gate decided, and tags its run and version with the verdict.

    Args:
        record: the record of the run, with `run_id` and `model_id`.
        tags: lineage and hashes, for the run and the version.
        git: tags for the version only: the run has those of its training.
        description: of the version, Markdown.

    Returns:
        The version; None if the model is refused.
    """
    tags = {**verdict.tags, **tags}
    run_id, model_id = record["run_id"], record["model_id"]
    for key in outdated(client.get_run(run_id).data.tags, tags):
        client.delete_tag(run_id, key)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    if verdict.reasons:
        withdraw(client, model_id, tags, description)
        return None
    return register(client, run_id, model_id, tags | git, description)


def print_outcome(verdict: Verdict, version: str | None) -> None:
    """Prints what `settle` did, and why."""
    if verdict.mode == "off":
        console.print(f"The gate is off: no criteria were checked. {verdict.note}".rstrip(), soft_wrap=True)
    else:
        console.print(gate.table(verdict))
    if version is None:
        reasons = f": {'; '.join(verdict.reasons)}"
        console.print(Text.assemble(("not registered", "bold yellow"), reasons), soft_wrap=True)
    else:
        console.print(Text.assemble(("registered", "bold green"), f" {NAME} version {version}, alias {CHALLENGER}"))
        if verdict.passed is False:
            remark = f": it is not delivered unless its tag `{gate.OVERRIDE}` says `NAME: REASON`."
            console.print(Text.assemble((f"The gate {verdict.headline}", "bold yellow"), remark), soft_wrap=True)


def hashes(root: Path, trainings: Sequence[Path]) -> dict[str, str]:
    """Tags with which `nerveseg verify` checks that a version's files are those that were evaluated.

    Args:
        root: contains FILES as written by the stages.
        trainings: folders with the RECORDED files of each training; their hashes are separated by spaces.
    """
    files = {name: [root / path] for name, path in FILES.items()}
    files |= {name: [folder / path for folder in trainings] for name, path in RECORDED.items()}
    return {f"sha256_{name}": digest(parts) for name, parts in files.items()}


def digest(files: Sequence[Path]) -> str:
    """The value of a tag `sha256_NAME`: the hash of its file, or the hashes of several, separated by spaces."""
    return " ".join(map(sha256, files))


def dataset_tags(source: dict[str, Any]) -> dict[str, str]:
    """Tags that say where the dataset came from: the content of `data/raw/source.json`."""
    return {f"dataset_{key}": str(value) for key, value in source.items() if value is not None}


def recorded(members: int) -> list[Path]:
    """The folders with params.yaml and dvc.lock, one per training, in `reproduce/` and in the folder of `fetch`.

    Args:
        members: number of networks in the model.
    """
    return [Path(f"fold-{number}") for number in range(members)] if members > 1 else [Path()]


def register(client: MlflowClient, run_id: str, model_id: str, tags: dict[str, str], description: str) -> str:
    """Registers a logged model under `nerve-segmentation` with the alias `challenger`, once.

    A model that already has a version keeps it; its tags and description are updated.

    Returns:
        The version.
    """
    try:
        client.create_registered_model(
            NAME, description="Segments the nerve in ultrasound frames: uint8 frames to masks."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = find(client, model_id)
    if version is None:
        source = client.get_logged_model(model_id).artifact_location
        version = str(client.create_model_version(NAME, source, run_id, model_id=model_id).version)
    _tag(client, version, tags)
    client.update_model_version(NAME, version, description)
    client.set_registered_model_alias(NAME, CHALLENGER, version)
    return version


def locate(client: MlflowClient, wanted: str) -> Model:
    """Finds a model by alias, version number or run id.

    Raises:
        NervesegError: there is none.
    """
    if _RUN_ID.fullmatch(wanted):
        return _of_run(client, wanted)
    with _explaining(client, wanted):
        if wanted.isdigit():
            found = client.get_model_version(NAME, wanted)
        else:
            found = client.get_model_version_by_alias(NAME, wanted)
    if not found.run_id or not found.source:
        raise NervesegError(f"Version {found.version} has no run: it was not registered by the pipeline.")
    return Model(str(found.version), found.run_id, found.source, found.tags)


def is_missing(error: MlflowException) -> bool:
    """Whether the error says that a version or alias does not exist; MLflow's stores use two different codes."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def holder(client: MlflowClient, alias: str) -> tuple[str, str] | None:
    """The version with this alias, and its run; None if there is none."""
    try:
        found = client.get_model_version_by_alias(NAME, alias)
        return str(found.version), str(found.run_id)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


def misspelt(client: MlflowClient, alias: str) -> str:
    """A sentence that names aliases which differ from `alias` in case only; empty where there are none."""
    found = client.search_registered_models(f"name = '{NAME}'", max_results=1)
    others = dict(found[0].aliases) if found else {}
    near = {name: number for name, number in others.items() if name != alias and name.lower() == alias}
    said = ", ".join(f"version {number} has the alias {name}" for name, number in sorted(near.items()))
    return f"{said}, but aliases are case-sensitive: set {alias} instead" if near else ""


def fetch(client: MlflowClient, model: Model, folder: Path) -> None:
    """Fetches a model's files into `folder`, as far as they exist.

    FILES, FIGURES, VERDICT and the hashes of the code get their plain names, and so does RECORDED; an ensemble's
    RECORDED of each fold are in `fold-N/`, the code in LOGGED. `verification` checks them against the records; nothing
    may be imported before.
    """
    if mlflow.artifacts.list_artifacts(artifact_uri=model.source):
        logged = Path(mlflow.artifacts.download_artifacts(artifact_uri=model.source, dst_path=str(folder)))
        shutil.rmtree(folder / LOGGED, ignore_errors=True)  # of an attempt that is retried
        logged.rename(folder / LOGGED)
        for name in (path.name for path in FILES.values() if path.parent == paths.MODELS):
            with suppress(FileNotFoundError):
                (folder / LOGGED / "artifacts" / name).replace(folder / name)
    plain = (*FILES.values(), *FIGURES, VERDICT, logged_code.SUMS)
    of_run = {path: Path(path.name) for path in plain if path.parent != paths.MODELS}
    for training in recorded(model.members):
        of_run |= {REPRODUCE / training / path: training / path for path in RECORDED.values()}
    root = client.get_run(model.run_id).info.artifact_uri  # by run id, MLflow would ask for the run at each file
    for part in sorted({path.parent for path in of_run}):
        for artifact in client.list_artifacts(model.run_id, part.as_posix()):
            if target := of_run.get(Path(artifact.path)):
                (folder / target).parent.mkdir(exist_ok=True)
                uri = f"{root}/{artifact.path}"
                fetched = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
                shutil.move(fetched, folder / target)


def origin(client: MlflowClient, version: str) -> Model:
    """A version whose tag `git_commit` is the commit that its params.yaml and dvc.lock belong to.

    Raises:
        NervesegError: there is no such version, or its code was not committed.
    """
    with _explaining(client, version):
        found = client.get_model_version(NAME, version)
    if "git_commit" not in found.tags or not found.run_id or not found.source:
        raise NervesegError(f"Version {version} has no git commit: it was not registered from a git repository.")
    # The folds of an ensemble run in a clone, which has nothing but the commit.
    if found.tags.get("git_changed") == "true" and ENSEMBLE not in found.tags:
        raise NervesegError(
            f"Version {version} was registered with uncommitted code changes on {found.tags['git_commit']}; they "
            "are not recorded, so its state cannot be restored. Commit before a run that matters."
        )
    return Model(version, found.run_id, found.source, found.tags)


def receipt(
    client: MlflowClient, run_id: str, version: str | None, reasons: list[str], verdict: dict[str, Any] | None
) -> dict[str, Any]:
    """The content of `reports/registration.json`: the run on this server, and the version or why there is none.

    Args:
        verdict: `Verdict.record`; None if none was recorded.
    """
    return {
        "registered": version is not None,
        "name": NAME,
        "version": version,
        "reasons": reasons,
        "run_id": run_id,
        "experiment_id": client.get_run(run_id).info.experiment_id,
        "gate": verdict,
    }


def withdraw(client: MlflowClient, model_id: str, tags: dict[str, str], description: str) -> None:
    """Removes the alias `challenger` from the version of a model that is now refused; tags and description say why."""
    version = find(client, model_id)
    if version is None:
        return
    _tag(client, version, tags)
    client.update_model_version(NAME, version, description)
    if CHALLENGER in client.get_model_version(NAME, version).aliases:
        client.delete_registered_model_alias(NAME, CHALLENGER)


def find(client: MlflowClient, model_id: str) -> str | None:
    """The version of a logged model, if it is registered."""
    source = client.get_logged_model(model_id).artifact_location  # the store keeps no model id on a version
    versions = client.search_model_versions(f"name = '{NAME}'")
    return next((str(version.version) for version in versions if version.source == source), None)


def _tag(client: MlflowClient, version: str, tags: dict[str, str]) -> None:
    """Sets tags, and removes what a former verdict left."""
    for key in outdated(client.get_model_version(NAME, version).tags, tags):
        client.delete_model_version_tag(NAME, version, key)
    for key, value in tags.items():
        client.set_model_version_tag(NAME, version, key, value)


def _of_run(client: MlflowClient, run_id: str) -> Model:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NervesegError(f"The server of MLFLOW_TRACKING_URI has no run {run_id}.") from None
    logged = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    ready = [model for model in logged if str(model.status) == "READY"]  # the others were cut off while being logged
    if not ready:
        raise NervesegError(f"Run {run_id} logged no model.")
    return Model(None, run_id, ready[0].artifact_location, run.data.tags)


@contextmanager
def _explaining(client: MlflowClient, wanted: str) -> Iterator[None]:
    """Turns MLflow's error for a missing version into a NervesegError that lists the existing ones."""
    try:
        yield
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise NervesegError(_unknown(client, wanted)) from None


def _unknown(client: MlflowClient, wanted: str) -> str:
    known = sorted(int(other.version) for other in client.search_model_versions(f"name = '{NAME}'"))
    listed = ", ".join(map(str, known)) or "none"
    if wanted.isdigit() or not known:
        return f"{NAME} has no version {wanted}. Versions: {listed}."
    aliases = ", ".join(sorted(client.get_registered_model(NAME).aliases)) or "none"
    return f"{NAME} has no version {wanted}. Versions: {listed}. Aliases: {aliases}."
