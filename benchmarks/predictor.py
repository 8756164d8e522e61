"""Compares the predictor over loopback HTTP with the scorer alone.

The baseline decodes the same PNG, scores it and makes the mask in this process, one frame after another, with the
fastest scorer for this: one stream on all CPUs. The server is `nerveseg serve` with its defaults, which also parses the
form and writes run lengths and JSON. Rounds of both alternate.

Usage: python -m benchmarks.predictor
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import torch

from nerveseg.data.archive import decode_grey
from nerveseg.model.network import build, save
from nerveseg.model.spec import ModelSpec
from nerveseg.prediction.export import export
from nerveseg.prediction.openvino import OpenVinoScorer
from nerveseg.registry import delivery
from nerveseg.serving.champion import CPUS
from nerveseg.storage import FolderStorage

SPEC = ModelSpec(architecture="Unet", encoder="resnet34", height=256, width=256, threshold=0.5)
LIMIT = 1.3  # ratio of median latencies with one client
CLIENTS = 8
FRAMES = 20  # per round and client
ROUNDS = 3
PORT = 8765


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        deliver(folder / "model", FolderStorage(folder / "delivery"))
        scorer = OpenVinoScorer(folder / "model", streams=1, threads=CPUS)
        png = frame()

        def bare() -> None:
            scorer.mask(scorer.probability(decode_grey(png)[0]))

        command = (str(Path(sys.executable).with_name("nerveseg")), "serve", "--port", str(PORT))
        with (folder / "log").open("w") as log:
            server = subprocess.Popen((*command, "--delivery", str(folder / "delivery")), stdout=log, stderr=log)
        try:
            compare(bare, png)
        finally:
            server.terminate()
            server.wait()


def deliver(folder: Path, storage: FolderStorage) -> None:
    folder.mkdir()
    torch.manual_seed(70)
    network = build(SPEC).eval()
    save(network, SPEC, folder)
    export(network, SPEC, folder / "model.onnx")
    for name in ("reference.json", "card.json", "card.md", "metadata.json"):
        (folder / name).write_text("{}")
    digest = delivery.publish(storage, "1", folder)
    delivery.point(storage, None, None, "1", "run", digest, [])


def frame() -> bytes:
    """A PNG of 580 x 420 pixels, blurred so that it compresses like a real frame."""
    noise = np.random.default_rng(70).integers(0, 256, (420, 580), dtype=np.uint8)
    return cv2.imencode(".png", cv2.GaussianBlur(noise, (0, 0), 3))[1].tobytes()


def compare(bare: Callable[[], None], png: bytes) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120, trust_env=False) as client:
        wait_until_ready(client)

        def ask() -> None:
            client.post("/v1/segment", files={"frame": ("frame.png", png)}).raise_for_status()

        alone: list[float] = []
        one: list[float] = []
        many: list[float] = []
        busy = 0.0
        for work in (bare, ask):
            seconds(work)  # warm
        for _ in range(ROUNDS):
            alone += [seconds(bare) for _ in range(FRAMES)]
            one += [seconds(ask) for _ in range(FRAMES)]
            begun = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                many += pool.map(lambda _: seconds(ask), range(CLIENTS * FRAMES))
            busy += time.perf_counter() - begun
    report("bare scorer, 1 at a time", alone, len(alone) / sum(alone))
    report("predictor, 1 client", one, len(one) / sum(one))
    report(f"predictor, {CLIENTS} clients", many, len(many) / busy)
    ratio = np.median(one) / np.median(alone)
    print(f"p50 with 1 client: {ratio:.2f} x the bare scorer, limit {LIMIT} x")
    print(f"throughput with {CLIENTS} clients: {len(many) / busy * np.median(alone):.2f} x the bare scorer's median")


def wait_until_ready(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("The predictor did not start.")


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def report(name: str, latencies: list[float], rate: float) -> None:
    p50, p99 = (1000 * np.percentile(latencies, percent) for percent in (50, 99))
    print(f"{name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {rate:.1f} frames/s")


if __name__ == "__main__":
    main()
