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
from filelock import FileLock, Timeout

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data.frame_store import FrameStore, counts
from nerveseg.files import read_json, replacing_folder, write_json
from nerveseg.model import network
from nerveseg.model.device import device_name, precision_for
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import Params, flatten
from nerveseg.settings import settings
from nerveseg.stages import main
from nerveseg.training import trainer
from nerveseg.training.progress import print_epoch
from nerveseg.training.timing import Timings


def run(params: Params) -> None:
    """Trains on `data/packed` and writes `models/`, except for what calibrate adds. Resumes an interrupted training.

    Raises:
        NervesegError: bad parameters or inputs, or a tracking server that failed, in which case the training is kept.
    """
    signal.signal(signal.SIGTERM, _end)
    timings = Timings()
    store = FrameStore.open(paths.PACKED)
    device = device_name(settings().device)
    precision = precision_for(device, params.train.precision)
    spec = NetworkSpec(
        architecture=params.model.architecture,
        encoder=params.model.encoder,
        height=params.model.height,
        width=params.model.width,
    )
    encoder_weights = params.model.encoder_weights
    checkpoints = settings().checkpoints / trainer.fingerprint(store, spec, encoder_weights, params.train)
    lock = _claim(checkpoints)
    _drop_former_trainings(checkpoints)
    table = counts(store.index)
    frames = table["frames"]
    console.print(f"training on {frames['train']} frames, validating on {frames['validation']}; {device}, {precision}")
    record = {
        "params": {
            **{f"model.{name}": getattr(spec, name) for name in ("architecture", "encoder", "height", "width")},
            "model.encoder_weights": encoder_weights,
            **flatten({"train": params.train.model_dump()}),
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
            encoder_weights,
            params.train,
            device=device,
            workers=trainer.worker_count(settings().workers),
            checkpoints=checkpoints,
            timings=timings,
            on_epoch=on_epoch,
        )
        with replacing_folder(paths.MODELS) as folder:
            network.save_weights(trained, folder)
            pd.DataFrame(rows).to_csv(folder / paths.CURVE_CSV.name, index=False)
            with timings.measure("tracking"):
                write_json(folder / paths.RUN_JSON.name, mlflow_run.finish(rows))
            timed = {part: round(seconds, 3) for part, seconds in timings.items()}
            write_json(folder / paths.TIMINGS_JSON.name, timed)
            mlflow_run.log_timings(timings)
    shutil.rmtree(checkpoints)
    lock.release()


def _end(*_: Any) -> None:
    """Ends the process by SIGTERM's exit status, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise over its loaders, which end too
    sys.exit(128 + signal.SIGTERM)


def _lock_of(checkpoints: Path) -> FileLock:
    return FileLock(checkpoints.with_name(f"{checkpoints.name}.lock"))


def _claim(checkpoints: Path) -> FileLock:
    """Locks the folder for this process; waits until another one that trains in it has ended."""
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(checkpoints)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        console.print("the same training is running in another process: waiting for it to end")
        lock.acquire()
    return lock


def _drop_former_trainings(current: Path) -> None:
    """Removes checkpoints of trainings with other data or parameters that are not running; ends their MLflow runs."""
    for folder in current.parent.iterdir():
        if folder == current or not folder.is_dir():
            continue
        with suppress(Timeout), _lock_of(folder).acquire(blocking=False):
            if (folder / "run.json").exists():
                tracking.end_interrupted(read_json(folder / "run.json")["run_id"])
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(run)
