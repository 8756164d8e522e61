"""Compares the exported scorer with eager torch, and batch prediction with the scorer alone; memory over 10,000 frames.

Run it in the root of a repository with a trained model (`make run`): python -m benchmarks.prediction
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from joblib import cpu_count

from nerveseg import paths
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import metrics
from nerveseg.model.frames import normalise, resize
from nerveseg.model.inference import Segmenter
from nerveseg.model.network import load
from nerveseg.prediction import batch as batches
from nerveseg.prediction.batch import Batch
from nerveseg.prediction.export import export
from nerveseg.prediction.inputs import select
from nerveseg.prediction.openvino import ONNX_FILE, OpenVinoScorer
from nerveseg.storage import open_storage

CPUS: int = cpu_count()  # that this container may use
SIDE = 256
FRAMES = 64
REPEATS = 3
MANY, SMALL = 10_000, 64


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, spec = load(paths.MODELS)
        store = FrameStore.open(paths.PACKED)
        rows = store.rows("test")
        frames = [resize(store.frame(rows[number % len(rows)]), SIDE, SIDE) for number in range(FRAMES)]
        spec = spec.model_copy(update={"height": SIDE, "width": SIDE})
        segmenter = Segmenter(network, spec)
        model = save(folder / "model", segmenter)
        scorers(model, segmenter, frames)
        accuracy(store, rows, folder)
        batch_prediction(model, frames, folder)
        small = spec.model_copy(update={"height": SMALL, "width": SMALL})
        memory(save(folder / "small", Segmenter(network, small)), frames, folder)


def save(folder: Path, segmenter: Segmenter) -> Path:
    folder.mkdir()
    export(segmenter.network, segmenter.spec, folder / ONNX_FILE)
    (folder / "model.json").write_text(segmenter.spec.model_dump_json())
    return folder


def scorers(model: Path, segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    network = segmenter.network.to(memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def eager(size: int) -> None:
        for first in range(0, len(frames), size):
            inputs = np.stack([normalise(frame, segmenter.spec) for frame in frames[first : first + size]])
            torch.sigmoid(network(torch.from_numpy(inputs)[:, None]))

    one, all_ = OpenVinoScorer(model, streams=1, threads=CPUS), OpenVinoScorer(model, streams=CPUS, threads=CPUS)
    with ThreadPoolExecutor(CPUS) as pool:
        for size, score in (
            (1, lambda: [one.probability(frame) for frame in frames]),
            (16, lambda: list(pool.map(all_.probability, frames))),
        ):
            peer, ours = rate(lambda size=size: eager(size), len(frames)), rate(score, len(frames))
            print(f"scorer, {size} at a time: {ours:.1f} images/s, eager fp32 torch {peer:.1f}: {ours / peer:.2f} x")


def accuracy(store: FrameStore, rows: np.ndarray, folder: Path) -> None:
    segmenter = Segmenter.load(paths.MODELS)  # at the size it was trained with
    scorer = OpenVinoScorer(save(folder / "own", segmenter), streams=1, threads=CPUS)
    dice: list[tuple[float, float]] = []
    for row in rows:
        frame, truth = store.frame(row), store.mask(row)
        masks = segmenter.mask(segmenter.probabilities([frame])[0]), scorer.mask(scorer.probability(frame))
        dice.append((metrics.score(masks[0], truth)[0], metrics.score(masks[1], truth)[0]))
    torch_dice, scorer_dice = np.mean(dice, axis=0)
    print(f"Dice on {len(rows)} test frames: torch {torch_dice:.5f}, scorer {scorer_dice:.5f}")


def batch_prediction(model: Path, frames: list[np.ndarray], folder: Path) -> None:
    scorer = OpenVinoScorer(model, streams=CPUS, threads=CPUS)
    repeated = frames * 4
    with ThreadPoolExecutor(CPUS) as pool:
        bare = rate(lambda: list(pool.map(scorer.probability, repeated)), len(repeated))
    write(folder / "frames", repeated)

    def predict() -> None:
        shutil.rmtree(folder / "output", ignore_errors=True)
        run_batch(model, folder / "frames", folder / "output", shard=32)

    ours = rate(predict, len(repeated))
    print(f"batch prediction from files to files: {ours:.1f} images/s, bare scorer {bare:.1f}: {ours / bare:.2f} x")


def memory(model: Path, frames: list[np.ndarray], folder: Path) -> None:
    small = [resize(frame, SMALL, SMALL) for frame in frames]
    write(folder / "many", (small * (MANY // len(small) + 1))[:MANY])
    seen: list[float] = []
    run_batch(model, folder / "many", folder / "many-output", 64, lambda: seen.append(megabytes()))
    middle = len(seen) // 2
    print(f"memory over {MANY} frames: first half {max(seen[:middle]):.0f} MB, second half {max(seen[middle:]):.0f} MB")


def run_batch(
    model: Path, frames: Path, output: Path, shard: int, after_shard: Callable[[], None] = lambda: None
) -> None:
    """Like the flow with threads, without Prefect."""
    batch = Batch(str(frames), str(output), str(model), "0", "0", overlays=False)
    shards = batches.divide(select(open_storage(str(frames)).entries(), str(frames))[0], shard)
    with ThreadPoolExecutor(CPUS) as pool:
        for _ in pool.map(lambda entries: batches.predict_shard(batch, entries, CPUS), shards):
            after_shard()
    batches.merge(batch, shards, training={})  # which would say how names are read


def write(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), frame)


def rate(work: Callable[[], object], count: int) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return count / min(seconds)


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()
