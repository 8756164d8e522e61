"""How long each stage takes to start, against the libraries it cannot do without: prints seconds and ratios.

Usage: python -m benchmarks.startup [ROUNDS]

A start is `python -c "import ..."` in a fresh process. The peer is the import of torch, segmentation_models_pytorch,
lightning.pytorch and mlflow alone, which train needs whatever we do. All of them run in turns in every round, so that
a busy machine slows both sides, and CPU time (user and system) stands beside wall time, which other processes disturb
more; a ratio is the median of those of the rounds. The first round warms the disk cache and is not counted.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median

import nerveseg.stages

PEER = "import torch, segmentation_models_pytorch, lightning.pytorch, mlflow"
LIMITS = {"train": 1.3, "evaluate": 1.3}  # x the peer's CPU time
LIMITS_SECONDS = {"download": 1.5, "split": 1.5}


def main(rounds: int) -> None:
    stages = sorted(file.stem for file in Path(nerveseg.stages.__path__[0]).glob("[!_]*.py"))
    codes = {"libraries": PEER}
    codes |= {stage: f"import nerveseg.stages.{stage}" for stage in stages}
    codes["nerveseg --help"] = "import sys; sys.argv = ['nerveseg', '--help']; from nerveseg.cli import app; app()"
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in codes}
    for turn in range(rounds + 1):
        for name, code in codes.items():
            measured = seconds(code)
            if turn:
                starts[name].append(measured)
    walls = {name: median(wall for wall, _ in measured) for name, measured in starts.items()}
    cpus = {name: median(cpu for _, cpu in measured) for name, measured in starts.items()}
    print(f"median of {rounds}; libraries: {PEER}")
    print(f"{'':16} {'wall s':>7} {'CPU s':>7} {'CPU / libraries':>16}  limit")
    for name in codes:
        ratio = median(cpu / peer for (_, cpu), (_, peer) in zip(starts[name], starts["libraries"], strict=True))
        print(
            f"{name:16} {walls[name]:7.2f} {cpus[name]:7.2f} {ratio:16.2f}  {verdict(name, ratio, cpus[name])}".rstrip()
        )


def verdict(name: str, ratio: float, cpu: float) -> str:
    if name in LIMITS:
        return f"{LIMITS[name]:g} x: {'met' if ratio <= LIMITS[name] else 'missed'}"
    if name in LIMITS_SECONDS:
        return f"{LIMITS_SECONDS[name]:g} s: {'met' if cpu <= LIMITS_SECONDS[name] else 'missed'}"
    return ""


def seconds(code: str) -> tuple[float, float]:
    """Wall and CPU (user and system) time of a fresh Python process that runs `code`."""
    discarded = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    start = time.perf_counter()
    process = os.posix_spawn(sys.executable, (sys.executable, "-c", code), os.environ, file_actions=discarded)
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"`{code}` failed with exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
