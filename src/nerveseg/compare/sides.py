"""The models that `nerveseg compare` puts side by side: where they come from, and their masks of common frames.

A network scores any frames; of a table of predictions only the masks are known, and of an ensemble, which has learned
from every frame of its dataset, those are used that it recorded out of fold. Weights and tables from the registry and
from bundles are used only if they have their recorded hashes; code that was logged with a model is never run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nerveseg import paths
from nerveseg.arrays import Ints, Mask
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import paired
from nerveseg.files import parse_sums
from nerveseg.modelcard import card
from nerveseg.params import EvaluateParams
from nerveseg.registry import bundle
from nerveseg.registry.signatures import verify_key
from nerveseg.storage import open_storage

_NETWORK = (paths.MODEL_WEIGHTS.name, paths.MODEL_SPEC.name)
# What is needed of a table of predictions.
_MASKS = {"image": "str", "height": "int64", "width": "int64", "rle_mask": "str", "true_area": "int64"}


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        letter: A or B.
        label: what it is, in words.
        scored: the frames that it was scored on when it was evaluated; None: unknown. The column image and, if the
            masks were recorded, height, width, rle_mask, true_area (pixels) and, but for older versions, sha256.
        network: folder with its verified `model.safetensors` and `model.json`; None: only its masks are known.
        ensemble: whether it is one: recorded masks are by members that have not learned from the frame, but `network`
            has.
        split: `FrameStore.digest` of the frames that it was trained on; None: unknown.
    """

    letter: str
    label: str
    scored: pd.DataFrame | None
    network: Path | None = None
    ensemble: bool = False
    split: str | None = None

    @property
    def images(self) -> set[str]:
        """The names of the frames that it was scored on; empty if unknown."""
        return set() if self.scored is None else set(self.scored["image"])

    @property
    def of_frames(self) -> str:
        """`A, version 3, was scored on 63 frames (1_1.png, ...)`."""
        if self.scored is None:
            return f"{self.letter}, {self.label}, does not say what it was scored on"
        first = ", ".join(self.scored["image"].head(3))
        return f"{self.letter}, {self.label}, was scored on {len(self.scored)} frames ({first}, ...)"


def find(letter: str, given: str, folder: Path) -> Side:
    """The model that the user means.

    Args:
        given: a version number, a run id, an alias, a bundle (folder or s3://...) or a table of predictions.
        folder: does not exist; for its files.

    Raises:
        NervesegError: there is none, or it is not what was recorded of it; the tracking server or the storage failed.
    """
    folder.mkdir()
    if given.startswith("s3://"):
        base, _, name = given.rstrip("/").rpartition("/")
        return _of_bundle(letter, given, base, name, folder)
    path = Path(given)
    is_file = path.exists() or len(path.parts) > 1 or path.suffix == ".parquet"
    if given.isdigit() or not is_file:  # a folder 3 is named ./3
        return _of_registry(letter, given, folder)
    if path.is_dir():
        whole = path.resolve()
        return _of_bundle(letter, given, str(whole.parent), whole.name, folder)
    return Side(letter, given, _read_masks(path))


def common(sides: tuple[Side, Side], store: FrameStore, evaluate: EvaluateParams) -> tuple[Ints, str]:
    """The frames to compare two models on.

    Those that both were scored on, if one was scored on all frames of the other; otherwise those that A was scored on,
    or B, if the other has a network that can score them; otherwise those that an evaluation here would score.

    Returns:
        Rows of the store, int64, and which frames these are, in words.

    Raises:
        NervesegError: masks are recorded of other frames than the store has, or than the other's.
    """
    known = set(store.index["image"])
    here = [side for side in sides if side.images and side.images <= known]
    for side in sides:
        if side.network is None and side not in here:
            raise NervesegError(
                f"{side.of_frames}, and data/packed lacks {len(side.images - known)} of them: run in the workspace in "
                "which they were predicted, or compare versions, whose networks can score the frames here."
            )
    if len(here) == 2:
        fewer, more = sorted(here, key=lambda side: len(side.images))
        if fewer.images <= more.images:
            return _rows(store, fewer), "that both were scored on"
    for side, other in (sides, sides[::-1]):
        if side in here and other.network is not None:
            return _rows(store, side), f"that {side.letter} was scored on"
    if len(here) == 2:
        raise NervesegError(
            f"{sides[0].of_frames}, {sides[1].of_frames}: neither has all frames of the other, and of both only "
            "masks are known. Compare tables of the same frames, or versions, whose networks can score them."
        )
    rows = store.rows(evaluate.split)
    if not len(rows):
        raise NervesegError(f"data/packed has no {evaluate.split} frames; see evaluate.split and split.test.")
    return rows, f"of data/packed for {evaluate.split}: neither was scored on frames that are here"


def masks(side: Side, store: FrameStore, rows: Ints, device: str) -> Iterator[tuple[int, Mask]]:
    """Rows of the store with the model's mask, uint8 0/1 (H, W).

    Args:
        device: `cpu`, `cuda`, `mps` or `auto`.

    Raises:
        NervesegError: recorded masks are of other frames; the network cannot be loaded or returns NaN; this machine
            does not have the device.
    """
    if side.network is not None and not _is_recorded(side, store, rows):
        from nerveseg.evaluation import inference
        from nerveseg.model.device import device_name
        from nerveseg.model.inference import Segmenter  # they import torch

        segmenter = Segmenter.load(side.network, device_name(device))
        for row, probability in inference.probabilities(store, rows, segmenter, f"scoring {side.letter}"):
            yield row, segmenter.mask(probability)
        return
    assert side.scored is not None
    _require_same(side, side.scored, store, rows)
    try:
        yield from paired.recorded(side.scored, store, rows)
    except ValueError as error:
        raise NervesegError(f"A mask of {side.letter}, {side.label}, is damaged: {error}.") from None


def remark(side: Side, store: FrameStore, rows: Ints) -> str:
    """Whether the model may have learned from the frames, as a sentence; empty if not."""
    doubt = "it may have seen them in training, which favours it. Compare with care."
    if side.ensemble and not _is_recorded(side, store, rows):
        return f"{side.letter} is an ensemble, which has learned from every frame of its dataset: {doubt}"
    if set(store.index["image"].iloc[rows]) <= side.images:
        return ""
    if side.split == store.digest() and not (store.index["split"].iloc[rows] == "train").any():
        return ""
    return f"{side.letter} was not evaluated on these frames: {doubt}"


def _is_recorded(side: Side, store: FrameStore, rows: Ints) -> bool:
    """Whether the recorded masks are used though there is a network."""
    recorded = side.ensemble and side.scored is not None and "rle_mask" in side.scored
    return recorded and set(store.index["image"].iloc[rows]) <= side.images


def _rows(store: FrameStore, side: Side) -> Ints:
    return np.flatnonzero(store.index["image"].isin(side.images)).astype(np.int64)


def _require_same(side: Side, table: pd.DataFrame, store: FrameStore, rows: Ints) -> None:
    """Raises NervesegError unless the masks are of the very frames of the store."""
    recorded = table.set_index("image").loc[store.index["image"].iloc[rows]]
    here = store.index.iloc[rows].set_index("image").rename(columns={"mask_area": "true_area"})
    # Older versions did not record the hash: a frame with the same name, size and true mask is taken for the same.
    content = "sha256" if "sha256" in recorded else "true_area"
    differ = (recorded[["height", "width", content]] != here[["height", "width", content]]).any(axis=1)
    if differ.any():
        raise NervesegError(
            f"{side.letter}, {side.label}, has masks of other frames than data/packed: {differ.sum()} of {len(rows)} "
            f"with the same name differ, {differ.idxmax()} first. Run in the workspace in which they were predicted."
        )


def _of_registry(letter: str, given: str, folder: Path) -> Side:
    from nerveseg import tracking
    from nerveseg.registry import verification, versions  # they import mlflow

    with tracking.reachable("Nothing was compared."):
        client = tracking.connect()
        model = versions.locate(client, given)
        versions.fetch(client, model, folder)
        verification.require_recorded(client, model, folder)
        tables = verification.require_figures(client, model, folder)
    if paths.PREDICTIONS.name in tables:
        scored = _read_masks(folder / paths.PREDICTIONS.name)
    else:
        scored = pd.read_csv(folder / paths.PER_IMAGE_CSV.name, usecols=["image"], dtype=str)
    alias = f" ({given})" if model.version not in (None, given) else ""
    label = f"run {model.run_id}" if model.version is None else f"version {model.version}{alias}"
    return _with_card(letter, label, scored, folder)


def _of_bundle(letter: str, given: str, base: str, name: str, folder: Path) -> Side:
    storage = open_storage(base)
    try:
        sums = parse_sums(bundle.read_sums(storage, name, verify_key()))
        bundle.bring(storage, name, sums, (*_NETWORK, paths.CARD_JSON.name), folder)
    except (FileNotFoundError, ValueError) as error:
        raise NervesegError(
            f"{given} is no delivered bundle ({error}): give the folder of a version, such as delivery/3."
        ) from None
    return _with_card(letter, f"bundle {given}", None, folder)


def _with_card(letter: str, label: str, scored: pd.DataFrame | None, folder: Path) -> Side:
    """The model whose network and card are in `folder`."""
    record = card.read(folder / paths.CARD_JSON.name)
    return Side(letter, label, scored, folder, record.network.members > 1, record.origins.split)


def _read_masks(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
        table = table[[*_MASKS, *table.columns.intersection(["sha256"])]].astype(_MASKS)
        problem = "" if len(table) else "it has no rows"
        if table["image"].duplicated().any():
            problem = "it has a frame twice"
    except (OSError, KeyError, ValueError, TypeError) as error:
        problem = str(error)
    if problem:
        raise NervesegError(f"{path} is no table of predictions ({problem}): evaluate writes one, {paths.PREDICTIONS}.")
    return table
