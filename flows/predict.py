"""The flow `predict`: masks for a folder, an S3 prefix or a zip of frames, one task per shard.

`python -m flows.predict` runs it here, with the input in params.yaml. NERVESEG_TASK_RUNNER chooses threads or Dask.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import lost, runs
from flows.retries import retrying_task
from flows.shards import CPUS, predict_shard
from flows.summary import WARNING
from nerveseg import params, tracking
from nerveseg.data.sources import open_source
from nerveseg.data.transfer import download
from nerveseg.errors import NervesegError
from nerveseg.files import read_json
from nerveseg.prediction import batch as batches
from nerveseg.prediction import drift
from nerveseg.prediction import files as prediction
from nerveseg.prediction.batch import Batch, Summary
from nerveseg.prediction.inputs import open_frames, select
from nerveseg.registry import versions
from nerveseg.registry.versions import Model
from nerveseg.settings import settings
from nerveseg.storage import Entry, open_storage
from nerveseg.workspace import clones

_KEPT = "Finished predictions are kept: run again to continue."


def _task_runner() -> TaskRunner[Any]:
    chosen = settings().task_runner
    if chosen == "threads":
        return ThreadPoolTaskRunner(max_workers=2 * CPUS)  # half of them read and write while the others compute
    import dask

    dask.config.set({"logging.distributed": "warning"})  # read when distributed is imported
    from prefect_dask.task_runners import DaskTaskRunner

    if chosen == "dask":
        # No dashboard: it would listen on a port.
        return DaskTaskRunner(cluster_kwargs={"n_workers": CPUS, "threads_per_worker": 1, "dashboard_address": None})
    return DaskTaskRunner(address=chosen)


@retrying_task
def fetch(wanted: str, folder: Path) -> Model:
    """Fetches a model into `folder`, checks it against its records, and exports it there."""
    return prediction.fetch(wanted, folder)


@retrying_task
def merge(batch: Batch, shards: list[tuple[Entry, ...]], training: dict[str, Any]) -> Summary:
    """Writes predictions.parquet."""
    return batches.merge(batch, shards, training)


@flow(persist_result=False, on_running=[lost.sign], flow_run_name=runs.name, task_runner=_task_runner())
@runs.readable
def predict(
    input: str = "", output: str = "", model: str = versions.CHAMPION, overlays: bool = False, shard: int = 64
) -> State:
    """Predict masks for all frames in a folder, an S3 prefix or a zip; existing predictions are kept.

    Args:
        input: s3://bucket/prefix, a folder or a zip; empty: predict.input in params.yaml.
        output: s3://bucket/prefix or a folder; empty: predict.output in params.yaml.
        model: An alias, a version number or a run id.
        overlays: Whether to draw the outlines of the masks on the frames, too.
        shard: Frames per task. The predictions do not depend on it.
    """
    settled, begun = params.load().predict, time.time()
    uri = input or settled.input
    if uri is None:
        return Completed(message="nothing to do: predict.input in params.yaml is null")
    if shard < 1:
        raise NervesegError(f"shard is {shard}: a task needs at least one frame.")
    uri = uri.rstrip("/") if "://" in uri else str(Path(uri).resolve())
    place = clones.lasting_storage(output or settled.output, "output" if output else "predict.output").uri
    with tempfile.TemporaryDirectory() as name, _local_zip(uri) as frames:
        folder = Path(name)
        chosen = fetch.with_options(task_run_name="fetch the model")(model, folder)
        batch = Batch(
            frames=frames,
            output=f"{place}/{chosen.label}",
            model=str(folder),
            model_version=chosen.label,
            weights=chosen.tags["sha256_weights"],
            overlays=overlays,
        )
        entries, refused = select(open_frames(batch.frames).entries(), uri)
        batches.claim(batch, uri)
        if _is_done(batch, entries):
            return Completed(message=f"nothing to do: all {len(entries)} frames have been predicted in {batch.output}")
        shards = batches.divide(entries, shard)
        _predict_missing(_shared(batch, folder), shards)
        training = read_json(folder / "reference.json")
        summary = merge.with_options(task_run_name="merge")(batch, shards, training)
        summary.unreadable[:0] = refused
        return _report(uri, chosen, batch, entries, summary, training, settled.drift, begun)


def _predict_missing(batch: Batch, shards: list[tuple[Entry, ...]]) -> None:
    todo = batches.missing(batch, shards)
    say = get_run_logger().info
    say(f"{len(todo)} of {len(shards)} shards to predict")
    futures = [
        predict_shard.with_options(task_run_name=f"shard {number} of {len(todo)}").submit(batch, entries)
        for number, entries in enumerate(todo, 1)
    ]
    errors = []
    for number, future in enumerate(futures, 1):
        try:
            future.result()
            say(f"{number} of {len(todo)} shards")
        except Exception as error:  # of any kind: a worker may have died
            errors.append(error)
    if errors:
        raise NervesegError(f"{len(errors)} of {len(todo)} shards failed, the first with: {errors[0]} {_KEPT}")


@retrying_task
def record(model: Model, batch: Batch, index: dict[str, Any], metrics: dict[str, float]) -> None:
    """Logs the batch to MLflow and writes its index, which completes it."""
    rows = index["drift"]
    with tracking.reachable(_KEPT):
        run_id = tracking.log_prediction(
            f"predict with {model.label}",
            {"input": index["input"], "output": batch.output, "model_version": model.label},
            metrics,
            {key: [row[key] for row in rows] for key in rows[0]},
            index,
        )
    content = json.dumps({**index, "mlflow_run": run_id}, indent=2) + "\n"
    open_storage(batch.output).write(batches.INDEX, content.encode())


def _report(
    uri: str,
    model: Model,
    batch: Batch,
    entries: list[Entry],
    summary: Summary,
    training: dict[str, Any],
    threshold: float,
    begun: float,
) -> State:
    """Reports predictions and drift in MLflow, on a page and in the index; returns the flow run's state."""
    figures, predicted, seconds = summary.figures, len(summary.figures.areas), time.time() - begun
    if not predicted:
        raise NervesegError(
            f"None of the {len(entries)} frames can be read; the first: {' '.join(summary.unreadable[0])}."
        )
    drifts = drift.compare(training, figures, threshold)
    index: dict[str, Any] = {
        "input": uri,
        "model": {"name": versions.NAME, "version": model.version, "run_id": model.run_id, "weights": batch.weights},
        "batch": batch.digest(entries),
        "frames": len(entries),
        "predicted": predicted,
        "without_nerve": int((figures.areas == 0).sum()),
        "unreadable": [{"image": image, "reason": reason} for image, reason in summary.unreadable],
        "overlays": batch.overlays,
        "drift": [{**asdict(one), "drifted": one.drifted} for one in drifts],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }
    metrics = {key: index[key] for key in ("frames", "predicted", "without_nerve", "seconds")}
    metrics |= {"unreadable": len(summary.unreadable)}
    metrics |= {f"psi/{one.figure}": one.psi for one in drifts}
    metrics |= {f"mean/{one.figure}": one.batch_mean for one in drifts}
    drifted = [f"{one.figure} (PSI {one.psi:.2f}, limit {one.limit:.2f})" for one in drifts if one.drifted]
    name = f"version {model.version}" if model.version else f"run {model.run_id}"
    message = f"predicted {predicted} frames with {name} into {batch.output}"
    if summary.unreadable:
        message += f"; {len(summary.unreadable)} unreadable, see {batches.INDEX}"
    if drifted:
        message = f"drift of {', '.join(drifted)}; {message}"
    create_markdown_artifact(_page(message, drifts, summary, seconds), key="predictions", description=message)
    record.with_options(task_run_name="record")(model, batch, index, metrics)
    return Completed(name=WARNING if drifted else "Completed", message=message)


def _page(message: str, drifts: list[drift.Drift], summary: Summary, seconds: float) -> str:
    lines = [
        "# Drift" if any(one.drifted for one in drifts) else "# No drift",
        "",
        message,
        "",
        f"{seconds:.0f} s; {summary.figures.subjects} people, by the names of the frames; one whose name has no "
        "subject counts as one.",
        "",
        "| figure | training set | this batch | PSI | limit | |",
        "|---|---:|---:|---:|---:|---|",
        *(
            f"| {one.figure} | {one.training_mean:.4g} | {one.batch_mean:.4g} | {one.psi:.3f} | {one.limit:.2f} "
            f"| {'**drifted**' if one.drifted else ''} |"
            for one in drifts
        ),
        "",
        "Intensity is in grey levels, area is a share of the frame, confidence is the mean probability in the mask, "
        "and atypicality is above 0.5 for masks that are more atypical than 95 % of the training masks.",
        "",
        *(["| unreadable | why |", "|---|---|"] if summary.unreadable else []),
        *(f"| {image} | {reason} |" for image, reason in summary.unreadable[:100]),
    ]
    return "\n".join(lines) + "\n"


def _is_done(batch: Batch, entries: list[Entry]) -> bool:
    try:
        content, _ = open_storage(batch.output).read(batches.INDEX)
        return bool(json.loads(content)["batch"] == batch.digest(entries))
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _shared(batch: Batch, folder: Path) -> Batch:
    """The batch with its model where every worker can read it: in the output, if workers are on other machines."""
    if settings().task_runner in ("threads", "dask"):
        return batch
    for uri in (batch.frames, batch.output):
        if not uri.startswith("s3://"):
            get_run_logger().info(f"{uri} must be the same folder on every worker")
    place = f"{batch.output}/model"
    for name in ("model.onnx", "model.json"):
        open_storage(place).upload(name, folder / name)
    return replace(batch, model=place)


@contextmanager
def _local_zip(uri: str) -> Iterator[str]:
    """The input; a zip on S3 is downloaded first."""
    if not uri.startswith("s3://") or not uri.lower().endswith(".zip"):
        yield uri
        return
    if settings().task_runner not in ("threads", "dask"):
        raise NervesegError(f"{uri} is a zip, which workers on other machines cannot share: unpack it to an S3 prefix.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.zip"
        download(open_source(uri, anonymous=settings().s3_anonymous), path)
        yield str(path)


if __name__ == "__main__":
    runs.main(predict)
