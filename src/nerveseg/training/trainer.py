"""One training, from stored frames to a trained network; if interrupted, it resumes from its last complete epoch."""

import hashlib
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.files import sha256, writing
from nerveseg.model.device import precision_for
from nerveseg.model.network import build
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import TrainParams
from nerveseg.training.dataset import FrameDataset, loader
from nerveseg.training.module import SegmentationModule
from nerveseg.training.progress import EpochProgress
from nerveseg.training.timing import StepTimer, Timings

CHECKPOINT = "last.ckpt"
LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
Row = dict[str, float]


def worker_count(wanted: int | None) -> int:
    """Processes that load frames: the number wanted, or one less than the CPUs, at most 8."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus - 1, 8) if wanted is None else wanted


def fingerprint(store: FrameStore, spec: NetworkSpec, encoder_weights: str, train: TrainParams) -> str:
    """16 hexadecimal digits that change with anything that a training depends on. Arguments as for `fit`."""
    digest = hashlib.sha256()
    for part in (spec.model_dump_json(), encoder_weights, train.model_dump_json(), store.digest()):
        digest.update(part.encode())
    if encoder_weights not in ("none", "imagenet"):
        digest.update(sha256(Path(encoder_weights)).encode())
    return digest.hexdigest()[:16]


class History(Callback):
    """The curve, one row per epoch; stored in the checkpoint, so that it continues after a resume."""

    def __init__(self, timings: Timings, batch_size: int, on_epoch: Callable[[Row], None]) -> None:
        self.rows: list[Row] = []
        self._timings = timings
        self._batch_size = batch_size
        self._on_epoch = on_epoch
        self._seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def on_train_epoch_start(self, *_: Any) -> None:
        self._seconds = self._timings["data"] + self._timings["training_steps"]

    def on_train_epoch_end(self, trainer: Trainer, module: SegmentationModule) -> None:  # type: ignore[override]
        seconds = self._timings["data"] + self._timings["training_steps"] - self._seconds
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                **module.scores(),
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "images_per_second": int(trainer.num_training_batches) * self._batch_size / seconds,
                "time": time.time(),
            }
        )
        self._on_epoch(self.rows[-1])


class _TimedCheckpoint(ModelCheckpoint):
    """Saves the last complete epoch under a temporary name, then replaces the previous one."""

    def __init__(self, folder: Path, timings: Timings) -> None:
        super().__init__(
            dirpath=folder, filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
        )
        self._timings = timings

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        with self._timings.measure("checkpoint"), writing(Path(filepath)):
            super()._save_checkpoint(trainer, filepath)


def fit(
    store: FrameStore,
    spec: NetworkSpec,
    encoder_weights: str,
    train: TrainParams,
    *,
    device: str,
    workers: int,
    checkpoints: Path,
    timings: Timings,
    on_epoch: Callable[[Row], None],
) -> tuple[torch.nn.Module, list[Row]]:
    """Trains a network; resumes from the checkpoint in `checkpoints` if there is one.

    Args:
        store: has frames in the splits `train` and `validation`.
        encoder_weights: as for `network.build`.
        device: `cpu`, `cuda` or `mps`.
        workers: processes that load frames; 0: this one does. The result does not depend on it.
        checkpoints: folder of this training only; its content must come from the same arguments.
        timings: receives the seconds of each part.
        on_epoch: called with each new row of the curve.

    Returns:
        The trained network, and the curve: one row for each epoch, including those before a resume, with `epoch`
        (from 1), `train_loss`, `train_iou`, `train_dice`, the same with `validation_`, `learning_rate` (after the last
        step of the epoch), `images_per_second` (training, including waiting for data) and `time` (seconds since 1970).

    Raises:
        NervesegError: there are fewer training frames than one batch, or the network cannot be built.
        SystemExit: after SIGTERM, with status 143.
    """
    rows = store.rows("train")
    if len(rows) < train.batch_size:
        raise NervesegError(
            f"{len(rows)} training frames do not fill one batch; lower train.batch_size ({train.batch_size})."
        )
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it advertises
    seed_everything(train.seed, verbose=False)
    network = build(spec, encoder_weights)
    module = SegmentationModule(network, train)
    history = History(timings, train.batch_size, on_epoch)
    trainer = Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        precision=LIGHTNING_PRECISION[precision_for(device, train.precision)],
        max_epochs=train.epochs,
        gradient_clip_val=train.gradient_clip or None,
        callbacks=[
            StepTimer(timings),
            EpochProgress(train.batch_size),
            history,
            _TimedCheckpoint(checkpoints, timings),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    last = checkpoints / CHECKPOINT
    try:
        trainer.fit(
            module,
            loader(FrameDataset(store, rows, spec, train.augmentation), train.batch_size, train.seed, workers, True),
            loader(FrameDataset(store, store.rows("validation"), spec, "none"), train.batch_size, 0, workers, False),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    except SIGTERMException as ended:
        # If the exception from our own signal handler gets lost (in a file object's destructor, say), Lightning ends
        # the training by an exit without a status, which would look like success.
        raise SystemExit(128 + signal.SIGTERM) from ended
    return network.eval(), history.rows
