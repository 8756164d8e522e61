"""train: stored frames to a trained network, with its run in MLflow."""

import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from filelock import Timeout
from ruamel.yaml import YAML

from nerveseg import kept, package, paths, tracking
from nerveseg.console import console
from nerveseg.data.augment import Augmentation
from nerveseg.data.frame_store import FrameStore, counts
from nerveseg.files import read_json, replacing, replacing_folder, write_json
from nerveseg.model import network
from nerveseg.model.device import device_name, precision_for
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import Params, flatten
from nerveseg.report import panels
from nerveseg.settings import settings
from nerveseg.stages import main
from nerveseg.training import devices, trainer
from nerveseg.training.devices import World
from nerveseg.training.examples import Example, Kind, OnExamples
from nerveseg.training.progress import kept_sentence, print_epoch
from nerveseg.training.recipes import changes, resolve, resolved
from nerveseg.training.timing import Timings

_WAIT = 60  # seconds: the other processes hear of the first one that often, while it waits for another training


def run(params: Params) -> None:
    """Trains on `data/packed` and writes `models/`, except for what calibrate adds. Resumes an interrupted training.

    `reports/training/` shows frames while it goes on.

    A complete training that DVC has not recorded, because it was killed before, is not repeated: its outputs are
    restored.

    With several devices, it starts a process for each, unless it is one of those itself.

    Raises:
        NervesegError: bad parameters or inputs, a loss that diverges, or a tracking server that failed, in which case
            the training is kept.
        SystemExit: one of several processes failed, with its status.
    """
    begun = time.time()
    device = device_name(settings().device)
    if not devices.is_one_of_several():
        count = devices.per_node(settings().devices, device)
        if count * settings().nodes > 1:
            devices.launch("nerveseg.stages.train", count, settings().nodes)
            return
    signal.signal(signal.SIGTERM, _end)
    with devices.joined(device) as world:
        _run(params, world, begun)


def _run(params: Params, world: World, begun: float) -> None:
    """Does what `run` does, as one of the processes. `begun`: when `run` did."""
    store = FrameStore.open(paths.PACKED)
    spec = NetworkSpec(
        architecture=params.model.architecture,
        encoder=params.model.encoder,
        height=params.model.height,
        width=params.model.width,
    )
    fingerprint = trainer.fingerprint(store, spec, params.model.encoder_weights, params.train, _code())
    world.require_same("data, parameters or code", fingerprint)
    training = settings().checkpoints / fingerprint
    with _claim(training, world):
        complete = world.tell((training / kept.COMPLETE).exists())
        if not world.first:
            if not complete:
                # The first process has all of the result, and so prints, logs and writes it.
                _fit(params, store, spec, training, world, Timings(), lambda _: None, lambda *_: None)
            return
        _drop_other_trainings(training)
        if complete:
            console.print(
                f"This training is complete: its outputs are restored from {training}, because it ended before DVC "
                f"recorded them. To train it again: rm -r {training}",
                soft_wrap=True,
            )
        else:
            _train(params, store, spec, training, world, begun)
        outputs = training / kept.COMPLETE
        with replacing_folder(paths.MODELS) as folder:
            shutil.copytree(outputs, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(kept.PANELS))
        _show(outputs / kept.PANELS)


def _show(kept_panels: Path) -> None:
    """Makes `reports/training/` a copy of a folder with panels."""
    with replacing_folder(paths.PANELS) as folder:
        shutil.copytree(kept_panels, folder, dirs_exist_ok=True)


def _fit(
    params: Params,
    store: FrameStore,
    spec: NetworkSpec,
    training: Path,
    world: World,
    timings: Timings,
    on_epoch: Callable[[trainer.Row], None],
    on_examples: OnExamples,
) -> tuple[torch.nn.Module, list[trainer.Row]]:
    """Trains as `trainer.fit` does, by the parameters and the environment."""
    device = device_name(settings().device)
    return trainer.fit(
        store,
        spec,
        params.model.encoder_weights,
        params.train,
        device=device,
        workers=trainer.worker_count(settings().workers, device, world.per_node),
        checkpoints=training,
        checkpoint_seconds=settings().checkpoint_seconds,
        timings=timings,
        on_epoch=on_epoch,
        on_examples=on_examples,
        world=world,
    )


def _train(params: Params, store: FrameStore, spec: NetworkSpec, training: Path, world: World, begun: float) -> None:
    """Trains, and leaves the outputs as `kept.COMPLETE` in the folder of the training. `begun`: when `run` did."""
    device = device_name(settings().device)
    precision = precision_for(device, params.train.precision)
    table = counts(store.index)
    frames = table["frames"]
    validation = (
        f"validating on {frames['validation']}"
        if "validation" in frames
        else "without validation frames, so that the curve covers training frames only"
    )
    processes = f"; {world.size} processes" if world.size > 1 else ""
    console.print(
        f"training on {frames['train']} frames, {validation}; {device}, {precision}{processes}", soft_wrap=True
    )
    own = ", ".join(f"{name} {value}" for name, value in changes(params.train).items())
    console.print(f"recipe {params.train.recipe}" + (f", but {own}" if own else ""), soft_wrap=True)
    # Tags, not params: a training may be resumed on other devices.
    tags = tracking.git_tags() | {"device": device, "precision": precision, "processes": str(world.size)}
    record = {
        "params": {
            **{f"model.{name}": getattr(spec, name) for name in ("architecture", "encoder", "height", "width")},
            "model.encoder_weights": params.model.encoder_weights,
            **flatten({"train": resolved(params.train)}),
            **{f"{name}.{split}": count for name, column in table.to_dict().items() for split, count in column.items()},
        },
        "tags": tags,
        # Provenance, which must not make training stale, so dvc.yaml does not name it: docs/adr/0003
        "dataset": read_json(paths.SOURCE_JSON),
        "flips": Augmentation(resolve(params.train).augmentation).flips,  # calibrate may average over these
    }
    process_begun = psutil.Process().create_time()
    timings = Timings(training / "timings.json", process_begun)
    timings["imports"] += begun - process_begun
    timings["start_up"] += time.time() - begun
    shown = training / kept.PANELS
    shown.mkdir(parents=True, exist_ok=True)
    for partial in shown.glob(".*"):  # of a process that was killed while it wrote
        partial.unlink()
    _show(shown)  # those before a resume
    with ExitStack() as stack:
        with timings.measure("tracking"):
            mlflow_run = stack.enter_context(tracking.TrainingRun(record, training / "run.json"))

        def on_epoch(row: trainer.Row) -> None:
            print_epoch(row)
            with timings.measure("tracking"):
                mlflow_run.log_epoch(row)

        def on_examples(kind: Kind, epoch: int, examples: list[Example]) -> None:
            with timings.measure("panels"):
                if kind == "first_batch":
                    panel = panels.first_batch(examples, params.train.batch_size)
                else:
                    panel = panels.validation(examples, epoch)
                name = f"{kind}_epoch_{epoch:03}.jpg"
                for folder in (shown, paths.PANELS):
                    with replacing(folder / name) as beside:
                        beside.write_bytes(panel)
                mlflow_run.log_panel(shown / name)

        trained, rows = _fit(params, store, spec, training, world, timings, on_epoch, on_examples)
        tags["kept"] = kept_sentence(rows, params.train)
        console.print(tags["kept"], soft_wrap=True)
        with replacing_folder(training / kept.COMPLETE) as folder:
            network.save_weights(trained, folder)
            pd.DataFrame(rows).to_csv(folder / paths.CURVE_CSV.name, index=False)
            with timings.measure("tracking"):
                finished = mlflow_run.finish(rows, sorted(shown.iterdir()))
            write_json(folder / paths.RUN_JSON.name, finished)
            shutil.copytree(shown, folder / kept.PANELS)
            timings.keep()
            timed = {part: round(seconds, 3) for part, seconds in timings.items()}
            write_json(folder / paths.TIMINGS_JSON.name, timed)
            mlflow_run.log_timings(timings)
    shutil.rmtree(shown)
    for path in training.iterdir():
        if path.is_file():  # what a later process would resume from
            path.unlink()


def _code() -> str:
    """The digest of the source that dvc.yaml names as what trains."""
    deps = YAML(typ="safe", pure=True).load(paths.DVC_YAML)["stages"]["train"]["deps"]
    return package.running(dep for dep in deps if dep.startswith("src/"))


def _end(*_: Any) -> None:
    """Ends the process by SIGTERM's exit status, once."""
    for number in (signal.SIGTERM, signal.SIGCHLD):  # torch's handler would raise over its loaders, which end too
        signal.signal(number, lambda *_: None)  # where one is pending, Python complains of SIG_IGN and SIG_DFL
    sys.exit(128 + signal.SIGTERM)


def _claim(training: Path, world: World) -> AbstractContextManager[Any]:
    """Locks the folder for the first process; waits until another one that trains in it has ended."""
    if not world.first:
        while not world.tell(False):
            pass
        return nullcontext()
    kept.drop_recorded()  # if this one, it is to be trained again
    training.parent.mkdir(parents=True, exist_ok=True)
    lock = kept.lock_of(training)
    seconds = 0
    while True:
        with suppress(Timeout):
            claim = lock.acquire(timeout=seconds)
            world.tell(True)
            return claim
        if not seconds:
            console.print("the same training is running in another process: waiting for it to end")
        seconds = _WAIT
        world.tell(False)


def _drop_other_trainings(current: Path) -> None:
    """Removes the folders of trainings that are not running, and so were interrupted; ends their MLflow runs."""
    for folder in current.parent.iterdir():
        if folder == current or not folder.is_dir():
            continue
        with suppress(Timeout), kept.lock_of(folder).acquire(blocking=False):
            console.print(
                f"starting from scratch: the training kept in {folder} had other data, parameters or code, and is "
                "deleted",
                soft_wrap=True,
            )
            if (folder / "run.json").exists() and (run_id := read_json(folder / "run.json")["run_id"]):
                tracking.end_interrupted(run_id)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(run)
