"""Label volumes: NIfTI and NRRD files whose slices are the frames of a file, as ITK-SNAP and 3D Slicer write them.

The axes are ITK's: x counts columns, y rows and z frames, whatever directions the file gives them in space.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from nerveseg.arrays import Mask
from nerveseg.data import nifti
from nerveseg.data.archive import MAX_MEMBER_BYTES, Archive, UnfitImageError
from nerveseg.data.dicom.files import damage_is_unfit

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".seg.nrrd", ".nrrd")
SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES)

_DETACHED = {"data file", "datafile"}
_ENCODINGS = ("raw", "gzip", "gz")
_MOST_VALUES = 256  # of a frame
_GZIP = zlib.MAX_WBITS | 16


@dataclass(frozen=True)
class Label:
    """What a value means, and in which of several layers; `name` is the value itself where the file names nothing."""

    name: str
    value: int
    layer: int = 0


@dataclass(frozen=True)
class Volume:
    """A label volume.

    Attributes:
        shape: of a layer: frames, height and width.
        plane: gives a frame of a layer, from 0, of a numeric type (height, width).
        layers: their number.
        named: its labels, where the file names them; empty: it names none.
    """

    shape: tuple[int, int, int]
    plane: Callable[[int, int], NDArray[Any]]
    layers: int = 1
    named: tuple[Label, ...] = ()

    @classmethod
    def load(cls, archive: Archive, member: str) -> "Volume":
        """Reads a file.

        Raises:
            UnfitImageError: it is damaged, too large or of a kind that is not read.
        """
        read = _nifti if member.lower().endswith(NIFTI_SUFFIXES) else _nrrd
        with damage_is_unfit("is a damaged NIfTI or NRRD file"):
            return read(archive.read(member))

    def labels(self) -> set[str]:
        """The names of all labels, those that no pixel has included.

        Raises:
            UnfitImageError: it has other values than whole numbers, or too many.
        """
        if self.named:
            return {label.name for label in self.named}
        return {str(value) for index in range(self.shape[0]) for value in _values(self._whole(index, 0))}

    def mask(self, index: int, chosen: frozenset[str] | None) -> tuple[Mask, set[str]]:
        """The chosen labels of a frame, or all of them.

        Args:
            index: the frame, from 0.
            chosen: names of labels; None: all.

        Returns:
            uint8 0/1 (height, width), and the names of the labels in it.

        Raises:
            UnfitImageError: it has other values than whole numbers, too many, or one without a name.
        """
        mask, names = np.zeros(self.shape[1:], np.uint8), set()
        for layer in range(self.layers):
            plane = self._whole(index, layer)
            known = {label.value: label.name for label in self.named if label.layer == layer}
            for value in _values(plane):
                if self.named and value not in known:
                    raise UnfitImageError("mask values", f"has the value {value}, which is none of its segments")
                name = known.get(value, str(value))
                if chosen is None or name in chosen:
                    mask |= plane == value
                    names.add(name)
        return mask, names

    def _whole(self, index: int, layer: int) -> NDArray[Any]:
        with damage_is_unfit(f"has a damaged slice {index + 1}"):
            plane = self.plane(index, layer)
        is_whole = plane.dtype.kind in "biu"
        if plane.dtype.kind == "f":
            is_whole = bool((np.isfinite(plane) & (plane == np.rint(plane))).all())
        if not is_whole:
            raise UnfitImageError("mask values", "has values that are no whole numbers; labels are")
        return plane


def _values(plane: NDArray[Any]) -> list[int]:
    values = np.unique(plane)
    if len(values) > _MOST_VALUES:
        raise UnfitImageError("mask values", f"has more than {_MOST_VALUES} values, as an image has; labels are few")
    return [int(value) for value in values if value != 0]


def _nifti(content: bytes) -> Volume:
    image = nifti.parse(content, MAX_MEMBER_BYTES)
    shape = [*image.shape]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    columns, rows, frames = _three(shape)
    pixels = image.dataobj
    return Volume(
        (frames, rows, columns),
        lambda index, _: np.asanyarray(pixels[(slice(None), slice(None), index, 0, 0, 0, 0)[: len(image.shape)]]).T,
    )


def _nrrd(content: bytes) -> Volume:
    file = io.BytesIO(content)
    header = nrrd.read_header(file)
    if _DETACHED & set(header):
        raise UnfitImageError("unreadable", "is an NRRD header without its data; save both in one file")
    if header["encoding"] not in _ENCODINGS:
        raise UnfitImageError("unreadable", "is an NRRD file with an encoding other than raw and gzip")
    data = file.read()
    if header["encoding"] != "raw":
        data = zlib.decompressobj(_GZIP).decompress(data, MAX_MEMBER_BYTES + 1)
    if len(data) > MAX_MEMBER_BYTES:
        raise UnfitImageError("too large", f"unpacks to more than {MAX_MEMBER_BYTES} bytes")
    header["encoding"] = "raw"
    pixels = nrrd.read_data(header, io.BytesIO(data))
    segments = _segments(header)
    has_layers = bool(segments) and len(header["sizes"]) == 4
    columns, rows, frames = _three(pixels.shape[1:] if has_layers else pixels.shape)
    layered = pixels if has_layers else pixels[np.newaxis]
    layered = layered.reshape(layered.shape[0], columns, rows, frames)
    return Volume(
        (frames, rows, columns), lambda index, layer: layered[layer, :, :, index].T, layered.shape[0], segments
    )


def _segments(header: Mapping[str, Any]) -> tuple[Label, ...]:
    """The segments that 3D Slicer lists in the header of a .seg.nrrd. Before 4.11, each was a layer of 0 and 1."""
    labels: list[Label] = []
    while (name := header.get(f"Segment{len(labels)}_Name")) is not None:
        number = len(labels)
        value, layer = header.get(f"Segment{number}_LabelValue", 1), header.get(f"Segment{number}_Layer", number)
        labels.append(Label(name, int(value), int(layer)))
    return tuple(labels)


def _three(shape: Any) -> tuple[int, int, int]:
    """Columns, rows and frames; one frame where there are two axes."""
    if len(shape) not in (2, 3):
        raise UnfitImageError("size mismatch", f"has {len(shape)} axes; the columns, rows and frames are three")
    columns, rows, *frames = (int(each) for each in shape)
    return columns, rows, frames[0] if frames else 1
