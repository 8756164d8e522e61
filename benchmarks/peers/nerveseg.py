"""nerveseg, with the settings of params.yaml but those of the task, without ImageNet weights."""

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.peers.common import DEVICE, Curve, Task, dice, main
from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.model.device import precision_for
from nerveseg.model.inference import Segmenter
from nerveseg.model.network import build
from nerveseg.model.spec import ModelSpec
from nerveseg.params import load
from nerveseg.training import trainer
from nerveseg.training.timing import Timings

ROUNDING = 0.01  # of a Dice in bf16


def store_of(task: Task, folder: Path) -> FrameStore:
    """The task's frames, each a person of its own: no sampler may balance people whom the other sides do not know."""
    frames, masks = np.concatenate([task.frames, task.unseen]), np.concatenate([task.masks, task.truths])
    with Writer(folder) as writer:
        for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            writer.append(f"{number}.png", str(number), None, frame, mask)
        side = np.where(np.arange(len(frames)) < len(task.frames), "train", "validation")
        writer.write_index(pd.Series(side), np.arange(len(frames)))
    return FrameStore.open(folder)


def train(task: Task, curve: Curve) -> None:
    given = {"batch_size": task.batch, "epochs": task.epochs, "seed": task.seed, "keep": "last", "patience": None}
    params = load().train.model_copy(update=given)
    height, width = task.frames.shape[1:]
    spec = ModelSpec(architecture="Unet", encoder="resnet34", height=height, width=width, threshold=0.5)
    curve.describe(build(spec, "none"), version("nerveseg"), precision_for(DEVICE, params.precision))
    timings = Timings()
    counted, scores = 0.0, []

    def on_epoch(row: trainer.Row) -> None:
        nonlocal counted
        seconds = timings["data"] + timings["training_steps"]
        scores.append(row["validation_dice"])
        curve.add_scored(seconds - counted, scores[-1])
        counted = seconds

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, _ = trainer.fit(
            store_of(task, folder),
            spec,
            "none",
            params,
            device=DEVICE,
            workers=trainer.worker_count(None, DEVICE),
            checkpoints=folder / "checkpoints",
            timings=timings,
            on_epoch=on_epoch,
        )
    segmenter = Segmenter(network, spec, DEVICE)
    masks = [segmenter.mask(probability) for probability in segmenter.probabilities(list(task.unseen))]
    shared = dice(np.stack(masks), task.truths)
    if abs(shared - scores[-1]) > ROUNDING:
        raise SystemExit(f"The curve says Dice {scores[-1]:.4f}, but the masks have {shared:.4f}.")


if __name__ == "__main__":
    main(train)
