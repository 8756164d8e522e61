"""How long split takes and how much memory, against decoding every image with all cores: prints ratios.

Usage: python -m benchmarks.split [--frames N] [--size WxH] [--rounds N] [--dataset ZIP]

A side is the split stage on a zip: it reads, decodes, checks, hashes and stores all frames and masks, and divides the
subjects. The peer only reads and decodes the same image files, frames and mask files, with Pillow in as many threads as
there are CPUs, and keeps nothing. Both take turns in every round, so that a busy machine slows both; the ratio is the
median of those of the rounds, and the first round, which warms the caches, is not counted. TIF are pairs of frame and
mask; PNG and JPEG have their masks as run lengths in a table; DICOM files, a JPEG each, have PNG masks beside them, and
the peer decodes them with pydicom.

Peak memory is that of a process of its own. What it takes for a frame does not depend on the frame's size, so the
defaults measure both parts: 400 frames of full size, and 50,000 of 32x32.
`--frames 50000 --memory-only` measures the whole, and needs 40 GB of disk.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from statistics import median

import cv2
import joblib
import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate

from benchmarks.command_line import parser_of
from nerveseg import params, paths
from nerveseg.arrays import Frame, Mask
from nerveseg.console import console
from nerveseg.data import rle
from nerveseg.data.archive import Archive
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, has_suffix
from nerveseg.params import Params
from nerveseg.stages import split

LIMIT = 1.5  # x the time of decoding
LIMIT_MB = 1000
MANY, TINY = 50_000, (32, 32)  # frames of this size, for the memory that each frame takes
PER_SUBJECT = 50
NOISE = 3000  # pixels by which the noise is larger than a frame, so that no two frames are alike
PARAMS = Path(__file__).parents[1] / "params.yaml"


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    os.environ.setdefault("NERVESEG_IDENTITY_KEY", "key of a benchmark")  # hashes the patients of DICOM files
    used = parameters()
    console.quiet = True
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        paths.DATASET_ZIP.parent.mkdir(parents=True)
        if options.dataset:
            paths.DATASET_ZIP.symlink_to(options.dataset)
            report(options.dataset.name, used, options.rounds)
            return
        if not options.memory_only:
            print(f"{options.frames} frames of {options.size[0]}x{options.size[1]}, {joblib.cpu_count()} CPUs")
            for suffix in ("tif", "png", "jpg", "dcm"):
                write(suffix, options.frames, options.size)
                report(suffix, used, options.rounds)
        sizes = [(options.frames, options.size)] + [(MANY, TINY)] * (not options.memory_only)
        for frames, size in sizes:
            write("png", frames, size)
            megabytes = peak_megabytes()
            verdict = "met" if megabytes <= LIMIT_MB else "missed"
            what = f"{frames} frames of {size[0]}x{size[1]}"
            print(f"peak memory, {what}: {megabytes:.0f} MB; limit {LIMIT_MB} MB: {verdict}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = parser_of("python -m benchmarks.split", __doc__)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), default=(580, 420), help="WxH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", type=lambda text: Path(text).resolve(), help="a zip of yours, instead of noise")
    parser.add_argument("--memory-only", action="store_true", help="measure the peak memory for --frames, no times")
    return parser.parse_args(arguments)


def parameters() -> Params:
    """params.yaml's own values, with all frames."""
    content = params.read_yaml(PARAMS)
    content["data"] |= {"frames": "all", "subject": "(?P<subject>[0-9]+)_[0-9]+"}
    return params.parse(content, "params")


def report(name: str, used: Params, rounds: int) -> None:
    ratios, seconds = [], []
    for number in range(rounds + 1):
        ours, peer = timed(lambda: split.run(used)), timed(decode)
        if number:
            ratios.append(ours / peer)
            seconds.append((ours, peer))
    ours, peer = (median(side) for side in zip(*seconds, strict=True))
    ratio = median(ratios)
    verdict = "met" if ratio <= LIMIT else "missed"
    print(
        f"{name:5} split {ours:.2f} s, decoding {peer:.2f} s, ratio {ratio:.2f}; limit {LIMIT}: {verdict}", flush=True
    )


def timed(run: object) -> float:
    start = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - start


def decode() -> None:
    """The peer: every image file of the zip."""
    with Archive(paths.DATASET_ZIP) as archive, ThreadPoolExecutor(joblib.cpu_count()) as pool:
        names = [name for name in archive.names if has_suffix(name, (*IMAGE_SUFFIXES, ".dcm"))]
        for _ in pool.map(lambda name: pixels(archive.read(name)), names):
            pass


def pixels(content: bytes) -> Frame:
    if content[128:132] == b"DICM":
        frame: Frame = pydicom.dcmread(io.BytesIO(content)).pixel_array
        return frame
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def write(suffix: str, frames: int, size: tuple[int, int]) -> None:
    """The dataset of `frames` frames: smoothed noise, each another part of it, with a disc as the nerve."""
    rows = []
    with zipfile.ZipFile(paths.DATASET_ZIP, "w") as archive:
        for name, frame, mask in drawn(frames, size):
            archive.writestr(f"{name}.{suffix}", dicom(frame, name) if suffix == "dcm" else encoded(frame, suffix))
            if beside := {"tif": "tif", "dcm": "png"}.get(suffix):
                archive.writestr(f"{name}_mask.{beside}", encoded(mask * 255, beside))
            else:
                rows.append((f"{name}.{suffix}", rle.encode(mask)))
        if rows:
            table = io.BytesIO()
            pd.DataFrame(rows, columns=["image", "rle_mask"]).to_parquet(table, index=False)
            archive.writestr("train.pq", table.getvalue())


def drawn(frames: int, size: tuple[int, int]) -> Iterator[tuple[str, Frame, Mask]]:
    width, height = size
    random = np.random.default_rng(0)
    rows, columns = height + NOISE, width + NOISE
    noise = cv2.GaussianBlur(random.normal(0, 400, (rows, columns)).astype(np.float32), (0, 0), 3)
    noise = np.clip(noise + 90, 0, 255).astype(np.uint8)
    for number in range(frames):
        top, left = random.integers(0, NOISE, 2)
        mask = np.zeros((height, width), np.uint8)
        centre = int(random.integers(width // 4, 3 * width // 4)), int(random.integers(height // 4, 3 * height // 4))
        cv2.circle(mask, centre, min(size) // 8, 1, -1)
        yield f"{number // PER_SUBJECT}_{number}", noise[top : top + height, left : left + width], mask


def encoded(image: Frame, suffix: str) -> bytes:
    return cv2.imencode(f".{suffix}", image)[1].tobytes()


def dicom(image: Frame, name: str) -> bytes:
    """An ultrasound file of one frame, compressed as JPEG."""
    height, width = image.shape
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.UltrasoundImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[name])
    file.PatientID = name.partition("_")[0]
    file.Rows, file.Columns = height, width
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = encapsulate([encoded(image, "jpg")])
    content = io.BytesIO()
    pydicom.dcmwrite(content, file, enforce_file_format=True)
    return content.getvalue()


def peak_megabytes() -> float:
    """Of a process that runs the stage on the dataset: what Linux says of it alone, without the process before it."""
    code = (
        "from benchmarks import split; split.split.run(split.parameters());"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PARAMS.parent), *sys.path])}
    command = (sys.executable, "-c", code)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout) * 1024 / 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
