"""Kills `dvc repro` at random moments, again and again, and compares what it ends with, with an uninterrupted one.

Usage: python -m benchmarks.kills [KILLS] [SEED]

The pipeline runs on a small phantom in a temporary workspace, in processes as users start them, with the default
number of loader workers and checkpoints within epochs. Its log is divided into parts: a stage each, and in train each
epoch and what follows the last one, where most kills go. A kill waits for the line that begins a part, then a random
share of that part's time, and sends SIGKILL to the whole process group. After some kills the pipeline runs to its
end: it must need no other command than `dvc repro`, started as `make run` starts it, and end with the weights, the
metrics, the curve and the MLflow runs of the uninterrupted one.

Prints a line for each such round, and how many kills each part got. The exit status is 1 if anything differed.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Timer
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from nerveseg import paths, profiles
from nerveseg.registry.versions import NAME
from nerveseg.workspace.commands import mend_rwlock

KILLS_A_ROUND = 5
EPOCHS = 6
SMALL: dict[str, Any] = {
    "phantom.subjects": 8,
    "phantom.frames_per_subject": 10,
    "phantom.height": 96,
    "phantom.width": 128,
    "model.encoder": "tu-test_resnet",
    "model.height": 64,
    "model.width": 64,
    "train.epochs": EPOCHS,
    "train.batch_size": 4,
    "evaluate.overlays": 2,
    "register.gate": "off",
}
MARKER = re.compile(r"Running stage '(?P<stage>\w+)'|^epoch +(?P<epoch>\d+) ")
START, LAST_EPOCH = "start of dvc", f"train, after epoch {EPOCHS}"
WEIGHTS = {LAST_EPOCH: 6.0}  # of the other parts: 1


@dataclass(frozen=True)
class Outcome:
    """What must not depend on kills: hashes, the states of all MLflow runs, and the number of registered versions."""

    weights: str
    metrics: str
    curve: str
    panels: str
    runs: tuple[str, ...]
    versions: int

    @classmethod
    def of(cls, root: Path) -> "Outcome":
        curve = pd.read_csv(root / paths.CURVE_CSV).drop(columns=["time", "images_per_second"])
        client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
        found = client.search_runs([each.experiment_id for each in client.search_experiments()])
        return cls(
            weights=digest((root / paths.MODEL_WEIGHTS).read_bytes()),
            metrics=digest((root / paths.METRICS_JSON).read_bytes()),
            curve=digest(curve.to_csv(index=False).encode()),
            panels=digest(b"".join(path.read_bytes() for path in sorted((root / paths.PANELS).iterdir()))),
            runs=tuple(sorted(run.info.status for run in found)),
            versions=len(client.search_model_versions(f"name = '{NAME}'")),
        )

    def differences(self, expected: "Outcome") -> list[str]:
        values = ((field.name, getattr(self, field.name), getattr(expected, field.name)) for field in fields(self))
        return [f"{name} {found}, not {wanted}" for name, found, wanted in values if found != wanted]


class Repro:
    """`dvc repro` in a workspace, in its own process group; iterates over the parts as they begin."""

    def __init__(self, root: Path) -> None:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "src"),
        }
        for name in ("MLFLOW_TRACKING_URI", "NERVESEG_WORKERS", "NERVESEG_CHECKPOINTS"):
            environment.pop(name, None)
        environment["NERVESEG_CHECKPOINT_SECONDS"] = "0.2"  # an epoch here takes about a second
        mend_rwlock(root)
        self.said: list[str] = []
        self.killed_in = ""  # the part
        self._process = subprocess.Popen(
            (sys.executable, "-m", "dvc", "repro"),
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, parts: Container[str] = (), after: float = 0) -> tuple[int, dict[str, float]]:
        """Waits for its end.

        Args:
            parts: it is killed in the first of them that begins.
            after: seconds from the beginning of that part to the kill.

        Returns:
            The exit status, and the seconds of each part.
        """
        begins: dict[str, float] = {}
        timer = Timer(after, os.killpg, (self._process.pid, signal.SIGKILL))

        def begin(part: str) -> None:
            begins[part] = time.monotonic()
            if part in parts and not self.killed_in:
                self.killed_in = part
                timer.start()

        begin(START)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.rstrip())
            if found := MARKER.search(line):
                begin(found["stage"] or f"train, after epoch {found['epoch']}")
        status = self._process.wait()
        timer.cancel()
        ends = [*list(begins.values())[1:], time.monotonic()]
        return status, {part: end - begin for (part, begin), end in zip(begins.items(), ends, strict=True)}


def main(kills: int, seed: int) -> int:
    """Returns the exit status."""
    began, done, differing = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh = workspace(folder / "fresh")
        expected, seconds = uninterrupted(fresh, folder / "expected")
        print(
            f"uninterrupted: {sum(seconds.values()):.0f} s, weights {expected.weights}, runs {expected.runs}",
            flush=True,
        )
        dice = np.random.default_rng(seed)
        number = 0
        while done.total() < kills:
            number += 1
            started, root = time.monotonic(), folder / f"round-{number}"
            shutil.copytree(fresh, root, symlinks=True)
            planned = plan(dice, seconds, min(KILLS_A_ROUND, kills - done.total()))
            killed, wrong = one_round(root, planned, expected)
            done.update(part for part, _ in killed)
            differing += bool(wrong)
            moments = "; ".join(f"{part} +{after:.1f} s" for part, after in killed)
            verdict = "DIFFERS: " + "; ".join(wrong) if wrong else "same"
            print(f"round {number:3} {time.monotonic() - started:4.0f} s  killed in: {moments}  {verdict}", flush=True)
            shutil.rmtree(root)
    for part in seconds:
        print(f"{done[part]:4} kills in {part}")
    minutes = (time.monotonic() - began) / 60
    print(f"{done.total()} kills in {number} rounds, {minutes:.0f} minutes: {differing} rounds differed")
    return int(bool(differing))


def workspace(root: Path) -> Path:
    """A git repository with the tracked files of this one and small parameters."""
    tracked = subprocess.run(("git", "ls-files", "-z"), check=True, capture_output=True, text=True).stdout.split("\0")
    for file in filter(None, tracked):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / file)
    profiles.override(SMALL, root / paths.PARAMS)
    identity = ("-c", "user.name=kills", "-c", "user.email=kills@localhost")
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "state")):
        subprocess.run(("git", *identity, *command), cwd=root, check=True)
    return root


def uninterrupted(fresh: Path, root: Path) -> tuple[Outcome, dict[str, float]]:
    """The outcome of one run without a kill, and the seconds of its parts."""
    shutil.copytree(fresh, root, symlinks=True)
    repro = Repro(root)
    status, seconds = repro.run()
    if status:
        raise SystemExit("`dvc repro` failed without a kill:\n" + "\n".join(repro.said[-20:]))
    return Outcome.of(root), seconds


def plan(dice: np.random.Generator, seconds: dict[str, float], kills: int) -> list[tuple[list[str], float]]:
    """Kills in the order of the pipeline, as for `Repro.run`: in a random part, or in a later one where that was before
    the resume; and the seconds to wait, at most that part's."""
    parts = list(seconds)
    weights = np.array([WEIGHTS.get(part, 1.0) for part in parts])
    chosen = sorted(dice.choice(len(parts), kills, p=weights / weights.sum()))
    return [(parts[place:], dice.uniform(0, seconds[parts[place]])) for place in chosen]


def one_round(
    root: Path, planned: list[tuple[list[str], float]], expected: Outcome
) -> tuple[list[tuple[str, float]], list[str]]:
    """Kills as planned, then runs to the end; returns the kills that took place, and what is not as expected.

    A kill does not take place if `dvc repro` ends sooner.
    """
    killed = []
    for parts, after in planned:
        repro = Repro(root)
        status, _ = repro.run(parts, after)
        if status == -signal.SIGKILL:
            killed.append((repro.killed_in, after))
        elif status:
            break  # the next run says why
    repro = Repro(root)
    if repro.run()[0]:
        return killed, ["`dvc repro` failed: " + " | ".join(repro.said[-6:])]
    return killed, Outcome.of(root).differences(expected)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    sys.exit(main(*(given + [100, 70][len(given) :])))
