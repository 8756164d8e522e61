"""Training by nerveseg, Lightning with smp, fastai, MONAI and nnU-Net: the same frames, size, batches and epochs.

    python -m benchmarks.peers                              the built-in phantom
    python -m benchmarks.peers --dataset DATASET.zip --size 192x256 --epochs 5
    python -m benchmarks.peers --skip fastai --skip nnunet

Each library trains in its recommended way, in benchmarks/peers/NAME.py, in a virtual environment that this makes from
benchmarks/peers/LIBRARY.txt under `--cache`, with the versions of requirements.lock for everything else; the first run
needs the network. nerveseg trains here. No side has ImageNet weights. Images/s are the median of the epochs without the
first one; minutes are those of training steps and of waiting for frames, in whole epochs, without start-up and scoring.
Every side is scored by the same formula. The exit status is 1 if a side that is not skipped did not train.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import quality
from benchmarks.command_line import parser_of
from benchmarks.peers.common import DEVICE, Task
from nerveseg.console import console, readable_errors
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.model.frames import resize
from nerveseg.params import load
from nerveseg.phantom import dataset as phantom

OURS = "nerveseg"
NAMES = {
    OURS: "nerveseg",
    "lightning": "Lightning + smp",
    "fastai": "fastai",
    "monai": "MONAI",
    "monai_resnet34": "MONAI, resnet34",
    "nnunet": "nnU-Net",
}
FOLDER = Path(__file__).parent
LOCK = Path("requirements.lock")


class FailedError(Exception):
    """A side did not train; says why."""


@dataclass(frozen=True)
class Side:
    """What a side has done.

    Attributes:
        version, precision: of its library and of its training.
        parameters: of its network.
        epochs: the rows of its curve, with seconds, images_per_second and dice.
    """

    version: str
    precision: str
    parameters: int
    epochs: list[dict[str, float]]

    @classmethod
    def read(cls, curve: Path) -> "Side":
        about, *epochs = (json.loads(line) for line in curve.read_text().splitlines())
        return cls(**about, epochs=epochs)

    @property
    def rate(self) -> float:
        """Images/s: the median of the epochs, without the first if there are more."""
        return median(epoch["images_per_second"] for epoch in self.epochs[1:] or self.epochs)

    def minutes_to(self, dice: float) -> float | None:
        """Minutes of training until a Dice is reached; None: it is not."""
        return next((epoch["seconds"] / 60 for epoch in self.epochs if epoch["dice"] >= dice), None)


def task_of(store: FrameStore, size: tuple[int, int], batch: int, epochs: int, seed: int) -> Task:
    """The training and validation frames at a size (height, width), as nerveseg resizes them; no test frames."""
    sides = []
    for split in ("train", "validation"):
        rows = store.rows(split).tolist()
        frames = [resize(store.frame(row), *size) for row in rows]
        masks = [resize(store.mask(row).astype(np.float32), *size) >= 0.5 for row in rows]
        sides += [np.stack(frames), np.stack(masks).astype(np.uint8)]
    if len(sides[0]) < batch:
        raise NervesegError(f"{len(sides[0])} training frames do not fill one batch: lower --batch ({batch}).")
    return Task(*sides, batch, epochs, seed)


def environment(name: str, cache: Path) -> Path:
    """The interpreter of a library's virtual environment, which is made unless it is there.

    Sides whose names begin alike, such as `monai` and `monai_resnet34`, share one.

    uv links the files of torch and others to those in its cache: a second environment with them costs hardly any disk.

    Raises:
        FailedError: the packages cannot be installed.
    """
    name = name.partition("_")[0]
    wanted = FOLDER / f"{name}.txt"
    digest = hashlib.sha256(b"\0".join([sys.version.encode(), wanted.read_bytes(), LOCK.read_bytes()])).hexdigest()[:8]
    folder = cache / f"{name}-{digest}"
    interpreter, installed = folder / "bin" / "python", folder / ".installed"
    if not installed.exists():
        console.print(f"installing {wanted.name} into {folder}", soft_wrap=True)
        uv, log = (sys.executable, "-m", "uv"), cache / f"{name}.log"
        _call((*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)), log)
        constraints = folder / "constraints.txt"
        constraints.write_text(others(LOCK.read_text(), wanted.read_text()))
        packages = ("--requirement", str(wanted), "--constraint", str(constraints))
        _call((*uv, "pip", "install", "--quiet", "--python", str(interpreter), *packages), log)
        installed.touch()
    return interpreter


def others(lock: str, pins: str) -> str:
    """The lines of a lock file but those of the packages that `pins`, lines such as `name==1.0`, have themselves."""
    own = {line.partition("==")[0] for line in pins.splitlines()}
    return "".join(line for line in lock.splitlines(keepends=True) if line.partition("==")[0] not in own)


def train(name: str, task: Path, cache: Path) -> Side:
    """Trains in a process of its own. Raises FailedError."""
    interpreter = sys.executable if name == OURS else environment(name, cache)
    with tempfile.TemporaryDirectory() as folder:
        curve = Path(folder) / "curve.jsonl"
        command = (str(interpreter), "-m", f"benchmarks.peers.{name}", str(task), str(curve))
        _call(command, cache / f"{name}.log")
        return Side.read(curve)


def _call(command: Sequence[str], log: Path) -> None:
    """Runs a command; what it prints goes into a file."""
    # nerveseg sets the waiting of threads for its own process, as it does wherever it is imported.
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=variables)
    if done.returncode:
        last = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise FailedError(f"exit code {done.returncode}: {''.join(last)} (all of it is in {log})")


def table(sides: dict[str, Side], dice: float) -> str:
    """A Markdown table of the sides that have trained."""
    lines = [
        f"| | version | parameters | precision | images/s | of nerveseg's | minutes to Dice {dice:g} | Dice at the end "
        "| minutes in all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, side in sides.items():
        minutes, last = side.minutes_to(dice), side.epochs[-1]
        cells: list[Any] = [
            NAMES[name],
            side.version,
            f"{side.parameters / 1e6:.1f} M",
            side.precision,
            f"{side.rate:.1f}",
            f"{side.rate / sides[OURS].rate:.2f}" if OURS in sides else "",
            "not reached" if minutes is None else f"{minutes:.2f}",
            f"{last['dice']:.3f}",
            f"{last['seconds'] / 60:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("benchmarks.peers", __doc__)
    add = parser.add_argument
    add("--dataset", type=Path, metavar="ZIP", help="a dataset zip; the built-in phantom if left out")
    add("--size", default="96x128", metavar="HEIGHTxWIDTH", help="multiples of 32")
    add("--batch", type=int, default=16)
    add("--epochs", type=int, default=3)
    add("--seed", type=int, default=70)
    add("--dice", type=float, default=0.7, help="of the validation frames, to which minutes are counted")
    add("--skip", action="append", default=[], choices=NAMES, help="leaves a side out; may be given again")
    add("--cache", type=Path, default=Path(".cache/peers"), help="folder of environments, logs and packed frames")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    params = load()
    cache = options.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    height, width = (int(side) for side in options.size.split("x"))
    sides: dict[str, Side] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        dataset = options.dataset
        if dataset is None:
            dataset = cache / "phantom.zip"
            phantom.write(dataset, params.phantom)
        store = FrameStore.open(quality.pack(dataset, params, cache))
        task = task_of(store, (height, width), options.batch, options.epochs, options.seed)
        task.write(Path(name) / "task.npz")
        for side in (side for side in NAMES if side not in options.skip):
            console.print(f"{NAMES[side]} trains")
            try:
                sides[side] = train(side, Path(name) / "task.npz", cache)
            except FailedError as error:
                failures[side] = str(error)
    print(
        f"{len(task.frames)} frames for training and {len(task.unseen)} for validation, {height}x{width}, batches of "
        f"{task.batch}, {task.epochs} epochs, on {DEVICE}\n"
    )
    print(table(sides, options.dice))
    for side in options.skip:
        print(f"\n{NAMES[side]} was skipped.")
    for side, reason in failures.items():
        print(f"\n{NAMES[side]} did not train: {reason}")
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    with readable_errors():
        main()
