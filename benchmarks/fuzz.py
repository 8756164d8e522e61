"""Feeds damaged and odd zips, tables, run lengths and images to the split stage; what is not a clear error is listed.

Usage: python -m benchmarks.fuzz [NUMBER] [SEED]

Input K of a run is made from SEED + K alone, so `python -m benchmarks.fuzz 1 SEED+K` repeats a single one and shows its
traceback. All inputs are read by one process at a time, with a limit on its memory. Only a NervesegError may come out
of the stage, and only a ValueError out of `rle.decode`. Anything else is a fault: another exception, the death of the
process, an input that takes long, a store that cannot be opened, or files left behind by a refusal. The exit status is
1 if there was any.
"""

import gzip
import io
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nerveseg import params, paths
from nerveseg.console import console
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.params import Params
from nerveseg.stages import split

MEMORY = 2**30  # bytes that an input may take: small files that need more are bombs
SECONDS, SECONDS_TO_START = 20.0, 300.0  # that an input may take, and a process
PER_PROCESS = 10_000  # inputs, so that what the allocators keep does not add up
ACCEPTED, REFUSED, FAULT = OUTCOMES = ("accepted", "refused", "fault")
SIDE = 32  # pixels: the smallest frame that is accepted
SUBJECTS = 4

Random = np.random.Generator
Members = dict[str, bytes]
ODD_NAMES = (
    *("1_1.png", "1_1", "_", "__", "1_", "_1.png", ".png", "", " ", "a/../1_1.png", "../1_1.png", "/1_1.png"),
    *("C:\\x\\1_1.png", "1_1.PNG", "1_1.png/", "\N{LATIN SMALL LETTER E WITH ACUTE}_1.png", "e\u0301_1.png"),
    *("1_\x00.png", "1\n_1.png", "\u202e1_1.png", "\ud800_1.png", "1" * 300 + "_1.png", "1_" + "9" * 5000 + ".png"),
    *("\u0661_\u0662.png", "\u00b2_1.png", "nan", "1_1_mask.png", "_mask.tif", "1_1_mask_mask.tif", "train.csv"),
    *("x.pq", "masks/1_1.png", "images/1_1.png", "1_1_mask_1.tif", "1_1_mask_nerve.bmp", "d/imagesTr/1_1_0001.png"),
)
ODD_CELLS = (
    *(None, "", " ", "nan", "None", "-1", "0", "1", "1 1", "1  2", "1 2 3", "0 5", "-1 -1", "1 -5", "1 0", "5 1 4 3"),
    *("1.0 2.0", "1e3 2", "a b", "1,2", "[1, 2]", "1 99999999999999999999", "\u0661 \u0662", "\x00", "1\t2"),
    *("9" * 5000, "x" * 70_000),
    *("1 1024", "1 1025", "1024 1", "1 1 2 1", "1 2 2 2", " ".join(["1 1"] * 3000), "\ud800", "e\u0301"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(0, -1, 2**63 - 1, -(2**63), 1.5, float("nan"), float("inf"), True, b"1 1", b"\xff\xfe", [1, 2], [], ["1 1"]),
    *({"a": 1}, {}, pd.Timestamp(0), pd.Timedelta(1), 10**30),
)


class FaultError(Exception):
    """The input was accepted or refused in a wrong way."""


def main(number: int, seed: int) -> int:
    """Reads the inputs SEED to SEED + NUMBER - 1; returns the exit status."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # Arrow's own pool reserves a GiB at once
    began, counts = time.monotonic(), Counter[str]()

    def count(place: int, kind: str, outcome: str) -> None:
        if outcome not in OUTCOMES:
            print(f"seed {place}: {outcome if number == 1 else outcome.strip().splitlines()[-1]}", flush=True)
            outcome = FAULT
        counts[f"{kind}: {outcome}"] += 1

    at = seed
    while at < seed + number:
        at = _in_a_process(at, min(at + PER_PROCESS, seed + number), count)
    for name, times in sorted(counts.items()):
        print(f"{times:8} {name}")
    faults = sum(times for name, times in counts.items() if name.endswith(FAULT))
    print(f"{number} inputs from seed {seed} in {time.monotonic() - began:.0f} s: {faults} faults")
    return int(bool(faults))


def _in_a_process(at: int, end: int, count: Callable[[int, str, str], None]) -> int:
    """Reads inputs from `at` on in a new process, up to `end` or until it dies; returns the next one to read."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_read_all, args=(at, end, sender))
    worker.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS_TO_START):
            raise SystemExit("the process that reads does not start")
        receiver.recv()
        while at < end:
            if not receiver.poll(SECONDS):
                worker.kill()
                count(at, "any", f"it takes more than {SECONDS:g} s")
                return at + 1
            count(at, *receiver.recv())
            at += 1
    except EOFError:
        worker.join()
        count(at, "any", f"the process died with exit status {worker.exitcode}")
        return at + 1
    finally:
        worker.join(SECONDS)
    return at


def _read_all(at: int, end: int, sender: Connection) -> None:
    """Reads the inputs in an own folder, and sends the kind and the outcome of each."""
    console.quiet = True
    warnings.simplefilter("ignore")
    given = params.load(Path(paths.PARAMS))
    # Not RLIMIT_AS: every thread's allocator reserves 64 MiB of addresses that it does not use.
    limit = psutil.Process().memory_info().data + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        paths.DATASET_ZIP.parent.mkdir(parents=True)
        sender.send("ready")
        for seed in range(at, end):
            random = np.random.default_rng(seed)
            kind = str(random.choice(list(KINDS), p=SHARES))
            try:
                outcome = KINDS[kind](random, given)
            except BaseException:
                outcome = traceback.format_exc()
            sender.send((kind, outcome))
        os.chdir("/")


def read_runs(random: Random, _: Params) -> str:
    """Decodes run lengths of a frame."""
    height, width = (int(side) for side in random.integers(1, 40, 2))
    try:
        found = rle.decode(_runs(random, height, width), height, width)
    except ValueError:
        return REFUSED
    if found.dtype != np.uint8 or found.shape != (height, width) or found.max(initial=0) > 1:
        raise FaultError(f"{found.dtype} {found.shape} up to {found.max(initial=0)} is not a mask")
    if not np.array_equal(rle.decode(rle.encode(found), height, width), found):
        raise FaultError("it decodes to what does not encode to it")
    return ACCEPTED


def read_zip(random: Random, given: Params) -> str:
    """Damages the zip itself, or the names in it."""
    members = _sound(random)
    if random.random() < 0.5:
        return _split(random, given, _damaged(random, _zip(members)))
    names = list(members)
    for _ in range(random.integers(1, 3)):
        old, new = random.choice(names), str(random.choice(ODD_NAMES))
        if old in members:
            members[f"{random.choice(['', 'images/', 'a/b/'])}{new}"] = members.pop(old)
    return _split(random, given, _zip(members))


def read_table(random: Random, given: Params) -> str:
    """Damages the table, or gives it odd cells, types and columns."""
    return _split(random, given, _zip(_hydrogen_torch(random, table=_odd_table(random))))


def read_images(random: Random, given: Params) -> str:
    """Damages frames and masks, or gives them odd modes."""
    members = _sound(random)
    images = [name for name in members if not name.endswith((".csv", ".json"))]
    for name in random.choice(images, size=random.integers(1, 3)):
        content = _odd_image(random, str(random.choice(["PNG", "TIFF", "JPEG", "BMP"])))
        members[str(name)] = _damaged(random, content) if random.random() < 0.7 else content
    return _split(random, given, _zip(members))


KINDS: dict[str, Callable[[Random, Params], str]] = {
    "runs": read_runs,
    "zip": read_zip,
    "table": read_table,
    "images": read_images,
}
SHARES = (0.55, 0.1, 0.2, 0.15)  # of the inputs, by kind: run lengths take a hundredth of the time of the others


def _split(random: Random, given: Params, content: bytes) -> str:
    """Runs the split stage on a zip with this content."""
    shutil.rmtree(paths.PACKED, ignore_errors=True)
    paths.DATASET_ZIP.write_bytes(content)
    changes: dict[str, Any] = {"by": str(random.choice(["subject", "frame"])), "validation": 0.25, "test": 0.25}
    if random.random() < 0.2:
        changes = {"by": "fold", "validation_fold": 0, "test_fold": 1}
    wanted = given.model_dump(by_alias=True)
    wanted["split"] |= changes
    wanted["data"]["frames"] = str(random.choice(["all", "nonempty"]))
    try:
        split.run(params.parse(wanted, "fuzz"))
    except NervesegError as error:
        if not str(error).strip():
            raise FaultError("an error without a message") from None
        if left := [path.name for path in paths.PACKED.parent.iterdir() if "packed" in path.name]:
            raise FaultError(f"a refusal left {left}") from None
        return REFUSED
    store = FrameStore.open(paths.PACKED)
    if not len(store) or any(store.mask(row).max() > 1 for row in range(len(store))):
        raise FaultError("the store is empty, or its masks are not 0 and 1")
    return ACCEPTED


def _damaged(random: Random, content: bytes) -> bytes:
    """Some bytes changed, removed, repeated or cut off."""
    found = bytearray(content)
    for _ in range(random.integers(1, 5)):
        if not found:
            break
        place = int(random.integers(len(found)))
        if random.random() < 0.3:  # headers and directories stand at the ends
            place = place % 64 if random.random() < 0.5 else len(found) - 1 - place % min(200, len(found))
        size = int(random.integers(1, 9))
        what = random.integers(6)
        if what == 0:
            found[place] ^= 1 << int(random.integers(8))
        elif what == 1:
            found[place : place + size] = random.bytes(size)
        elif what == 2:
            extreme = int(random.choice([0, 1, 0x7F, 0x80, 0xFF])).to_bytes(1, "little")
            found[place : place + size] = extreme * size
        elif what == 3:
            del found[place : place + size * 4]
        elif what == 4:
            found[place:place] = found[place : place + size * 4]
        elif random.random() < 0.3:
            del found[place:]
    return bytes(found)


def _pixels(random: Random) -> np.ndarray:
    return random.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)


def _mask(random: Random) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    top, left = random.integers(0, SIDE - 8, 2)
    mask[top : top + 8, left : left + 8] = 255
    return mask


def _image(pixels: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=suffix)
    return buffer.getvalue()


def _odd_image(random: Random, suffix: str) -> bytes:
    image = Image.fromarray(_pixels(random) if random.random() < 0.5 else _mask(random))
    mode = str(random.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "PA", "YCbCr", "HSV"]))
    options: dict[str, Any] = {}
    if random.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = int(random.integers(0, 12))
        options["exif"] = exif
    if suffix == "TIFF" and random.random() < 0.1:
        options |= {"save_all": True, "append_images": [image]}
    buffer = io.BytesIO()
    try:
        image.convert(mode).resize(tuple(random.integers(1, 70, 2).tolist())).save(buffer, format=suffix, **options)
    except (OSError, ValueError):  # a mode that the format lacks
        image.save(buffer, format=suffix)
    return buffer.getvalue()


def _sound(random: Random) -> Members:
    """A sound dataset in any layout."""
    layouts = (_pairs, _hydrogen_torch, _nnunet)
    return layouts[random.integers(len(layouts))](random)


def _pairs(random: Random) -> Members:
    members = {}
    if random.random() < 0.3:
        for subject in range(SUBJECTS):
            members[f"images/{subject}_1.png"] = _image(_pixels(random), "PNG")
            members[f"masks/nerve/{subject}_1.bmp"] = _image(_mask(random), "BMP")
        return members
    for subject in range(SUBJECTS):
        members[f"train/{subject}_1.tif"] = _image(_pixels(random), "TIFF")
        members[f"train/{subject}_1_mask.tif"] = _image(_mask(random), "TIFF")
    return members


def _nnunet(random: Random) -> Members:
    """Of PNG or NIfTI files; dataset.json may be odd."""
    ending = str(random.choice([".png", ".nii.gz"]))
    members = {}
    for subject in range(SUBJECTS):
        members[f"d/imagesTr/{subject}_1_0000{ending}"] = _file(_pixels(random), ending)
        members[f"d/labelsTr/{subject}_1{ending}"] = _file(_mask(random) // 255, ending)
    described: dict[str, Any] = {
        "labels": {"background": 0, "nerve": 1},
        "numTraining": SUBJECTS,
        "file_ending": ending,
    }
    if random.random() < 0.3:
        odd = (None, -1, 1.5, True, [], {}, "", "1", [0, 1], {"0": "nerve"}, {"nerve": [1, [2]]}, 10**30)
        described[str(random.choice(list(described)))] = odd[random.integers(len(odd))]
    content = json.dumps(described).encode()
    return members | {"d/dataset.json": _damaged(random, content) if random.random() < 0.2 else content}


def _file(pixels: np.ndarray, ending: str) -> bytes:
    if ending == ".png":
        return _image(pixels, "PNG")
    return gzip.compress(nibabel.Nifti1Image(pixels.T[..., np.newaxis], np.eye(4)).to_bytes())


def _hydrogen_torch(random: Random, table: Members | None = None) -> Members:
    sound = _sound_table(random)
    images = {f"images/{name}": _image(_pixels(random), "PNG") for name in sound["image"]}
    return (table or {"train.csv": pd.DataFrame(sound).to_csv(index=False).encode()}) | images


def _sound_table(random: Random) -> dict[str, list[Any]]:
    names = [f"{subject}_1.png" for subject in range(SUBJECTS)]
    masks = [rle.encode(_mask(random)) for _ in names]
    return {"image": names, "class_id": [0] * SUBJECTS, "rle_mask": masks, "fold": list(range(SUBJECTS))}


def _odd_table(random: Random) -> Members:
    """A sound table with one to three oddities, as CSV or parquet."""
    columns = _sound_table(random)
    for _ in range(random.integers(1, 4)):
        name = str(random.choice(list(columns)))
        row = int(random.integers(len(columns[name])))
        what = random.integers(6)
        if what == 0:
            columns[name][row] = ODD_NAMES[random.integers(len(ODD_NAMES))]
        elif what == 1:
            columns[name][row] = _runs(random, SIDE, SIDE)
        elif what == 2:
            value = ODD_VALUES[random.integers(len(ODD_VALUES))]
            columns[name] = [value if random.random() < 0.9 else None for _ in columns[name]]
        elif what == 3:
            columns[str(random.choice([name.upper(), f" {name}", "subject", "site", "\x00"]))] = columns[name]
        elif what == 4:
            columns = {each: [*column, column[row]] for each, column in columns.items()}
        elif len(columns) > 1 and random.random() < 0.3:
            del columns[name]
    if random.random() < 0.01:
        return {"train.pq": _bomb(_sound_table(random)["image"])}
    try:
        if random.random() < 0.5:
            name, content = "train.pq", _parquet(random, columns)
        else:
            name, content = "train.csv", pd.DataFrame(columns).to_csv(index=False).encode()
    except (pa.ArrowException, UnicodeError, OverflowError):  # values that neither can hold
        name, content = "train.csv", repr(columns).encode(errors="replace")
    return {name: _damaged(random, content) if random.random() < 0.3 else content}


def _parquet(random: Random, columns: dict[str, list[Any]]) -> bytes:
    arrays = [pa.array(column) for column in columns.values()]
    if random.random() < 0.2:
        arrays = [array.dictionary_encode() for array in arrays]
    buffer = io.BytesIO()
    compression = str(random.choice(["NONE", "SNAPPY", "GZIP", "ZSTD"]))
    pq.write_table(pa.table(arrays, list(columns)), buffer, compression=compression)
    return buffer.getvalue()


def _bomb(names: list[str]) -> bytes:
    """A parquet file of a few kB whose run lengths take 2 GB: a dictionary of one long text for a million rows."""
    rows = 10**6
    text = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [" ".join(["1 1"] * 500)])
    images = pa.DictionaryArray.from_arrays(np.arange(rows, dtype=np.int32) % len(names), names)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "rle_mask": text}), buffer)
    return buffer.getvalue()


def _runs(random: Random, height: int, width: int) -> str:
    if random.random() < 0.3:
        return rle.encode(random.random((height, width)) < random.random())
    if random.random() < 0.2:
        return str(ODD_CELLS[random.integers(len(ODD_CELLS))] or "")
    size = height * width
    numbers = random.integers(-2 if random.random() < 0.3 else 1, max(size // 4, 2), 2 * random.integers(1, 5))
    text = " ".join(map(str, np.sort(numbers) if random.random() < 0.5 else numbers))
    if random.random() < 0.3:
        return _damaged(random, text.encode()).decode(errors="replace")
    return text


def _zip(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that are there twice
        for name, content in members.items():
            archive.writestr(name.encode(errors="replace").decode() or "x", content)
    return buffer.getvalue()


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    sys.exit(main(*(given + [100_000, 70][len(given) :])))
