"""How long `nerveseg dataset inspect` takes to say which layout a zip has: prints seconds and a ratio.

Usage: python -m benchmarks.inspection [NAMES]

A side is the command in a process of its own, from its start until the line with the layout and why; then it is
ended, before the checks. The peer, also in a process of its own, only lists the zip by
`zipfile.ZipFile(path).infolist()`. Both take turns in every round, so that a busy machine slows both, and the first
round, which warms the disk cache, is not counted.
"""

import io
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median

import pandas as pd

LIMIT = 3.0  # seconds
ROUNDS = 3
COMMAND = "from nerveseg.cli import app; app()"
PEER = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).infolist()"


def main(names: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("table", "pairs"):
            path = write(Path(folder) / f"{layout}.zip", names, layout)
            times = [(seconds_to_layout(path), seconds_to_list(path)) for _ in range(ROUNDS + 1)][1:]
            ours, peer = (median(side) for side in zip(*times, strict=True))
            ratio = median(one / other for one, other in times)
            verdict = "met" if ours <= LIMIT else "missed"
            print(
                f"{names} names, {layout}: layout after {ours:.2f} s, infolist {peer:.2f} s, ratio {ratio:.2f}; limit "
                f"{LIMIT:g} s: {verdict}",
                flush=True,
            )


def write(path: Path, names: int, layout: str) -> Path:
    """A zip of so many names: images with a table that lists them, or half as many pairs of frame and mask."""
    with zipfile.ZipFile(path, "w") as archive:
        if layout == "pairs":
            for number in range(names // 2):
                for ending in ("", "_mask"):
                    archive.writestr(f"train/{number // 100}_{number}{ending}.tif", b"")
        else:
            images = [f"{number // 100}_{number}.png" for number in range(names)]
            for image in images:
                archive.writestr(f"images/{image}", b"")
            table = io.BytesIO()
            pd.DataFrame({"image": images, "rle_mask": "1 5"}).to_parquet(table, index=False)
            archive.writestr("train.pq", table.getvalue())
    return path


def seconds_to_layout(path: Path) -> float:
    start = time.perf_counter()
    command = (sys.executable, "-c", COMMAND, "dataset", "inspect", path, "--out", path.with_suffix(".html"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = any(line.startswith("Layout") for line in process.stderr)
        spent = time.perf_counter() - start
        process.kill()
    if not found:
        raise SystemExit(f"no layout was found in {path}")
    return spent


def seconds_to_list(path: Path) -> float:
    start = time.perf_counter()
    subprocess.run((sys.executable, "-c", PEER, path), check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
