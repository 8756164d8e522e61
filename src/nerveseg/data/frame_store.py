"""The memory-mapped store of decoded frames that the split stage writes and all later stages read.

A folder with `frames.npy` and `masks.npy` (uint8, one axis: the pixels of all frames, concatenated, since sizes may
differ), `index.parquet` (one row per frame) and `findings.json` (results of the checks).
"""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import cv2
import numpy as np
import pandas as pd

from nerveseg import legacy
from nerveseg.arrays import Floats, Frame, Ints, Mask
from nerveseg.errors import NervesegError
from nerveseg.files import read_json

_FRAMES = "frames.npy"
_MASKS = "masks.npy"
_INDEX = "index.parquet"
FINDINGS = "findings.json"

_DTYPES = {
    "image": "str",
    "subject": "str",
    "site": "str",
    "split": "str",
    "fold": "Int64",
    "height": "int64",
    "width": "int64",
    "row_mm": "float64",
    "column_mm": "float64",
    "mask_area": "int64",
    "offset": "int64",
    "sha256": "str",
    "dhash": "str",
    "cluster": "int64",
}
_ASSIGNED = ("split", "cluster")  # known only once all frames are there
SITE = "site"
SPACING = ("row_mm", "column_mm")
_OPTIONAL = ((SITE,), SPACING)  # left out where they are known of no frame, the columns of a tuple together
_HASH_SIDE = 16
_MOST_SUMMED = 2**23  # pixels whose sum is below 2**31
_MEAN_ERROR = 0.001  # more than OpenCV's means, a sum in float32, are ever off


def pixel_digest(frame: Frame) -> str:
    """The SHA-256 of the pixels of a frame in row order, as 64 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest()


def difference_hash(frame: Frame) -> str:
    """A hash that differs in few bits between similar frames: 256 bits as 64 hexadecimal digits.

    Each bit says whether one of 16 x 16 areas of the frame is brighter than the area to its left (Krawetz's dHash,
    https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html). His 64 bits are too few to tell
    near-duplicates from other frames of the same sweep.
    """
    if frame.size <= _MOST_SUMMED and min(frame.shape) > _HASH_SIDE:  # smaller ones are enlarged
        means = _means(frame)
        low, high = np.rint(means - _MEAN_ERROR), np.rint(means + _MEAN_ERROR)
        brighter = low[:, 1:] > high[:, :-1]
        if (brighter | (high[:, 1:] <= low[:, :-1])).all():
            return np.packbits(brighter).tobytes().hex()
    small = cv2.resize(frame, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def _means(frame: Frame) -> Floats:
    """The mean of each area of a frame, float64 (16, 17), from sums of all pixels above and to the left of a point.

    What OpenCV computes in float32 and in several times as long, before it rounds.
    """
    height, width = frame.shape
    sums = cv2.integral(frame)
    rows, columns = np.linspace(0, height, _HASH_SIDE + 1), np.linspace(0, width, _HASH_SIDE + 2)
    row, column = np.minimum(rows.astype(int), height - 1), np.minimum(columns.astype(int), width - 1)
    down, right = (rows - row)[:, None], columns - column
    upper, lower = (sums[each][:, column] * (1 - right) + sums[each][:, column + 1] * right for each in (row, row + 1))
    means: Floats = np.diff(np.diff(upper * (1 - down) + lower * down, axis=0)) * (_HASH_SIDE * (_HASH_SIDE + 1))
    return means / frame.size


def hashes(frame: Frame) -> tuple[str, str]:
    """What the index has of a frame's pixels: `pixel_digest` and `difference_hash`."""
    return pixel_digest(frame), difference_hash(frame)


def counts(index: pd.DataFrame) -> pd.DataFrame:
    """Per split (the index): the columns frames, subjects, with_mask (frames) and distinct (clusters)."""
    return index.groupby("split", sort=False).agg(
        frames=("image", "size"),
        subjects=("subject", "nunique"),
        with_mask=("mask_area", lambda areas: int((areas > 0).sum())),
        distinct=("cluster", "nunique"),
    )


class Writer:
    """A context manager that appends frames to a new store in `folder`. `write_index` completes the store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[BinaryIO] = []
        self._rows: list[dict[str, Any]] = []
        self._pixels = 0
        self._start = 0  # of the pixels in both files, in bytes

    def __enter__(self) -> Self:
        self._files = [(self._folder / name).open("wb") for name in (_FRAMES, _MASKS)]
        self._write_headers()
        return self

    def append(
        self,
        image: str,
        subject: str,
        fold: int | None,
        frame: Frame,
        mask: Mask,
        site: str = "",
        spacing_mm: tuple[float, float] | None = None,
        *,
        area: int | None = None,
        hashed: tuple[str, str] | None = None,
    ) -> None:
        """Adds one frame.

        Args:
            image: file name.
            subject: the person scanned.
            fold: the dataset's own fold, if any.
            frame: uint8 (height, width).
            mask: uint8 0/1 (height, width).
            site: where it was scanned; empty: unknown.
            spacing_mm: distance between rows and between columns, in mm; None: unknown.
            area: of the mask in pixels, where a thread has counted them already.
            hashed: the frame's `hashes`, where a thread has computed them already.
        """
        frames, masks = self._files
        frames.write(np.ascontiguousarray(frame, dtype=np.uint8).data)
        nerve = np.ascontiguousarray(mask, dtype=np.uint8)
        height, width = frame.shape
        _, top, _, rows = cv2.boundingRect(nerve)
        masks.seek(self._start + self._pixels + top * width)  # what is left out reads as zeros
        masks.write(nerve[top : top + rows].data)
        spacing = spacing_mm or (None, None)
        if area is None:
            area = int(np.count_nonzero(mask))
        found = hashed or hashes(frame)
        row = (image, subject, site, fold, height, width, *spacing, area, self._pixels, *found)
        self._rows.append(dict(zip((name for name in _DTYPES if name not in _ASSIGNED), row, strict=True)))
        self._pixels += frame.size

    def frames(self) -> pd.DataFrame:
        """The frames so far: the index without its columns `split` and `cluster`."""
        dtypes = {name: dtype for name, dtype in _DTYPES.items() if name not in _ASSIGNED}
        return pd.DataFrame(self._rows, columns=list(dtypes)).astype(dtypes)

    def write_index(self, split: pd.Series, cluster: Ints) -> pd.DataFrame:
        """Writes and returns the index.

        Args:
            split: "train", "validation" or "test" for each row of `frames()`.
            cluster: int64, the same number for near-duplicate frames.
        """
        index = self.frames().assign(split=split, cluster=cluster)[list(_DTYPES)].astype(_DTYPES)
        if (index[SITE] == "").all():
            index = index.drop(columns=SITE)
        if index[[*SPACING]].isna().all(axis=None):
            index = index.drop(columns=[*SPACING])
        index.to_parquet(self._folder / _INDEX, index=False)
        return index

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write_headers()
        for file in self._files:
            file.truncate(self._start + self._pixels)
            file.close()

    def _write_headers(self) -> None:
        # numpy pads its header so that the first axis can grow in place.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._pixels,)}
        for file in self._files:
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header)
            self._start = file.tell()


class FrameStore:
    """A store opened for reading. Only its folder is pickled, so workers map the same files.

    Attributes:
        index: one row per frame, RangeIndex, with the columns image (file name), subject, split ("train", "validation",
            "test"), fold (nullable Int64), height, width, mask_area (pixels), offset (into both arrays), sha256 (of the
            frame's pixels), dhash (`difference_hash`), cluster (the same number for near-duplicate frames). Also site,
            after subject, empty where unknown; and row_mm and column_mm, after width, the distance between rows and
            between columns in mm, float64, NaN where unknown. They are left out where they are known of no frame.
    """

    index: pd.DataFrame

    def __init__(self, folder: Path, index: pd.DataFrame, frames: Frame, masks: Mask) -> None:
        self.index = index
        self._folder = folder
        self._frames = frames
        self._masks = masks
        shapes = index[["height", "width"]].itertuples(index=False, name=None)
        self._places = list(zip(index["offset"].tolist(), shapes, strict=True))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps the store in `folder`.

        Raises:
            NervesegError: a file is missing or damaged, or the files do not belong together.
        """
        fix = "`dvc repro split` recreates it, `dvc pull` fetches it."
        missing = [str(folder / name) for name in (_FRAMES, _MASKS, _INDEX) if not (folder / name).exists()]
        if missing:
            raise NervesegError(f"{', '.join(missing)} missing: {fix}")
        try:
            index = pd.read_parquet(folder / _INDEX)
            frames, masks = (
                np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in (_FRAMES, _MASKS)
            )
        except (ValueError, OSError) as error:
            raise NervesegError(f"{folder} is damaged ({error}): {fix}") from None
        problem = _inconsistency(index, frames, masks)
        if problem:
            raise NervesegError(f"{folder} is inconsistent: {problem}. {fix}")
        return cls(folder, index, frames, masks)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return FrameStore.open, (self._folder,)

    def __len__(self) -> int:
        return len(self.index)

    def frame(self, row: int) -> Frame:
        """The pixels of a frame: uint8 (height, width), a read-only view of the map."""
        return self._view(self._frames, row)

    def mask(self, row: int) -> Mask:
        """The mask of a frame: uint8 0/1 (height, width), a read-only view of the map."""
        return self._view(self._masks, row)

    def spacing(self, row: int) -> tuple[float, float] | None:
        """The distance between rows and between columns of a frame, in mm: NaN where unknown, None if it always is."""
        if SPACING[0] not in self.index:
            return None
        between_rows, between_columns = (float(self.index.at[row, name]) for name in SPACING)
        return between_rows, between_columns

    def rows(self, split: str) -> Ints:
        """The row numbers of one split: int64, ascending."""
        return np.flatnonzero(self.index["split"] == split).astype(np.int64)

    def findings(self) -> dict[str, Any]:
        """The content of `findings.json`. Raises NervesegError if it is missing or damaged."""
        return legacy.renamed(read_json(self._folder / FINDINGS))

    def subjects_known(self) -> bool:
        """Whether the subject of every frame is known; where not, a frame stands for a subject. Older stores: true."""
        known: bool = self.findings().get("subjects_known", True)
        return known

    def set_aside(self) -> str:
        """How many frames of the dataset were set aside because of errors, such as `1 of 30`; "" if none was."""
        found = self.findings()
        number = found.get("frames_set_aside", 0)  # without data.quarantine, no frame can be
        return f"{number} of {found['frames']}" if number else ""

    def digest(self) -> str:
        """64 hexadecimal digits that change with any frame, mask or row of the index."""
        digest = hashlib.sha256(self.index.to_csv().encode())  # includes the digest of each frame
        digest.update(self._masks.data)
        return digest.hexdigest()

    def _view(self, pixels: Frame, row: int) -> Frame:
        offset, (height, width) = self._places[row]
        return pixels[offset : offset + height * width].reshape(height, width)


def _inconsistency(index: pd.DataFrame, frames: Frame, masks: Mask) -> str | None:
    absent = {name for names in _OPTIONAL if not set(names) & set(index.columns) for name in names}
    if list(index.columns) != [name for name in _DTYPES if name not in absent]:
        return f"{_INDEX} has the columns {', '.join(index.columns)}"
    sizes = (index["height"] * index["width"]).to_numpy()
    if not np.array_equal(index["offset"], np.cumsum(sizes) - sizes):
        return f"the offsets in {_INDEX} do not match its frame sizes"
    for name, pixels in ((_FRAMES, frames), (_MASKS, masks)):
        if pixels.dtype != np.uint8 or pixels.shape != (sizes.sum(),):
            return f"{name} is {pixels.dtype} {pixels.shape}, but {_INDEX} says {sizes.sum()} pixels"
    return None
