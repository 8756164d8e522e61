"""Compares images/s of a training by nerveseg with a bare PyTorch loop on tensors in memory.

The loop does only the essential: forward, loss, backward, AdamW. The difference is what nerveseg adds: Lightning,
reading and augmenting frames, scores. Prints both rates and their ratio.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.model import losses
from nerveseg.model.device import device_name
from nerveseg.model.network import build
from nerveseg.model.spec import ModelSpec
from nerveseg.params import load
from nerveseg.training import trainer
from nerveseg.training.timing import Timings

FRAMES, STEPS = 160, 10
HEIGHT, WIDTH = 420, 580  # native size of the frames, pixels


def synthetic(folder: Path) -> FrameStore:
    """Noise with an ellipse as mask: `FRAMES` training frames and one batch for validation."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = (((x - 290) / 60) ** 2 + ((y - 200) / 40) ** 2 < 1).astype(np.uint8)
    with Writer(folder) as writer:
        for number in range(FRAMES + 16):
            frame = random.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
            writer.append(f"{number}_1.png", str(number), None, frame, mask)
        writer.write_index(pd.Series(["train"] * FRAMES + ["validation"] * 16), np.arange(FRAMES + 16))
    return FrameStore.open(folder)


def nerveseg_rate(store: FrameStore, spec: ModelSpec, folder: Path) -> float:
    """Images/s in the second epoch, including waiting for data."""
    params = load()
    train = params.train.model_copy(update={"epochs": 2})
    _, rows = trainer.fit(
        store,
        spec,
        params.model.encoder_weights,
        train,
        device=device_name("auto"),
        workers=trainer.worker_count(None),
        checkpoints=folder / "checkpoints",
        timings=Timings(),
        on_epoch=lambda row: None,
    )
    return rows[-1]["images_per_second"]


def bare_rate(spec: ModelSpec, batch_size: int) -> float:
    """Images/s of the bare loop, after two warm-up steps."""
    device = device_name("auto")
    network = build(spec).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0)
    loss = losses.by_name("bce_dice")
    frames = torch.randn(batch_size, 1, spec.height, spec.width, device=device).to(memory_format=torch.channels_last)
    masks = (torch.rand_like(frames) > 0.95).float()
    for step in range(STEPS + 2):
        if step == 2:
            begun = time.perf_counter()
        optimizer.zero_grad()
        loss(network(frames), masks).backward()
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return STEPS * batch_size / (time.perf_counter() - begun)


def main() -> None:
    params = load()
    spec = ModelSpec(**params.model.model_dump(exclude={"encoder_weights"}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = nerveseg_rate(synthetic(folder), spec, folder)
    bare = bare_rate(spec, params.train.batch_size)
    print(f"nerveseg {ours:.1f} images/s, bare loop in fp32 {bare:.1f} images/s, ratio {ours / bare:.2f}")


if __name__ == "__main__":
    main()
