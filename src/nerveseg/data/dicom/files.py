"""What a DICOM file says of itself, and its frames, decoded one by one.

Nothing that a file says about a person is in an error here: texts of exceptions and values of text elements are left
out, and what pydicom would log or warn about is switched off, because it quotes values.
"""

import logging
import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import config
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from nerveseg.arrays import Frame
from nerveseg.data.archive import MAX_PIXELS, Archive, UnfitImageError, grey

MAX_FRAMES = 2**14  # of a file: nine minutes at 30 frames per second

# Text that identifies somebody, beside PatientID, which is replaced.
IDENTIFIERS = (
    *("PatientName", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers", "PatientMotherBirthName"),
    *("OtherPatientIDs", "OtherPatientNames", "PatientComments", "AdditionalPatientHistory", "AccessionNumber"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord"),
    *("RequestingPhysician", "OperatorsName", "InstitutionName", "InstitutionAddress", "StationName", "ImageComments"),
)
_OF_FRAMES = (
    *("SOPClassUID", "SOPInstanceUID", "PatientID", "Manufacturer", "ManufacturerModelName", "BurnedInAnnotation"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelSpacing", "SequenceOfUltrasoundRegions", *IDENTIFIERS),
)
_OF_SEGMENTATIONS = (
    *("SegmentationType", "MaximumFractionalValue", "SegmentSequence", "ReferencedSeriesSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_Tags = list[BaseTag | int]
_IDENTIFIERS = frozenset(map(Tag, IDENTIFIERS))
_READ: _Tags = [Tag(name) for name in (*_OF_FRAMES, *_OF_SEGMENTATIONS)]

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_TWO_DIMENSIONAL = 1  # RegionSpatialFormat
_CENTIMETRES = 3  # PhysicalUnitsXDirection
_AFTER_FILE_META = 0x00030000  # the first tag that is not of group 2
_PIXELS = 0x7FE00000  # the first tag of their group

config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module="pydicom")


@contextmanager
def damage_is_unfit(what: str) -> Iterator[None]:
    """Makes one error of the many kinds that libraries raise on bad bytes, without their texts, which quote values."""
    try:
        yield
    except UnfitImageError:
        raise
    except Exception:
        raise UnfitImageError("unreadable", what) from None


@dataclass(frozen=True)
class Region:
    """A part of a frame: rows from `top` to below `bottom`, columns from `left` to before `right`."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, pixels: NDArray[Any]) -> NDArray[Any]:
        return pixels[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Header:
    """What a file says of itself and its frames.

    Attributes:
        uid: SOPInstanceUID, which names it in all other files.
        frames: their number.
        height: of a frame, in pixels, before it is cropped.
        width: as height.
        region: the part of a frame to keep.
        uncropped: why a frame is not cropped although there are ultrasound regions, as a part of a sentence; empty: it
            is, or there are none.
        spacing_mm: distance between rows and between columns; None: unknown.
        patient: PatientID; empty: unknown.
        institution: InstitutionName; empty: unknown.
        device: manufacturer and model; empty: unknown.
        burned_in: BurnedInAnnotation, in upper case; empty: not said.
        identifiers: keywords of the elements of `IDENTIFIERS` that are not empty.
    """

    uid: str
    frames: int
    height: int
    width: int
    region: Region
    uncropped: str
    spacing_mm: tuple[float, float] | None
    patient: str
    institution: str
    device: str
    burned_in: str
    identifiers: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> "Header":
        """Reads an image.

        Raises:
            UnfitImageError: its frames cannot be used, or its header is damaged.
        """
        with damage_is_unfit("is a damaged DICOM file"):
            _refuse_unfit(dataset)
            return cls._of(dataset)

    @classmethod
    def _of(cls, dataset: Dataset) -> "Header":
        height, width = int(dataset.Rows), int(dataset.Columns)
        regions = [
            region
            for region in dataset.get("SequenceOfUltrasoundRegions") or []
            if region.get("RegionSpatialFormat") == _TWO_DIMENSIONAL
        ]
        whole = Region(0, 0, height, width)
        inside = [found for region in regions if (found := _within(region, whole))]
        uncropped = ""
        if len(regions) > 1:
            uncropped = "have several two-dimensional ultrasound regions, as of a dual view"
        elif len(inside) < len(regions):
            uncropped = "have an ultrasound region that is not inside the frame"
        return cls(
            uid=text(dataset, "SOPInstanceUID"),
            frames=_frames(dataset),
            height=height,
            width=width,
            region=whole if uncropped or not inside else inside[0],
            uncropped=uncropped,
            spacing_mm=_spacing(dataset, regions),
            patient=text(dataset, "PatientID"),
            institution=text(dataset, "InstitutionName"),
            device=" ".join(filter(None, (text(dataset, "Manufacturer"), text(dataset, "ManufacturerModelName")))),
            burned_in=text(dataset, "BurnedInAnnotation").upper(),
            identifiers=tuple(keyword_for_tag(tag) for tag in _IDENTIFIERS & dataset.keys() if dataset[tag].value),
        )


def read_header(archive: Archive, member: str) -> Dataset:
    """The elements of a file that say what it is, without its pixels.

    Raises:
        UnfitImageError: it is damaged.
    """
    with damage_is_unfit("is a damaged DICOM file"):
        return _read(archive, member, _PIXELS, _READ)


def text(dataset: Dataset, name: str) -> str:
    """An element as text without blanks around it; empty: it is empty or missing."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


class Pixels:
    """The pixels of a file, as they are in it; its frames are decoded one by one. Thread-safe."""

    def __init__(self, dataset: Dataset) -> None:
        """Takes the pixels out of a dataset.

        Raises:
            ValueError: there are fewer frames than it says.
        """
        syntax = dataset.file_meta.TransferSyntaxUID
        self._decoder = get_decoder(syntax)
        self._plugin = "pillow" if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) else ""  # GDCM takes 8 times as long
        self._is_rle = syntax == RLELossless
        self._frames = _frames(dataset)
        self._content: bytes = dataset.PixelData
        self._encoded = _encoded(dataset, self._frames) if syntax.is_encapsulated else None
        self._options: dict[str, Any] = {
            "rows": dataset.Rows,
            "columns": dataset.Columns,
            "samples_per_pixel": dataset.SamplesPerPixel,
            "planar_configuration": dataset.get("PlanarConfiguration", 0),
            "bits_allocated": dataset.BitsAllocated,
            "bits_stored": dataset.BitsStored,
            "pixel_representation": dataset.PixelRepresentation,
            "photometric_interpretation": dataset.PhotometricInterpretation,
            "pixel_keyword": "PixelData",
            "pixel_vr": dataset["PixelData"].VR,
            "allow_excess_frames": False,
        }
        del dataset.PixelData
        self._dataset = dataset  # has the palette
        if self._encoded is not None:
            self._content = b""

    @classmethod
    def load(cls, archive: Archive, member: str) -> "Pixels":
        """Reads a file with its pixels.

        Raises:
            UnfitImageError: it is damaged.
        """
        with damage_is_unfit("is a damaged DICOM file"):
            return cls(_read(archive, member))

    def values(self, index: int) -> NDArray[Any]:
        """A frame as it is stored: of the type that it has, (height, width) or (height, width, 3), then in RGB.

        Raises:
            UnfitImageError: it is damaged.
        """
        with damage_is_unfit(f"has a damaged frame {index + 1}"):
            return self._values(index)

    def _values(self, index: int) -> NDArray[Any]:
        content, frames = self._content, self._frames
        if self._encoded is not None:
            self._refuse_other_size(self._encoded[index])
            content, frames, index = encapsulate([self._encoded[index]], has_bot=False), 1, 0
        options = self._options | {"number_of_frames": frames}
        decoded, _ = self._decoder.as_array(content, index=index, decoding_plugin=self._plugin, **options)
        return decoded

    def grey(self, index: int, region: Region) -> tuple[Frame, bool]:
        """A region of a frame in greyscale.

        Returns:
            uint8 (height, width), and whether it has colours, which are converted by ITU-R 601 luma.

        Raises:
            UnfitImageError: it is damaged.
        """
        pixels = region.of(self.values(index))
        interpretation = self._options["photometric_interpretation"]
        if interpretation == _PALETTE:
            pixels = apply_color_lut(pixels, self._dataset)
            pixels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        elif interpretation == "MONOCHROME1":
            pixels = (1 << int(self._options["bits_stored"])) - 1 - pixels
        return grey(Image.fromarray(np.ascontiguousarray(pixels, np.uint8)))

    def _refuse_other_size(self, encoded: bytes) -> None:
        """Raises ValueError if a compressed frame says that it is of another size: decoders would take the memory."""
        rows, columns, samples = (self._options[name] for name in ("rows", "columns", "samples_per_pixel"))
        if self._is_rle:
            fits = len(encoded) <= 2 * rows * columns * samples * self._options["bits_allocated"] // 8 + 1024
        else:
            fits = _shape(encoded) == (rows, columns, samples)
        if not fits:
            raise ValueError


def _read(archive: Archive, member: str, stop_before: int = 1 << 32, only: _Tags | None = None) -> Dataset:
    """The elements of a file before one, or those of `only` among them. Not by `dcmread`, which inflates any size."""
    with archive.open(member) as file:
        read_preamble(file, force=False)
        meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >= _AFTER_FILE_META)
        syntax = UID(meta.TransferSyntaxUID)
        if syntax == DeflatedExplicitVRLittleEndian:
            raise UnfitImageError("transfer syntax", "is deflated as a whole; save it without, such as by dcmconv")
        dataset = read_dataset(
            file,
            syntax == ImplicitVRLittleEndian,
            syntax != ExplicitVRBigEndian,
            stop_when=lambda tag, *_: tag >= stop_before,
            specific_tags=only,
        )
    dataset.file_meta = FileMetaDataset(meta)
    return dataset


def _refuse_unfit(dataset: Dataset) -> None:
    if int(dataset.Rows) * int(dataset.Columns) > MAX_PIXELS:
        raise UnfitImageError(
            "too large", f"has frames of {dataset.Columns}x{dataset.Rows} pixels; the limit is {MAX_PIXELS} pixels"
        )
    if not 1 <= _frames(dataset) <= MAX_FRAMES:
        raise UnfitImageError("too large", f"says that it has {_frames(dataset)} frames; the limit is {MAX_FRAMES}")
    if dataset.BitsStored > 8:
        raise UnfitImageError(
            "bit depth", f"has {dataset.BitsStored} bits per sample; save it with 8, scaled as you see fit"
        )
    if dataset.PixelRepresentation != 0 or dataset.HighBit != dataset.BitsStored - 1:
        raise UnfitImageError("sample format", "has signed or shifted samples; save it as 8-bit unsigned")
    if dataset.PhotometricInterpretation not in (*_GREY, _PALETTE, *_COLOURS):
        raise UnfitImageError(
            "sample format", f"has a photometric interpretation other than {', '.join((*_GREY, _PALETTE, *_COLOURS))}"
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        is_read = get_decoder(syntax).is_available
    except NotImplementedError:
        is_read = False
    if not is_read:
        name = syntax.name if not syntax.is_private and syntax.is_transfer_syntax else "no registered transfer syntax"
        raise UnfitImageError(
            "transfer syntax", f"is stored as {name}, which is not read; save it as another, such as by gdcmconv --raw"
        )


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _within(region: Dataset, whole: Region) -> Region | None:
    """An ultrasound region; None: it is not inside the frame. Its last row and column belong to it."""
    left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
    last, lowest = int(region.RegionLocationMaxX1), int(region.RegionLocationMaxY1)
    if not (0 <= left < last <= whole.right and 0 <= top < lowest <= whole.bottom):
        return None
    return Region(top, left, min(lowest + 1, whole.bottom), min(last + 1, whole.right))  # some scanners write the size


def _spacing(dataset: Dataset, regions: Sequence[Dataset]) -> tuple[float, float] | None:
    """The distance between rows and between columns, in mm: that of all regions, or else that of the image."""
    found = {_region_spacing(region) for region in regions}
    if found and found != {None}:
        return found.pop() if len(found) == 1 else None
    spacing = dataset.get("PixelSpacing")
    return _positive(float(spacing[0]), float(spacing[1])) if spacing else None


def _region_spacing(region: Dataset) -> tuple[float, float] | None:
    units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
    if units != {_CENTIMETRES}:
        return None
    return _positive(10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX)))


def _positive(row: float, column: float) -> tuple[float, float] | None:
    return (row, column) if all(math.isfinite(each) and each > 0 for each in (row, column)) else None


def _encoded(dataset: Dataset, number: int) -> list[bytes]:
    """The compressed frames of a dataset. Raises ValueError if there are fewer, or if they overlap."""
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames, size = [], 0
    for frame in islice(generate_frames(dataset.PixelData, number_of_frames=number, extended_offsets=offsets), number):
        frames.append(frame)
        size += len(frame)
        if size > len(dataset.PixelData):
            raise ValueError
    if len(frames) < number:
        raise ValueError
    return frames


def _shape(encoded: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and samples of a frame that is compressed as JPEG (its SOF segment), JPEG-LS or JPEG 2000."""
    at = encoded.find(b"\xff\x4f\xff\x51", 0, 4096)  # a few bytes in where it is a JP2 file
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", encoded, at + 8)
        (samples,) = struct.unpack_from(">H", encoded, at + 40)
        return bottom - top, right - left, samples
    at = 2
    while encoded[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", encoded, at)
        if marker == 0xF7 or (marker & 0xF0 == 0xC0 and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, samples = struct.unpack_from(">HHB", encoded, at + 5)
            return rows, columns, samples
        at += 2 + length
    return None
