"""One training, from stored frames to a trained network; if interrupted, it resumes from its last checkpoint."""

import hashlib
import io
import json
import logging
import math
import os
import signal
import socket
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from joblib import cpu_count
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.text import Text

from nerveseg.console import console
from nerveseg.data import augment
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.files import replacing, sha256
from nerveseg.model.device import precision_for
from nerveseg.model.network import build
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import LEVELS, TrainParams
from nerveseg.training.dataset import dataset_for, loader
from nerveseg.training.devices import ALONE, World, end_if_lost
from nerveseg.training.examples import OnExamples, ValidationExamples, first_batch
from nerveseg.training.keeping import BestWeights, MovingAverage, best_epoch
from nerveseg.training.module import SegmentationModule
from nerveseg.training.progress import EpochProgress
from nerveseg.training.recipes import resolve, resolved
from nerveseg.training.sampling import groups
from nerveseg.training.timing import StepTimer, Timings

CHECKPOINT = "last.ckpt"
FORMER_CHECKPOINT = "former.ckpt"  # the one before
DIVERGED = 1e4  # a loss: an untrained network's is about 2, and 100 means logits that are wrong by 100 in every pixel
LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
Row = dict[str, float]


class Reached(NamedTuple):
    """How far a training has come: its complete epochs, and the steps (batches) of the one that was cut off."""

    epochs: int
    steps: int


def worker_count(wanted: int | None, device: str, processes: int = 1) -> int:
    """Processes that augment frames for each of the `processes` that train on this machine: the number wanted, or one
    less than its share of the CPUs of this container, at most 8.

    None for a training on the CPU, unless wanted: augmenting takes it a hundredth of a step, and processes beside the
    threads of a step slow these down by far more.
    """
    if wanted is None:
        return 0 if device == "cpu" else min(max(cpu_count() // processes - 1, 0), 8)
    return wanted


def fingerprint(store: FrameStore, spec: NetworkSpec, encoder_weights: str, train: TrainParams, code: str) -> str:
    """16 hexadecimal digits that change with anything that a training depends on.

    Args:
        code: digest of the source that trains; the other arguments are those of `fit`.

    Raises:
        NervesegError: the file of the augmentation is missing.
    """
    digest = hashlib.sha256()
    for part in (spec.model_dump_json(), encoder_weights, json.dumps(resolved(train)), store.digest(), code):
        digest.update(part.encode())
    if encoder_weights not in ("none", "imagenet"):
        digest.update(sha256(Path(encoder_weights)).encode())
    if (augmentation := resolve(train).augmentation) not in LEVELS:
        digest.update(augment.read(Path(augmentation)))
    return digest.hexdigest()[:16]


class History(Callback):
    """The curve, one row per epoch; stored in the checkpoint, so that it continues after a resume.

    Ends a training whose loss diverges, before the epoch gets a checkpoint, and one that no longer gets better.
    """

    def __init__(self, timings: Timings, train: TrainParams, on_epoch: Callable[[Row], None]) -> None:
        self.rows: list[Row] = []
        self._timings = timings
        self._train = train
        self._on_epoch = on_epoch
        self._seconds = 0.0

    @property
    def kept(self) -> Row:
        """The row of the epoch whose network is kept, if the training ends now."""
        return self.rows[best_epoch(self.rows) - 1 if self._train.keep == "best" else -1]

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self._train.patience
        return patience is not None and bool(self.rows) and len(self.rows) - best_epoch(self.rows) >= patience

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop |= self._is_out_of_patience  # if it was interrupted just then

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self._in_loop() - self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self._seconds = self._in_loop() - state_dict["seconds"]  # steps that a kill has undone are not in the rate

    def on_train_epoch_start(self, *_: Any) -> None:
        self._seconds = self._in_loop()

    def on_train_epoch_end(self, trainer: Trainer, module: SegmentationModule) -> None:  # type: ignore[override]
        seconds = self._in_loop() - self._seconds
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                **module.scores("train"),
                **module.scores("validation"),
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "images_per_second": int(trainer.num_training_batches) * self._train.batch_size / seconds,
                "time": time.time(),
            }
        )
        self._on_epoch(self.rows[-1])
        trainer.should_stop |= self._is_out_of_patience
        is_last = trainer.should_stop or self.rows[-1]["epoch"] == trainer.max_epochs
        # That of the validation frames can be huge for an epoch, until batch normalisation has followed the weights.
        limit = DIVERGED if is_last else math.inf
        train, validation = self.rows[-1]["train_loss"], (self.kept if is_last else self.rows[-1])["validation_loss"]
        validates = trainer.enable_validation
        if not (train < DIVERGED and (validation < limit or not validates)):  # NaN is not either
            on_validation = f", {validation:.4g} on the validation frames" if validates else ""
            raise NervesegError(
                f"The loss diverged in epoch {self.rows[-1]['epoch']}: {train:.4g} on the training frames"
                f"{on_validation}. Lower train.learning_rate, or limit the gradient with train.gradient_clip (1.0, for "
                "example)."
            )

    def _in_loop(self) -> float:
        return self._timings["data"] + self._timings["training_steps"]


class _CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside the last one, which becomes the former one. A full disk or a kill damages neither."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)  # to a file, it would not say why it failed
        path = Path(path)
        with replacing(path) as beside:
            with beside.open("wb") as file:
                file.write(content.getbuffer())
                os.fsync(file.fileno())
            if path.exists():
                path.replace(path.with_name(FORMER_CHECKPOINT))


class _BesideTraining(AsyncCheckpointIO):
    """Writes a copy of the state in a thread while the training goes on; at most one, so the next one waits for it."""

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.teardown()  # waits, and raises what the former one raised
        super().save_checkpoint(*args, **kwargs)


def _newest_checkpoint(folder: Path) -> tuple[Path | None, Reached]:
    """The newest readable checkpoint in a folder, and how far it had come; None and nothing without one.

    One that is damaged is renamed, and the terminal says so.
    """
    for partial in folder.glob(f".{CHECKPOINT}.*"):  # of a process that was killed while it wrote
        partial.unlink()
    for path in (folder / CHECKPOINT, folder / FORMER_CHECKPOINT):
        if path.exists():
            try:
                return path, _reached(path)
            except Exception as error:  # damage can raise anything in the pickle's reader
                aside = path.with_name(f"{path.name}.damaged")
                path.replace(aside)
                said = (
                    f" ({str(error) or type(error).__name__}) and now called {aside.name}: the training resumes from "
                    "the checkpoint before or, without that, starts from scratch."
                )
                console.print(Text.assemble((f"{path} is damaged", "yellow"), said), soft_wrap=True)
    return None, Reached(0, 0)


def _reached(checkpoint: Path) -> Reached:
    with zipfile.ZipFile(checkpoint) as content:
        if damaged := content.testzip():  # torch does not compare the checksums
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    fit_loop = torch.load(checkpoint, map_location="cpu", weights_only=True)["loops"]["fit_loop"]
    epochs, batches = (fit_loop[f"{name}_progress"]["current"] for name in ("epoch", "epoch_loop.batch"))
    cut_off = epochs["started"] > epochs["processed"]
    return Reached(epochs["processed"], batches["processed"] if cut_off else 0)


class _TimedCheckpoint(ModelCheckpoint):
    """Saves each complete epoch and, in the midst of one, the step after which the last checkpoint is `seconds` old."""

    def __init__(self, folder: Path, seconds: float, timings: Timings, timer: StepTimer) -> None:
        super().__init__(
            dirpath=folder, filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
        )
        self._path = folder / CHECKPOINT
        self._seconds = seconds
        self._timings = timings
        self._timer = timer
        self._saved = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        last = number + 1 == trainer.num_training_batches  # the complete epoch is saved soon
        accumulating = (number + 1) % trainer.accumulate_grad_batches > 0  # no checkpoint holds gradients
        if not (last or accumulating) and self._is_due(trainer):
            self._save_checkpoint(trainer, str(self._path))

    def _is_due(self, trainer: Trainer) -> bool:
        """The same in all processes."""
        due: bool = trainer.strategy.broadcast(time.monotonic() - self._saved >= self._seconds)
        return due

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        with self._timings.measure("checkpoint"):
            super()._save_checkpoint(trainer, filepath)
        self._timings.keep()
        self._timer.skip()
        self._saved = time.monotonic()


def fit(
    store: FrameStore,
    spec: NetworkSpec,
    encoder_weights: str,
    train: TrainParams,
    *,
    device: str,
    workers: int,
    checkpoints: Path,
    checkpoint_seconds: float = math.inf,
    timings: Timings,
    on_epoch: Callable[[Row], None],
    on_examples: OnExamples | None = None,
    world: World = ALONE,
) -> tuple[torch.nn.Module, list[Row]]:
    """Trains a network; resumes from the newest readable checkpoint in `checkpoints` if there is one.

    Args:
        store: has frames in the split `train`, and may have some in `validation`.
        encoder_weights: as for `network.build`.
        device: `cpu`, `cuda` or `mps`.
        workers: processes that augment frames; 0: this one does. The result does not depend on it, nor on resuming.
        checkpoints: folder of this training only; its content must come from the same arguments.
        checkpoint_seconds: the age of a checkpoint at which the next one is written, in the midst of an epoch; each
            complete epoch has one.
        timings: receives the seconds of each part.
        on_epoch: called with each new row of the curve, without `kept`.
        on_examples: called with `first_batch`, 1 and frames of the first batch; then with `validation`, the number of
            epochs trained, from 0, and some validation frames, if there are any, before the epoch has its checkpoint.
            None: with nothing.
        world: the processes that train together. All call this alike, up to `timings` and what the callbacks do, and
            get the same network and curve; the first writes checkpoints. The result depends on their number by no more
            than rounding, unless the network has dropout.

    Returns:
        The trained network, and the curve: one row for each epoch, including those before a resume, with `epoch`
        (from 1), `train_loss`, `train_iou`, `train_dice`, the same with `validation_` (NaN without validation frames),
        `learning_rate` (after the last step of the epoch), `images_per_second` (training, including waiting for data),
        `time` (seconds since 1970) and `kept` (1 for the epoch that the network is from, otherwise 0).

    Raises:
        NervesegError: there are fewer training frames than one batch, the batch is not a multiple of the processes,
            a process does not see the checkpoint, the network cannot be built, or the loss diverges.
        SystemExit: after SIGTERM, with status 143; after another process has ended, which says why, with status 1.
    """
    rows, unseen = store.rows("train"), store.rows("validation")
    if len(rows) < train.batch_size:
        raise NervesegError(
            f"{len(rows)} training frames do not fill one batch; lower train.batch_size ({train.batch_size})."
        )
    if train.batch_size % world.size:
        raise NervesegError(
            f"train.batch_size ({train.batch_size}), which is that of all processes together, is not a multiple of "
            f"their number ({world.size}); change it, or NERVESEG_DEVICES and NERVESEG_NODES."
        )
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it advertises
    seed_everything(train.seed, verbose=False)
    torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))  # torch does not see a container's limit
    with timings.measure("start_up"):
        network = world.with_synchronised_statistics(build(spec, encoder_weights), device)
        last, reached = world.tell(_newest_checkpoint(checkpoints) if world.first else (None, Reached(0, 0)))
    if last and not last.exists():
        raise NervesegError(
            f"{socket.gethostname()} does not see {last}: NERVESEG_CHECKPOINTS must be a folder that all nodes share."
        )
    recipe = resolve(train)
    module = SegmentationModule(network, recipe, train.seed, world)
    history = History(timings, train, on_epoch)
    best = [BestWeights()] if train.keep == "best" else []
    average = [MovingAverage(recipe.ema, device)] if recipe.ema else []
    examples = [ValidationExamples(store, train.batch_size, on_examples, world)] if on_examples and len(unseen) else []
    timer = StepTimer(timings)
    trainer = Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        precision=LIGHTNING_PRECISION[precision_for(device, train.precision)],
        max_epochs=train.epochs,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=recipe.gradient_clip or None,
        callbacks=[
            timer,
            *([EpochProgress(train.batch_size)] if world.first else []),
            history,
            *examples,
            *best,
            *average,
            _TimedCheckpoint(checkpoints, checkpoint_seconds, timings, timer),
            *world.callbacks(),
        ],
        plugins=[_BesideTraining(_CheckpointFiles()), world.cluster],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **world.trainer_options(),
    )
    with timings.measure("start_up"):
        frames = dataset_for(device, store, rows, spec, recipe.augmentation, checkpoints)
        validation = dataset_for(device, store, unseen, spec, "none", checkpoints) if len(unseen) else None
    drawn = groups(store.index, rows, recipe.sampler)
    if on_examples and last is None:
        on_examples("first_batch", 1, first_batch(store, rows, frames, spec, train.batch_size, train.seed, drawn))
    try:
        trainer.fit(
            module,
            loader(frames, train.batch_size, train.seed, workers, True, *reached, drawn, world),
            loader(validation, train.batch_size, 0, workers, False, world=world) if validation else None,
            ckpt_path=last,
            weights_only=True,
        )
    except SIGTERMException as ended:
        # If the exception from our own signal handler gets lost (in a file object's destructor, say), Lightning ends
        # the training by an exit without a status, which would look like success.
        raise SystemExit(128 + signal.SIGTERM) from ended
    except Exception as error:
        if world.size > 1:  # what started them ends all where one fails, but the MLflow run has to be ended before
            signal.signal(signal.SIGTERM, lambda *_: None)
        end_if_lost(error)
        raise
    for averaged in average:
        averaged.on_train_end(trainer, module)  # which Lightning omits where a resumed training was complete
    for kept in best:
        network.load_state_dict(kept.weights)
    return network.eval(), [{**row, "kept": float(row is history.kept)} for row in history.rows]
