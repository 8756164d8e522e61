"""Predicts a batch of frames, shard by shard.

In the output, a folder or an S3 prefix, each model has its own folder:

    VERSION/predictions.parquet    one row per frame (SCHEMA), in the order of the frames' names
    VERSION/masks/, overlays/      one PNG per frame
    VERSION/index.json             summary of the batch
    VERSION/input.json             the only input this output accepts
    VERSION/shards/                one file per shard, named after a digest of its frames and the model
    VERSION/model/                 the exported network, if workers are on other machines

A shard's file is written after its masks. So after an interrupted run, the next one predicts only what is missing; and
if frames were added at the end, it predicts only the last shard and the new ones.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nerveseg.arrays import Floats, Ints, Mask, Probability
from nerveseg.data import rle
from nerveseg.data.archive import decode_grey
from nerveseg.errors import ChangedError, NervesegError, TransientError
from nerveseg.evaluation import metrics
from nerveseg.model.spec import SPEC_FILE
from nerveseg.prediction import drift, pictures
from nerveseg.prediction.inputs import Frames, mask_name, open_frames
from nerveseg.prediction.openvino import ONNX_FILE, OpenVinoScorer
from nerveseg.storage import Entry, Storage, open_storage

PREDICTIONS = "predictions.parquet"
INDEX = "index.json"
INPUT = "input.json"
SHARDS = "shards/"
SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # name relative to the input
        ("rle_mask", pa.string()),  # run lengths from data/rle.py; empty: no nerve
        ("area", pa.int64()),  # pixels
        ("confidence", pa.float64()),  # mean probability within the mask; null: no nerve
        ("atypicality", pa.float64()),  # in [0, 1]; null: an older model, without plausibility
        ("height", pa.int32()),  # pixels
        ("width", pa.int32()),
        ("model_version", pa.string()),
    ]
)
_MORE = b"nerveseg"  # key in a shard's metadata for grey levels and unreadable frames
_ROWS = 10_000  # per row group, independent of the shards
_loading = Lock()


@dataclass(frozen=True)
class Batch:
    """What all shards of a batch share; small, because it is sent to every worker.

    Attributes:
        frames: s3://bucket/prefix, a folder or a zip.
        output: the model's own folder or prefix.
        model: folder or prefix with the exported network, model.onnx and model.json.
        model_version: the model's name in the predictions.
        weights: SHA-256 of the weights.
        overlays: whether overlays are drawn.
    """

    frames: str
    output: str
    model: str
    model_version: str
    weights: str
    overlays: bool

    def digest(self, entries: Sequence[Entry]) -> str:
        """64 hexadecimal digits that change with the frames, the model, the columns and whether overlays are drawn."""
        content = [self.weights, self.overlays, SCHEMA.names, *((entry.name, entry.stamp) for entry in entries)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass
class Summary:
    """Summary of a predicted batch.

    Attributes:
        figures: statistics of the predicted frames, for drift.
        unreadable: (name, reason) pairs.
    """

    figures: drift.Figures
    unreadable: list[tuple[str, str]]


def claim(batch: Batch, uri: str) -> None:
    """Reserves an output for one input, permanently: masks of two inputs would overwrite each other.

    Raises:
        NervesegError: the output has predictions for another input, or is inside its own input.
    """
    inside = f"{batch.output}/".startswith(f"{batch.frames.rstrip('/')}/")
    if inside:
        raise NervesegError(
            f"{batch.output} is inside its input, so its masks would become frames. Use another output."
        )
    output = open_storage(batch.output)
    try:
        output.replace(INPUT, json.dumps({"input": uri}).encode(), None)
    except ChangedError:
        former = json.loads(output.read(INPUT)[0])["input"]
        if former != uri:
            raise NervesegError(
                f"{batch.output} has predictions for {former}, not for {uri}: use another output."
            ) from None


def divide(entries: Sequence[Entry], size: int) -> list[tuple[Entry, ...]]:
    """Divides frames into shards of `size`; the last one may be smaller."""
    return [tuple(entries[first : first + size]) for first in range(0, len(entries), size)]


def missing(batch: Batch, shards: Sequence[tuple[Entry, ...]]) -> list[tuple[Entry, ...]]:
    """The shards that have not been predicted yet."""
    done = {entry.name for entry in open_storage(batch.output).entries(SHARDS)}
    return [shard for shard in shards if _shard_name(batch, shard) not in done]


def predict_shard(batch: Batch, entries: Sequence[Entry], threads: int) -> None:
    """Predicts the frames of a shard and writes masks, overlays and, last, the shard's file.

    Args:
        threads: CPU threads this process may use; the same number of shards run at once in it.

    Raises:
        NervesegError: a storage failed or denied access. A frame that cannot be decoded is listed, not an error.
    """
    output = _storage(batch.output)
    scorer = _scorer(batch.model, batch.weights, threads)
    frames = _frames(batch.frames, _stamp(batch.frames))
    grey = np.zeros(drift.LEVELS, np.int64)
    rows, unreadable = [], []
    for entry in entries:
        try:
            frame, _ = decode_grey(frames.read(entry.name)[0])
        except FileNotFoundError:  # an unmounted share; or it was deleted, and the next listing will not have it
            raise TransientError(f"{batch.frames}: {entry.name} has disappeared since it was listed.") from None
        except ValueError as error:
            unreadable.append((entry.name, str(error)))
            continue
        probability = scorer.probability(frame)
        mask = scorer.mask(probability)
        output.write(f"masks/{mask_name(entry.name)}", pictures.mask_png(mask))
        if batch.overlays:
            output.write(f"overlays/{mask_name(entry.name)}", pictures.overlay_png(frame, mask))
        grey += drift.grey_levels(frame)
        rows.append(row(entry.name, probability, mask, scorer.atypicality(mask), batch.model_version))
    more = json.dumps({"grey": grey.tolist(), "unreadable": unreadable})
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({_MORE: more}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    output.write(_shard_name(batch, entries), sink.getvalue().to_pybytes())


def row(name: str, probability: Probability, mask: Mask, atypicality: float, model_version: str) -> dict[str, Any]:
    """A row of SCHEMA from a frame's probability and mask, both (H, W), and the mask's atypicality, NaN if unknown."""
    area = int(mask.sum())
    return {
        "image": name,
        "rle_mask": rle.encode(mask),
        "area": area,
        "confidence": metrics.confidence(probability, mask) if area else None,
        "atypicality": None if math.isnan(atypicality) else atypicality,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "model_version": model_version,
    }


def merge(batch: Batch, shards: Sequence[tuple[Entry, ...]], training: dict[str, Any]) -> Summary:
    """Writes `predictions.parquet` from the files of all shards; its bytes do not depend on the size of the shards.

    Args:
        training: the content of the model's `reference.json`, which says how names are read.
    """
    output = open_storage(batch.output)
    grey = np.zeros(drift.LEVELS, np.int64)
    areas: list[Floats] = []
    confidences: list[Floats] = []
    atypicalities: list[Floats] = []
    names: set[str] = set()
    unreadable: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PREDICTIONS
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for table in _regroup(_tables(batch, output, shards, grey, unreadable)):
                writer.write_table(table)
                pixels = table["height"].to_numpy() * table["width"].to_numpy()
                areas.append(table["area"].to_numpy() / pixels)
                confidences.append(np.nan_to_num(table["confidence"].to_numpy().astype(float)))
                atypicalities.append(table["atypicality"].to_numpy().astype(float))
                names |= drift.people(table["image"].to_pylist(), training)
        output.upload(PREDICTIONS, path)
    figures = drift.Figures(
        grey,
        areas=np.concatenate([[], *areas]),
        confidences=np.concatenate([[], *confidences]),
        atypicalities=np.concatenate([[], *atypicalities]),
        subjects=len(names),
    )
    return Summary(figures, unreadable)


def _tables(
    batch: Batch,
    output: Storage,
    shards: Sequence[tuple[Entry, ...]],
    grey: Ints,
    unreadable: list[tuple[str, str]],
) -> Iterator[pa.Table]:
    """The rows of each shard; adds its grey levels to `grey` and its unreadable frames to `unreadable`."""
    for shard in shards:
        try:
            content, _ = output.read(_shard_name(batch, shard))
        except FileNotFoundError:
            raise NervesegError(
                f"A shard is missing in {batch.output}: do all workers write to the same place?"
            ) from None
        table = pq.read_table(pa.BufferReader(content))
        more = json.loads(table.schema.metadata[_MORE])
        grey += np.array(more["grey"])
        unreadable += [(name, reason) for name, reason in more["unreadable"]]
        yield table.replace_schema_metadata(None)


def _regroup(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of _ROWS rows; the last one may be smaller."""
    kept = SCHEMA.empty_table()
    for table in tables:
        kept = pa.concat_tables([kept, table])
        while len(kept) >= _ROWS:
            yield kept.slice(0, _ROWS).combine_chunks()
            kept = kept.slice(_ROWS)
    yield kept.combine_chunks()


def _shard_name(batch: Batch, entries: Sequence[Entry]) -> str:
    return f"{SHARDS}{batch.digest(entries)}.parquet"


def _scorer(model: str, weights: str, threads: int) -> OpenVinoScorer:
    with _loading:  # concurrent threads load it once
        return _load_scorer(model, weights, threads)


@lru_cache(maxsize=1)
def _load_scorer(model: str, _weights: str, threads: int) -> OpenVinoScorer:
    if not model.startswith("s3://"):
        return OpenVinoScorer(Path(model), streams=threads, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        for name in (ONNX_FILE, SPEC_FILE):
            open_storage(model).download(name, Path(folder) / name)
        return OpenVinoScorer(Path(folder), streams=threads, threads=threads)


# A new client for every shard would take 10 % of the time, and a zip's directory can be long.
@lru_cache(maxsize=2)
def _storage(uri: str) -> Storage:
    return open_storage(uri)


@lru_cache(maxsize=2)
def _frames(uri: str, _stamp: int) -> Frames:
    return open_frames(uri)


def _stamp(uri: str) -> int:
    """Changes when a zip does; 0 for anything else."""
    path = Path(uri)
    return path.stat().st_mtime_ns if path.is_file() else 0
