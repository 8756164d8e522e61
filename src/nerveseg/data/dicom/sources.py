"""Where frames and masks of DICOM files lie. Messages name files by their places in the zip."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from nerveseg.arrays import Frame
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.decoding import DecodedFrame, DecodedMask, MaskSource, naming
from nerveseg.data.dicom.files import Pixels, Region
from nerveseg.data.dicom.segmentations import Segmentation
from nerveseg.data.dicom.volumes import Volume

_KEPT = 2  # files: frames are read in order, so that a few threads are at the end of one and in the next
_SHOWN = 20  # labels

T = TypeVar("T")


class Recent(Generic[T]):
    """The files that were read last, so that one is not read for each of its frames. Thread-safe."""

    def __init__(self, load: Callable[[Archive, str], T]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._kept: dict[str, Future[T]] = {}

    def get(self, archive: Archive, member: str) -> T:
        """The content of a file.

        Raises:
            UnfitImageError: as by `load`, anew for each caller.
        """
        with self._lock:
            is_new = member not in self._kept
            if is_new:
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[member] = Future()
            found = self._kept[member]
        if is_new:
            try:
                found.set_result(self._load(archive, member))
            except Exception as error:
                found.set_exception(error)
        try:
            return found.result()
        except UnfitImageError as error:
            raise UnfitImageError(error.kind, str(error)) from None


@dataclass(frozen=True)
class Files:
    """The files of a dataset that are read frame by frame."""

    pixels: Recent[Pixels] = field(default_factory=lambda: Recent(Pixels.load))
    segmentations: Recent[Pixels] = field(default_factory=lambda: Recent(Pixels.load))
    volumes: Recent[Volume] = field(default_factory=lambda: Recent(Volume.load))


@dataclass(frozen=True)
class DicomFrame:
    """A frame of a DICOM file.

    Attributes:
        member: what messages call the file; its name may hold that of a person.
        file: its name in the zip.
        index: the frame, from 0.
        region: the part of it to keep.
    """

    member: str
    file: str
    index: int
    region: Region
    files: Files = field(repr=False, compare=False)

    def read(self, archive: Archive) -> DecodedFrame:
        with naming(self.member):
            pixels, is_coloured = self.files.pixels.get(archive, self.file).grey(self.index, self.region)
        detail = f"{self.member} has colours; they were converted to greyscale by luma"
        return DecodedFrame(pixels, doubts=[("colour", detail)] if is_coloured else [])


@dataclass(frozen=True)
class Cropped:
    """A mask of a whole frame, of which a region is kept.

    Attributes:
        size: of the whole frame: height and width.
    """

    mask: MaskSource
    size: tuple[int, int]
    region: Region

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        found = self.mask.read(archive, frame)
        if found.pixels.shape != self.size:
            raise _size_mismatch(self.size, found.pixels.shape)
        return replace(found, pixels=self.region.of(found.pixels))


@dataclass(frozen=True)
class ShownSegment:
    """A frame of a DICOM SEG.

    Attributes:
        member: name of the file in the zip.
        segmentation: what it says.
        index: the frame, from 0.
        number: its SegmentNumber, or 0 where it shows all segments.
    """

    member: str
    segmentation: Segmentation
    index: int
    number: int

    @property
    def labels(self) -> set[str]:
        """Those of the segments that it shows."""
        return self.segmentation.shown(self.number)


@dataclass(frozen=True)
class SegmentMask:
    """The chosen segments in frames of DICOM SEG, united; an empty mask where there are none.

    Attributes:
        size: of the frame that they show: height and width.
        chosen: labels of segments.
    """

    size: tuple[int, int]
    segments: tuple[ShownSegment, ...]
    chosen: frozenset[str]
    files: Files = field(repr=False, compare=False)

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        mask = np.zeros(self.size, np.uint8)
        for segment in self.segments:
            if segment.segmentation.size != self.size:
                raise _size_mismatch(self.size, segment.segmentation.size)
            with naming(archive.shown(segment.member)):
                values = self.files.segmentations.get(archive, segment.member).values(segment.index)
            mask |= segment.segmentation.mask(values, segment.number, self.chosen)
        return DecodedMask(mask)


@dataclass(frozen=True)
class VolumeMask:
    """The chosen labels in a slice of a label volume.

    Attributes:
        file: its name in the zip.
        index: the frame, from 0.
        shape: of the file that it labels: frames, height and width.
        chosen: names of labels; None: the volume has one.
    """

    file: str
    index: int
    shape: tuple[int, int, int]
    chosen: frozenset[str] | None
    files: Files = field(repr=False, compare=False)

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        with naming(archive.shown(self.file)):
            volume = self.files.volumes.get(archive, self.file)
            if volume.shape != self.shape:
                raise UnfitImageError(
                    "size mismatch", f"is {_volume(volume.shape)}; the frames are {_volume(self.shape)}"
                )
            mask, names = volume.mask(self.index, self.chosen)
            if self.chosen is None and len(names) > 1:
                listed = ", ".join(sorted(names)[:_SHOWN])
                detail = f"has the labels {listed}. Set data.classes to those that are nerve"
                raise UnfitImageError("several classes", detail)
        return DecodedMask(mask, values=tuple(names) if self.chosen is None else ())


def _size_mismatch(frame: tuple[int, ...], mask: tuple[int, ...]) -> UnfitImageError:
    sizes = [f"{width}x{height}" for height, width in (frame, mask)]
    return UnfitImageError("size mismatch", f"the whole frame is {sizes[0]}, its mask {sizes[1]} (width x height)")


def _volume(shape: tuple[int, int, int]) -> str:
    frames, height, width = shape
    return f"{width} columns, {height} rows and {frames} frames"
