"""Images/s of a training on the CPU, against two loops without nerveseg; and where the time of the train stage went.

Usage: python -m benchmarks.training

1. Against a bare step at 192x256: forward, loss, backward and AdamW on tensors in memory, in the precision and memory
   layout of nerveseg. The difference is what nerveseg adds: Lightning, reading and augmenting frames, scores.
2. Against a naive loop at 256x256: fp32, torch's default layout, and every frame decoded from its PNG in every epoch.
3. If this repository has a trained model (`make run`): the share of its train stage outside training steps.

The sides of 1 and of 2 take turns, epoch by epoch, so that a busy machine slows both; a ratio is the median of those of
the epochs, without the first one. Seconds are meaningless on a busy machine, and a ratio is better on an idle one.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pandas as pd
import torch

from nerveseg import paths
from nerveseg.arrays import Frame
from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.files import read_json
from nerveseg.model import losses
from nerveseg.model.device import precision_for
from nerveseg.model.frames import normalise, resize
from nerveseg.model.network import build
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import TrainParams, load
from nerveseg.training import trainer
from nerveseg.training.recipes import resolve
from nerveseg.training.timing import Timings

STEPS, EPOCHS = 5, 4
HEIGHT, WIDTH = 420, 580  # native size of the frames, pixels
Step = Callable[[], None]


def synthetic(folder: Path, frames: int, validation: int) -> FrameStore:
    """Noise, brighter in an ellipse that is the mask."""
    random = np.random.default_rng(0)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (290, 200), (60, 40), 0, 0, 360, 1, -1)
    count = frames + validation
    with Writer(folder) as writer:
        for number in range(count):
            frame = random.integers(0, 150, (HEIGHT, WIDTH), np.uint8) + 100 * mask
            writer.append(f"{number}_1.png", str(number), None, frame, mask)
        writer.write_index(pd.Series(["train"] * frames + ["validation"] * validation), np.arange(count))
    return FrameStore.open(folder)


def bare_step(spec: NetworkSpec, train: TrainParams) -> Step:
    """A step on a batch in memory, in the precision and layout of nerveseg."""
    network, optimizer, loss = _tools(spec, train)
    network = network.to(memory_format=torch.channels_last)
    precision = precision_for("cpu", train.precision)
    frames = torch.randn(train.batch_size, 1, spec.height, spec.width)
    masks = (torch.rand_like(frames) > 0.95).float()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            value = loss(network(frames), masks)
        value.backward()
        optimizer.step()

    return step


def naive_step(spec: NetworkSpec, train: TrainParams, store: FrameStore, folder: Path) -> Step:
    """A step in fp32 and torch's default layout on the next frames and masks, which are decoded from files."""
    network, optimizer, loss = _tools(spec, train)
    files = list(_write_files(store, folder))
    position = 0

    def step() -> None:
        nonlocal position
        batch = [files[(position + number) % len(files)] for number in range(train.batch_size)]
        position += train.batch_size
        decoded = [[_read(file, spec) for file in pair] for pair in batch]
        frames = torch.from_numpy(np.stack([normalise(frame, spec) for frame, _ in decoded]))[:, None]
        masks = torch.from_numpy(np.stack([mask > 127 for _, mask in decoded]))[:, None].float()
        optimizer.zero_grad()
        loss(network(frames), masks).backward()
        optimizer.step()

    return step


def _tools(spec: NetworkSpec, train: TrainParams) -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.nn.Module]:
    network = build(spec, "none").train()
    return (
        network,
        torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0),
        losses.by_name(resolve(train).loss),
    )


def _read(file: str, spec: NetworkSpec) -> Frame:
    return resize(cv2.imread(file, cv2.IMREAD_GRAYSCALE), spec.height, spec.width)


def _write_files(store: FrameStore, folder: Path) -> Iterator[tuple[str, str]]:
    for row in store.rows("train").tolist():
        pair = str(folder / f"{row}.png"), str(folder / f"{row}_mask.png")
        for file, pixels in zip(pair, (store.frame(row), store.mask(row) * np.uint8(255)), strict=True):
            cv2.imwrite(file, pixels)
        yield pair


def compare(
    store: FrameStore, spec: NetworkSpec, train: TrainParams, step: Step, folder: Path
) -> list[tuple[float, float]]:
    """Images/s of nerveseg in each epoch but the first, with waiting for data; and of as many other steps after it.

    Args:
        folder: for the checkpoints; must not exist.
    """
    found: list[tuple[float, float]] = []
    steps = len(store.rows("train")) // train.batch_size

    def on_epoch(row: trainer.Row) -> None:
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        found.append((row["images_per_second"], steps * train.batch_size / (time.perf_counter() - begun)))

    trainer.fit(
        store,
        spec,
        "none",
        train,
        device="cpu",
        workers=trainer.worker_count(None, "cpu"),
        checkpoints=folder,
        timings=Timings(),
        on_epoch=on_epoch,
    )
    return found[1:]


def outside_steps(timings: dict[str, float]) -> float:
    """The share of the train stage outside training steps, imports aside."""
    return 1 - timings["training_steps"] / (timings["total"] - timings["imports"])


def main() -> None:
    params = load()
    train = params.train.model_copy(update={"epochs": EPOCHS})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = synthetic(folder, STEPS * train.batch_size, train.batch_size)
        spec = NetworkSpec(architecture=params.model.architecture, encoder=params.model.encoder, height=192, width=256)
        report("bare step, 192x256", compare(store, spec, train, bare_step(spec, train), folder / "bare"), 0.95)
        spec = spec.model_copy(update={"height": 256})
        naive = naive_step(spec, train, store, folder)
        report("naive loop, 256x256", compare(store, spec, train, naive, folder / "naive"), 2.5)
    if not paths.TIMINGS_JSON.exists():
        print(f"{paths.TIMINGS_JSON} is missing: `make run` trains a model, and this then says where the time went")
        return
    share = outside_steps(read_json(paths.TIMINGS_JSON))
    print(f"train stage: {share:.1%} outside training steps, imports aside (limit 10 %)")


def report(name: str, rates: list[tuple[float, float]], goal: float) -> None:
    ours, other = (median(side) for side in zip(*rates, strict=True))
    ratio = median(own / another for own, another in rates)
    print(f"nerveseg {ours:.1f} images/s, {name} {other:.1f} images/s, ratio {ratio:.2f} (goal {goal})")


if __name__ == "__main__":
    main()
