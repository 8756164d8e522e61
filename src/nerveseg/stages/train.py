"""train: stored frames to a trained network, with its run in MLflow."""

import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from filelock import FileLock, Timeout

from nerveseg import paths, tracking
from nerveseg.console import console, progress
from nerveseg.data.frame_store import FrameStore, counts
from nerveseg.evaluation import calibration, inference
from nerveseg.files import read_json, replacing_folder, write_json
from nerveseg.model import network, plausibility
from nerveseg.model.device import device_name, precision_for
from nerveseg.model.inference import Segmenter
from nerveseg.model.spec import ModelSpec, Plausibility
from nerveseg.params import ModelParams, Params, flatten
from nerveseg.settings import settings
from nerveseg.stages import main
from nerveseg.training import trainer
from nerveseg.training.progress import print_epoch
from nerveseg.training.timing import Timings

_UNTIL_CHOSEN = 0.5  # the threshold of the curve while model.threshold is yet to be chosen


def run(params: Params) -> None:
    """Trains on `data/packed` and writes `models/`; resumes a training that was cut off.

    Raises:
        NervesegError: bad parameters or inputs, or a tracking server that failed; the training is kept then.
    """
    signal.signal(signal.SIGTERM, _end)
    timings = Timings()
    store = FrameStore.open(paths.PACKED)
    device = device_name(settings().device)
    precision = precision_for(device, params.train.precision)
    checkpoints = settings().checkpoints / trainer.fingerprint(store, params.model, params.train)
    lock = _claim(checkpoints)
    _drop_former_trainings(checkpoints)
    spec = _spec(params.model, _plausibility(store))
    table = counts(store.index)
    frames = table["frames"]
    console.print(f"training on {frames['train']} frames, validating on {frames['validation']}; {device}, {precision}")
    record = {
        "params": {
            **flatten({"model": params.model.model_dump(), "train": params.train.model_dump()}),
            **{f"{name}.{split}": count for name, column in table.to_dict().items() for split, count in column.items()},
        },
        # Tags, not params: a training may be resumed on another device.
        "tags": tracking.git_tags() | {"device": device, "precision": precision},
        # Provenance, which must not make training stale, so dvc.yaml does not name it: docs/adr/0003
        "dataset": read_json(paths.SOURCE_JSON),
    }
    timings["start_up"] = time.time() - psutil.Process().create_time()
    with tracking.TrainingRun(record, checkpoints / "run.json") as mlflow_run:

        def on_epoch(row: trainer.Row) -> None:
            print_epoch(row)
            with timings.measure("tracking"):
                mlflow_run.log_epoch(row)

        trained, rows = trainer.fit(
            store,
            spec,
            params.model,
            params.train,
            device=device,
            workers=trainer.worker_count(settings().workers),
            checkpoints=checkpoints,
            timings=timings,
            on_epoch=on_epoch,
        )
        if params.model.threshold == "validation":
            with timings.measure("validation"):
                spec = _with_best_threshold(trained, spec, store, device)
            mlflow_run.add_tag("threshold", f"{spec.threshold:g}")
        with replacing_folder(paths.MODELS) as folder:
            network.save(trained, spec, folder)
            pd.DataFrame(rows).to_csv(folder / "curve.csv", index=False)
            with timings.measure("tracking"):
                write_json(folder / "run.json", mlflow_run.finish(rows, folder))
            write_json(folder / "timings.json", {part: round(seconds, 3) for part, seconds in timings.items()})
            mlflow_run.log_timings(timings)
    shutil.rmtree(checkpoints)
    lock.release()


def _spec(model: ModelParams, masks: Plausibility) -> ModelSpec:
    threshold = _UNTIL_CHOSEN if model.threshold == "validation" else model.threshold
    named = model.model_dump(exclude={"encoder_weights", "threshold"})
    return ModelSpec(**named, threshold=threshold, plausibility=masks)


def _plausibility(store: FrameStore) -> Plausibility:
    """What the masks of the training frames are like, for the atypicality of others."""
    with progress("masks") as bar:
        return plausibility.fit(store.mask(row) for row in bar.track(store.rows("train"), description="training masks"))


def _with_best_threshold(trained: torch.nn.Module, spec: ModelSpec, store: FrameStore, device: str) -> ModelSpec:
    """The spec with the threshold of the best mean Dice over the validation frames, by Kaggle's rule."""
    segmenter = Segmenter(network.assemble([trained], spec), spec, device)
    histograms = inference.histograms(store, store.rows("validation"), segmenter)
    threshold, dice = calibration.best(calibration.sweep(histograms, "kaggle"))
    console.print(f"threshold {threshold:g}, chosen on the validation frames: their mean Dice is {dice:.4f}")
    return spec.model_copy(update={"threshold": threshold})


def _end(*_: Any) -> None:
    """Ends the process by SIGTERM's exit status, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise over its loaders, which end too
    sys.exit(128 + signal.SIGTERM)


def _lock_of(checkpoints: Path) -> FileLock:
    return FileLock(checkpoints.with_name(f"{checkpoints.name}.lock"))


def _claim(checkpoints: Path) -> FileLock:
    """Makes this process the only one that trains in that folder; waits for another one to end."""
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(checkpoints)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        console.print("the very same training is running in another process: waiting for it to end")
        lock.acquire()
    return lock


def _drop_former_trainings(current: Path) -> None:
    """Removes checkpoints of trainings with other data or parameters that nobody runs; ends their MLflow runs."""
    for folder in current.parent.iterdir():
        if folder == current or not folder.is_dir():
            continue
        with suppress(Timeout), _lock_of(folder).acquire(blocking=False):
            if (folder / "run.json").exists():
                tracking.end_interrupted(read_json(folder / "run.json")["run_id"])
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(run)
