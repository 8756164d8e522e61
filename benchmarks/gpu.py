"""Images/s and minutes to a validation IoU on a GPU, against a loop like the published run's on the same card.

Usage: python -m benchmarks.gpu [--iou 0.6] [--epochs 5]      after `dvc repro split`
       python -m benchmarks.gpu --cpu                         small, on noise: whether it runs

The loop is what Hydrogen Torch documents: fp16 autocast with a scaled loss, torch's default layout, and processes that
decode each frame from its file in every epoch, resize it to 448x448 and augment it with albumentations; Unet with
resnet34, binary cross-entropy and Dice, AdamW at 0.001, cosine to zero, batches of 16. nerveseg trains the same network
by the recipe `card`, at the same size. Neither has ImageNet weights. Images/s are those of the last epoch, validation
aside; minutes are from the first step on, validation included, and of whole epochs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.training import synthetic
from nerveseg import paths
from nerveseg.arrays import Ints
from nerveseg.data.augment import Augmentation
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import metrics
from nerveseg.model import losses
from nerveseg.model.frames import normalise, resize
from nerveseg.model.network import build
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import TrainParams, load
from nerveseg.training import trainer
from nerveseg.training.timing import Timings

Batch = tuple[torch.Tensor, torch.Tensor]


class Epoch(NamedTuple):
    """Images/s of its training steps, validation IoU after it, and seconds from the first step on."""

    rate: float
    iou: float
    seconds: float


class Files(Dataset[Batch]):
    """Frames and masks, decoded, resized and augmented anew each time: float32 (1, height, width) each."""

    def __init__(self, store: FrameStore, rows: Ints, spec: NetworkSpec, augmentation: str, folder: Path) -> None:
        self._spec = spec
        self._augment = Augmentation(augmentation)
        self._files = [(str(folder / f"{row}.png"), str(folder / f"{row}_mask.png")) for row in rows.tolist()]
        for row, (frame, mask) in zip(rows.tolist(), self._files, strict=True):
            cv2.imwrite(frame, store.frame(row))
            cv2.imwrite(mask, store.mask(row) * np.uint8(255))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> Batch:
        frame, mask = (
            resize(cv2.imread(file, cv2.IMREAD_GRAYSCALE), self._spec.height, self._spec.width)
            for file in self._files[position]
        )
        frame, mask = self._augment(frame, (mask > 127).astype(np.uint8), int(torch.randint(2**31, ())))
        return torch.from_numpy(normalise(frame, self._spec))[None], torch.from_numpy(mask)[None].float()


def published_loop(
    store: FrameStore, spec: NetworkSpec, train: TrainParams, device: str, workers: int, folder: Path
) -> list[Epoch]:
    """Trains by the loop described above."""
    network = build(spec, "none").to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0)
    loss = losses.by_name("bce_dice")
    training, validation = (
        DataLoader(
            Files(store, store.rows(split), spec, augmentation, folder),
            train.batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=workers,
            pin_memory=device == "cuda",
            persistent_workers=workers > 0,
        )
        for split, augmentation in (("train", "card"), ("validation", "none"))
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=train.epochs * len(training))
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    found = []
    begun = time.perf_counter()
    for _ in range(train.epochs):
        epoch = time.perf_counter()
        network.train()
        for frames, masks in training:
            optimizer.zero_grad()
            with torch.autocast(device, torch.float16, enabled=device == "cuda"):
                value = loss(network(frames.to(device)), masks.to(device))
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        if device == "cuda":
            torch.cuda.synchronize()
        rate = len(training) * train.batch_size / (time.perf_counter() - epoch)
        found.append(Epoch(rate, _iou(network.eval(), validation, device), time.perf_counter() - begun))
    return found


@torch.no_grad()
def _iou(network: torch.nn.Module, validation: DataLoader[Batch], device: str) -> float:
    """The mean over frames, at the network's size."""
    scores = []
    for frames, masks in validation:
        predicted = (network(frames.to(device)) >= 0).cpu()
        scores += [
            metrics.score(mask.numpy(), true.numpy() > 0)[1] for mask, true in zip(predicted, masks, strict=True)
        ]
    return float(np.mean(scores))


def nerveseg(
    store: FrameStore, spec: NetworkSpec, train: TrainParams, device: str, workers: int, folder: Path
) -> list[Epoch]:
    """Trains by nerveseg."""
    found: list[Epoch] = []
    timings = Timings()

    def on_epoch(row: trainer.Row) -> None:
        seconds = sum(timings[part] for part in ("data", "training_steps", "validation", "checkpoint"))
        found.append(Epoch(row["images_per_second"], row["validation_iou"], seconds))

    trainer.fit(
        store,
        spec,
        "none",
        train,
        device=device,
        workers=workers,
        checkpoints=folder / "checkpoints",
        timings=timings,
        on_epoch=on_epoch,
    )
    return found


def report(name: str, epochs: list[Epoch], goal: float) -> None:
    reached = next((f"{epoch.seconds / 60:.2f} minutes" for epoch in epochs if epoch.iou >= goal), "not reached")
    print(f"{name:15} {epochs[-1].rate:8.1f} images/s; IoU {epochs[-1].iou:.3f} at the end, {goal:g}: {reached}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a small run without a GPU")
    parser.add_argument("--iou", type=float, default=0.6, help="of the validation frames, at the network's size")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args(arguments)
    if not given.cpu and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here: nothing is measured. --cpu shows whether the script runs")
    given_train = {"recipe": "card", "epochs": given.epochs, "batch_size": 4 if given.cpu else 16}
    train = load().train.model_copy(update=given_train)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.cpu:
            device, workers = "cpu", 0
            store = synthetic(folder, frames=8, validation=4)
            spec = NetworkSpec(architecture="Unet", encoder="tu-test_resnet", height=64, width=64)
        else:
            device, workers = "cuda", trainer.worker_count(None, "cuda")
            store = FrameStore.open(paths.PACKED)
            spec = NetworkSpec(architecture="Unet", encoder="resnet34", height=448, width=448)
            print(f"{torch.cuda.get_device_name()}, {workers} loader processes for the loop")
        ours = nerveseg(store, spec, train, device, workers, folder)
        loop = published_loop(store, spec, train, device, workers, folder)
    report("nerveseg", ours, given.iou)
    report("published loop", loop, given.iou)
    print(f"ratio of images/s {ours[-1].rate / loop[-1].rate:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
