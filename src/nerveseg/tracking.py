"""MLflow runs and lineage. Local files are the source of truth; what is missing from a run is added later or reported.

The train stage opens and closes the run of a training; calibrate logs the model to it, and later stages add to it. A
run holds one model: another calibration of the same training gets a run of its own, made from what train recorded, so
that a version's files stay as they were. On a tracking server that lacks the run, `ensure_run` makes it likewise.
"""

import hashlib
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Before mlflow is imported: three retries, not four minutes of them, to notice that a server is down; fewer messages.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# A server with artifacts on S3 offers signed URLs to them, but S3 may not be reachable from where the server is.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import requests
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import LoggedModel, Metric, RunStatus, RunTag
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from PIL import Image
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from nerveseg import logged_code, metric_names, package, paths
from nerveseg.console import console
from nerveseg.errors import NervesegError, TransientError
from nerveseg.files import read_json, sha256, sums_text, write_json
from nerveseg.model.spec import read_spec
from nerveseg.settings import settings

ORIGIN = "nerveseg.run_id"  # tag: the training run that a run is, or was made from
MODEL = "nerveseg.model"  # tag: which model a run holds, a hash of its files and of what calibrate was given
SERVED_MODEL = Path(__file__).parent / "registry" / "pyfunc.py"
# Imported by the code logged with the model; pinned to this environment's versions.
SERVED_MODEL_REQUIREMENTS = (
    "huggingface-hub",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pydantic",
    "safetensors",
    "segmentation-models-pytorch",
    "torch",
    "torchvision",
)
ANSWER = 8  # seconds until a server that does not answer is taken for unreachable
Record = dict[str, Any]
_Panel = tuple[str, int]  # its key and step as an image in MLflow
# By the beginning of their files' names; in MLflow they stand beside the metrics with the same prefix.
_PANEL_KEYS = {"first_batch": "train/first_batch", "validation": "validation/frames"}
_KEPT = "The training is complete and kept: once the server is back, `dvc repro` continues after it."
_OF_SERVER = (MlflowException, SQLAlchemyError, requests.RequestException, ConnectionError, TimeoutError)
_FAILURES = (*_OF_SERVER, OSError)


def connect() -> mlflow.MlflowClient:
    """A client for the tracking server at `MLFLOW_TRACKING_URI`.

    Raises:
        TimeoutError: the server does not answer within ANSWER seconds, or those of MLFLOW_HTTP_REQUEST_TIMEOUT.
        NervesegError: it is a file relative to the root, and this is not the root: a new, empty one would be made.
    """
    uri = settings().tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_absolute():
        paths.require_root()
    if uri.startswith("http"):
        _require_answer(uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient()


def _require_answer(uri: str) -> None:
    """MLflow itself waits for 120 s, four times, as long as the connection is accepted."""
    limit = MLFLOW_HTTP_REQUEST_TIMEOUT.get() if MLFLOW_HTTP_REQUEST_TIMEOUT.is_set() else ANSWER
    try:
        requests.get(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search", {"max_results": 1}, timeout=limit)
    except requests.Timeout:
        raise TimeoutError(
            f"the server does not answer within {limit} s. Set {MLFLOW_HTTP_REQUEST_TIMEOUT.name} to wait longer."
        ) from None
    except requests.RequestException:
        return  # MLflow's own request meets it too, and tries again


@contextmanager
def reachable(consequence: str) -> Iterator[None]:
    """Turns a failure of the tracking server into a NervesegError that ends with `consequence`.

    It is a TransientError unless the server answered with a refusal. A local file that cannot be read or written is a
    NervesegError too.
    """
    try:
        yield
    except _OF_SERVER as error:
        refused = isinstance(error, RestException) and error.get_http_status_code() < 500
        refused = refused or getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        kind = NervesegError if refused else TransientError
        raise kind(f"The MLflow server of MLFLOW_TRACKING_URI failed: {_first_line(error)}\n{consequence}") from error
    except OSError as error:
        raise NervesegError(
            f"A file could not be read or written: {_first_line(error)}. Fix this and run the same command again."
        ) from error


def git_tags(root: Path = Path()) -> dict[str, str]:
    """Tags with the commit that is checked out in `root`, and whether tracked files there or the running package differ
    from it.

    Empty outside a git repository. params.yaml and dvc.lock do not count: register records them as they are.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD")
        recorded = (f":(exclude){paths.PARAMS}", f":(exclude){paths.DVC_LOCK}")
        changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *recorded))
        # The package includes untracked files, and may be an installed one rather than this one.
        changed = changed or package.committed(commit) != package.running()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_commit": commit, "git_changed": str(changed).lower(), "mlflow.source.git.commit": commit}


class TrainingRun:
    """The MLflow run of a training, a context manager.

    Everything is logged as it happens, panels by a thread of their own. If the server fails meanwhile, training
    continues, and `finish` logs what is missing or raises. A training that was killed resumes in the same run. The run
    ends as FINISHED, as FAILED after an exception, or as KILLED after SIGINT or SIGTERM. Its tags name the commit at
    which each epoch ran.
    """

    def __init__(self, record: Record, state: Path) -> None:
        """
        Args:
            record: `params` and `tags` (str to str) of the run and its `dataset` (`uri`, `sha256`, ...).
            state: file with the run's id and the commits, for resuming the training.
        """
        self._record = record
        self._state = state
        self._kept: Record = {"run_id": None, "commits": {}} | (read_json(state) if state.exists() else {})
        self._failed = self._panels_failed = False
        self._panels: set[_Panel] | None = None  # what the run has; None: not known yet
        self._uploads = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._try(self._open)
        return self

    def log_epoch(self, row: dict[str, float]) -> None:
        """Logs a row of the curve, with `epoch` as step and `time` as timestamp; keeps the commit that it ran at."""
        tags = self._record["tags"]
        changed = " with changes" if tags.get("git_changed") == "true" else ""
        self._kept["commits"][f"{row['epoch']:.0f}"] = tags.get("git_commit", "unknown") + changed
        write_json(self._state, self._kept)
        if not self._failed:
            self._try(lambda: _log_curve(self._record["run_id"], [row]))

    def log_panel(self, path: Path) -> None:
        """Logs a picture as an image whose step is its epoch, without waiting for it.

        Args:
            path: `first_batch_epoch_NNN.jpg` or `validation_epoch_NNN.jpg`.
        """
        if not (self._failed or self._panels_failed):
            self._uploads.submit(self._log_panel, path)

    def _log_panel(self, path: Path) -> None:
        if self._panels_failed:
            return
        try:
            self._log_panels([path])
        except _FAILURES as error:
            self._panels_failed = True
            warning = ("MLflow takes no panels; the training continues without them:", "yellow")
            console.print(Text.assemble(warning, f" {_first_line(error)}"))

    def _log_panels(self, panels: Iterable[Path]) -> None:
        """Logs those that the run lacks."""
        client = connect()
        if self._panels is None:
            self._panels = _panels_of_run(client, self._record["run_id"])
        for path in panels:
            key, step = panel = _panel_of(path)
            if panel not in self._panels:
                with Image.open(path) as image:
                    client.log_image(self._record["run_id"], image, key=key, step=step)
                self._panels.add(panel)

    def finish(self, rows: list[dict[str, float]], panels: Iterable[Path]) -> Record:
        """Logs everything that the server missed.

        Args:
            rows: the whole curve, including epochs before a resume.
            panels: all of them, likewise.

        Returns:
            The record, with `run_id` and the tags of the commits: what `models/run.json` holds.

        Raises:
            NervesegError: the server cannot be reached. Nothing is lost: running again only logs.
        """
        commits = [self._kept["commits"].get(f"{row['epoch']:.0f}", "unknown") for row in rows]
        if any(commit.endswith(" with changes") for commit in commits):
            self._record["tags"]["git_changed"] = "true"
        self._record["tags"]["git_commits"] = _by_epochs(commits)
        self._uploads.shutdown()
        with reachable(_KEPT):
            if self._failed:
                connect()
                mlflow.end_run()
                self._open()
            mlflow.set_tags(self._record["tags"])
            _log_curve(self._record["run_id"], rows)
            self._log_panels(panels)
        return self._record

    def log_timings(self, timings: dict[str, float]) -> None:
        """Logs the seconds of each part as `values/seconds/PART`. Raises NervesegError like `finish`."""
        with reachable(_KEPT):
            mlflow.log_metrics(_values({f"seconds.{part}": seconds for part, seconds in timings.items()}))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._uploads.shutdown(wait=False, cancel_futures=True)
        status = RunStatus.FINISHED
        if kind is not None:
            status = RunStatus.KILLED if issubclass(kind, SystemExit | KeyboardInterrupt) else RunStatus.FAILED
        self._try(lambda: mlflow.end_run(RunStatus.to_string(status)))

    def _open(self) -> None:
        client = connect()
        former = self._kept["run_id"]
        _set_experiment(settings().experiment)
        mlflow.start_run(run_id=former if former and _has_run(client, former) else None, log_system_metrics=True)
        self._record["run_id"] = _active_run_id()
        self._kept["run_id"] = self._record["run_id"]
        write_json(self._state, self._kept)
        _describe_run(self._record)
        self._panels = None

    def _try(self, log: Callable[[], object]) -> None:
        try:
            log()
        except _FAILURES as error:
            self._failed = True
            # From now on, none of MLflow's own requests waits longer either.
            os.environ.setdefault(MLFLOW_HTTP_REQUEST_TIMEOUT.name, str(ANSWER))
            said = Text.assemble(
                ("MLflow failed; the training continues without it:", "yellow"), f" {_first_line(error)}"
            )
            console.print(said)


def read_record(folder: Path) -> Record:
    """What train and calibrate recorded of the model in `folder`: `run_id`, `model_id` and `code`, `params` of both,
    `tags` and `dataset`.
    """
    training, calibrated = (read_json(folder / path.name) for path in (paths.RUN_JSON, paths.CALIBRATION_JSON))
    return {**training, **calibrated, "params": {**training["params"], **calibrated["params"]}}


def log_calibrated(folder: Path, given: Record) -> Record:
    """Logs the model in `folder`, once; returns `run_id` and `model_id`, where this server holds it, and `code`: the
    SHA-256 of the hashes of the code logged with it.

    Args:
        given: the parameters of the calibration, by dotted names.
    """
    training = read_json(folder / paths.RUN_JSON.name)
    found = ensure_logged({**training, "params": {**training["params"], **given}}, _curve(folder), folder)
    return {name: found[name] for name in ("run_id", "model_id", "code")}


def ensure_run(folder: Path) -> Record:
    """The record of the model in `folder`, with its run as it stands on this tracking server.

    Where the server lacks the run, it is made from `run.json`, `calibration.json`, `curve.csv` and the model; so is one
    for a model that was logged when the hashes of its code were not recorded.

    Raises:
        NervesegError: the record is missing or the server fails.
    """
    record = read_record(folder)
    if "code" in record and _has_run(connect(), record["run_id"]):
        return record
    training: Record = read_json(folder / paths.RUN_JSON.name)
    return ensure_logged({**record, "run_id": training["run_id"]}, _curve(folder), folder)


def ensure_logged(record: Record, rows: list[dict[str, float]], folder: Path) -> Record:
    """The record with `run_id`, `model_id` and `code` of the run that holds the model on this tracking server.

    That is the run of the training itself, or one made like it where the server lacks that, or it holds another model.

    Args:
        record: as `TrainingRun` has it, with the parameters of the calibration; its `run_id` is the training's.
        rows: the curve, possibly empty.
        folder: contains the model.
    """
    client = connect()
    identity = _identity(record["params"], folder)
    run = _run_for(client, record["run_id"], identity)
    tags = {
        **record["tags"],
        "threshold": f"{read_spec(folder).threshold:g}",
        ORIGIN: record["run_id"],
        MODEL: identity,
    }
    if run is None or run.info.status != RunStatus.to_string(RunStatus.FINISHED):
        with mlflow.start_run(run_id=None if run is None else run.info.run_id, tags=tags):
            run_id = _active_run_id()
            _describe_run({**record, "run_id": run_id, "tags": tags})
            _log_curve(run_id, rows)
    else:
        run_id = run.info.run_id
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        mlflow.log_params(record["params"], run_id=run_id)
    model = _logged_model(client, run_id)
    if model is not None:
        return {
            **record,
            "run_id": run_id,
            "model_id": model.model_id,
            "code": client.get_run(run_id).data.tags[logged_code.TAG],
        }
    model_id = _log_model(run_id, folder)
    return {**record, "run_id": run_id, "model_id": model_id, "code": _record_code(client, run_id, model_id)}


def has_version(run_id: str) -> bool:
    """Whether the model of a run is registered."""
    return bool(connect().search_model_versions(f"run_id = '{run_id}'", max_results=1))


def log_evaluation(record: Record, metrics: dict[str, Any], tables: list[Path]) -> None:
    """Adds flat figures such as `test.dice`, as `values/test/dice`, to the run and its logged model, and tables to the
    run.

    Metrics that are already logged with the same value are not logged again.
    """
    client = connect()
    known = client.get_run(record["run_id"]).data.metrics
    now = int(time.time() * 1000)
    client.log_batch(
        record["run_id"],
        metrics=[
            Metric(name, value, now, 0, model_id=record["model_id"], run_id=record["run_id"])
            for name, value in _values(metrics).items()
            if known.get(name) != value
        ],
    )
    for table in tables:
        client.log_artifact(record["run_id"], str(table), "reports")


def log_report(run_id: str, figures: Path, page: Path, frames: Path) -> None:
    """Adds the folder of pictures, the page and the folder of its frames to a run."""
    connect().log_artifacts(run_id, str(figures), "figures")
    log_page(run_id, page, frames)


def log_page(run_id: str, page: Path, frames: Path) -> None:
    """Adds a page and the folder of its frames to a run."""
    client = connect()
    client.log_artifacts(run_id, str(frames), str(paths.REPORT_FRAMES))
    client.log_artifact(run_id, str(page), str(paths.REPORTS))


def log_prediction(
    name: str, params: dict[str, Any], metrics: dict[str, float], table: dict[str, list[Any]], index: Record
) -> str:
    """Logs a predicted batch as its own run, in a separate experiment for predictions; returns its id.

    Args:
        table: the columns of the drift table.
        index: the summary of the batch, logged as index.json.
    """
    connect()
    _set_experiment(f"{settings().experiment}-predictions")
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params(params)
        mlflow.log_metrics(metrics)
        if table:
            mlflow.log_table(table, "drift.json")
        mlflow.log_dict(index, "index.json")
    run_id: str = run.info.run_id
    return run_id


def log_crossval(name: str, params: dict[str, Any], tags: dict[str, str], metrics: dict[str, Any], folder: Path) -> str:
    """Logs a cross-validation as its own run, unless a run with the same tags exists; returns its id.

    Args:
        tags: identify the cross-validation.
        metrics: flat metrics; values that are not numbers are left out.
        folder: the files to log.
    """
    client = connect()
    experiment = _set_experiment(settings().experiment)
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    if found and found[0].info.status == RunStatus.to_string(RunStatus.FINISHED):
        return str(found[0].info.run_id)
    with mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=name, tags=tags) as run:
        mlflow.log_params(params)
        mlflow.log_metrics(_values(metrics))
        mlflow.log_artifacts(str(folder), "crossval")
    return str(run.info.run_id)


def end_interrupted(run_id: str) -> None:
    """Ends a run whose process could not end it as KILLED, unless it has ended or the server does not have it."""
    try:
        client = connect()
        if _has_run(client, run_id) and client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")
    except _FAILURES as error:
        said = f"The interrupted run {run_id} could not be ended:"
        console.print(Text.assemble((said, "yellow"), f" {_first_line(error)}"))


def _set_experiment(name: str) -> mlflow.entities.Experiment:
    """Sets the experiment. Artifacts of an embedded store are next to its file, wherever the process runs."""
    embedded = settings().tracking_uri.removeprefix("sqlite:///")
    if embedded != settings().tracking_uri and mlflow.get_experiment_by_name(name) is None:
        mlflow.create_experiment(name, str(Path(embedded).resolve().parent / "mlruns" / name))
    return mlflow.set_experiment(name)


def _curve(folder: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = pd.read_csv(folder / paths.CURVE_CSV.name).to_dict("records")
    return rows


def _identity(params: Record, folder: Path) -> str:
    """Tells the models of one training apart: 64 hexadecimal digits."""
    files = [sha256(folder / path.name) for path in (paths.MODEL_WEIGHTS, paths.MODEL_SPEC)]
    return hashlib.sha256(json.dumps([files, params], sort_keys=True).encode()).hexdigest()


def _run_for(client: mlflow.MlflowClient, origin: str, identity: str) -> mlflow.entities.Run | None:
    """The run of a training that holds a model and the hashes of its code, or one that holds none yet."""
    experiment = _set_experiment(settings().experiment)
    runs = list(client.search_runs([experiment.experiment_id], f"tags.`{ORIGIN}` = '{origin}'"))
    if _has_run(client, origin):  # its experiment may be another one by now
        runs.insert(0, client.get_run(origin))
    for run in runs:
        if run.data.tags.get(MODEL) == identity and (
            logged_code.TAG in run.data.tags or _logged_model(client, run.info.run_id) is None
        ):
            return run
    # Runs of nerveseg 0.1 hold a model without the tag.
    untagged = (run for run in runs if MODEL not in run.data.tags)
    return next((run for run in untagged if _logged_model(client, run.info.run_id) is None), None)


def _describe_run(record: Record) -> None:
    name = f"{record['params']['model.architecture']} {record['params']['model.encoder']}"
    mlflow.set_tags({ORIGIN: record["run_id"], "mlflow.runName": name, **record["tags"]})
    mlflow.log_params(record["params"])
    with warnings.catch_warnings(action="ignore"):  # two source classes match a path; either is fine
        source = resolve_dataset_source(record["dataset"]["uri"])
    dataset = MetaDataset(source, name="nerves", digest=record["dataset"]["sha256"][:12])  # type: ignore[abstract]  # as in mlflow's documentation
    mlflow.log_input(dataset, context="training")


def _log_curve(run_id: str, rows: list[dict[str, float]]) -> None:
    # Step and timestamp come from the row, so logging it twice leaves one point.
    metrics = [
        Metric(metric_names.CURVES[column], float(value), int(row["time"] * 1000), int(row["epoch"]))
        for row in rows
        for column, value in row.items()
        if column in metric_names.CURVES
    ]
    connect().log_batch(run_id, metrics=metrics)


def _panel_of(path: Path) -> _Panel:
    kind, _, epoch = path.stem.partition("_epoch_")
    return _PANEL_KEYS[kind], int(epoch)


def _panels_of_run(client: mlflow.MlflowClient, run_id: str) -> set[_Panel]:
    """The panels that `log_image` has logged: it names an image `KEY+step+N+...`, with `~` for `/` in the key."""
    names = (Path(file.path).name.split("+") for file in client.list_artifacts(run_id, "images"))
    return {
        (name[0].replace("~", "/"), int(name[2])) for name in names if name[-1].startswith("compressed")
    }  # which it writes last


def _values(figures: Record) -> dict[str, float]:
    """Single values by their names in MLflow; what is not a number is left out."""
    return {
        metric_names.of_value(key): float(value) for key, value in figures.items() if isinstance(value, int | float)
    }


def _log_model(run_id: str, folder: Path) -> str:
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1), "frames")]),
        outputs=Schema(
            [
                TensorSpec(np.dtype(np.uint8), (-1, -1, -1), "mask"),
                TensorSpec(np.dtype(np.float32), (-1, -1, -1), "probability"),
                TensorSpec(np.dtype(np.float32), (-1,), "atypicality"),
            ]
        ),
    )
    with warnings.catch_warnings(action="ignore"):  # it asks for type hints
        # Not `mlflow.pyfunc.log_model`, which takes an active run: to make one of a finished run moves its end.
        info = Model.log(
            None,
            _Pyfunc,
            name="model",
            run_id=run_id,
            python_model=str(SERVED_MODEL),
            artifacts={
                "weights": str(folder / paths.MODEL_WEIGHTS.name),
                "spec": str(folder / paths.MODEL_SPEC.name),
            },
            code_paths=[str(SERVED_MODEL.parents[1])],
            pip_requirements=[f"{name}=={version(name)}" for name in SERVED_MODEL_REQUIREMENTS],
            signature=signature,
            input_example={"frames": _example_frames()},
            validate_serving_input=False,
        )
    model_id: str | None = info.model_id
    if model_id is None:
        raise MlflowException("the server returned no id for the logged model")
    return model_id


class _Pyfunc:
    """`mlflow.pyfunc` as a flavour that takes `validate_serving_input`, a parameter of `Model.log` alone.

    To validate, MLflow would load the model that it has just written, and torch with it, in each stage that logs one.
    """

    @staticmethod
    def save_model(*, validate_serving_input: bool, **kwargs: Any) -> None:
        mlflow.pyfunc.save_model(**kwargs)


def _example_frames() -> npt.NDArray[np.uint8]:
    """What travels with a model as an example of its input, uint8 (1, 24, 32): a bright ellipse, drawn, of nobody."""
    rows, columns = np.mgrid[:24, :32]
    inside = ((rows - 11.5) / 5) ** 2 + ((columns - 15.5) / 9) ** 2 <= 1
    return np.where(inside, 170, 70).astype(np.uint8)[None]


def _record_code(client: mlflow.MlflowClient, run_id: str, model_id: str) -> str:
    """Records the hashes of the code that has just been logged with a model, on its run; returns their SHA-256."""
    source = client.get_logged_model(model_id).artifact_location
    with tempfile.TemporaryDirectory() as folder:
        logged = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=folder)
        listed = sums_text(logged_code.sums(Path(logged)))
    client.log_text(run_id, listed.decode(), str(logged_code.SUMS))
    digest = hashlib.sha256(listed).hexdigest()
    client.set_tag(run_id, logged_code.TAG, digest)
    return digest


def _logged_model(client: mlflow.MlflowClient, run_id: str) -> LoggedModel | None:
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return next((model for model in found if str(model.status) == "READY"), None)


def _has_run(client: mlflow.MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")  # otherwise it was deleted in the UI
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _active_run_id() -> str:
    run = mlflow.active_run()
    if run is None:
        raise MlflowException("no run is active")
    run_id: str = run.info.run_id
    return run_id


def _by_epochs(commits: list[str]) -> str:
    """The commit of each epoch as text: `1-3 COMMIT, 4-5 COMMIT`."""
    parts, first = [], 1
    for commit, epochs in groupby(commits):
        last = first + len(list(epochs)) - 1
        parts.append(f"{first}-{last} {commit}")
        first = last + 1
    return ", ".join(parts)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(("git", *arguments), cwd=root, check=True, capture_output=True, text=True).stdout.strip()
