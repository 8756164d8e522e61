"""DICOM files of ultrasound as scanners write them, and DICOM SEG, in memory: by pydicom and highdicom."""

import io
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gdcm
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr.coding import CodedConcept
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from dataset_zips import HEIGHT, WIDTH

ROOT = "1.2.826.0.1.3680043.10.1555."  # of the UIDs here
REGION = {
    "RegionSpatialFormat": 1,
    "RegionDataType": 1,
    "RegionFlags": 0,
    "RegionLocationMinX0": 0,
    "RegionLocationMinY0": 0,
    "RegionLocationMaxX1": WIDTH - 1,
    "RegionLocationMaxY1": HEIGHT - 1,
    "PhysicalUnitsXDirection": 3,
    "PhysicalUnitsYDirection": 3,
    "PhysicalDeltaX": 0.01,
    "PhysicalDeltaY": 0.02,
}


def uid(*numbers: int) -> UID:
    """A UID, another for other numbers."""
    return UID(ROOT + ".".join(map(str, numbers)))


def ultrasound(
    pixels: np.ndarray,
    number: int = 1,
    patient: str = "P1",
    syntax: UID = ExplicitVRLittleEndian,
    encode: Callable[[np.ndarray], bytes] | None = None,
    **elements: Any,
) -> bytes:
    """An ultrasound file.

    Args:
        pixels: uint8 (height, width) or, of a cine, (frames, height, width); with an axis of 3 more in colours.
        number: makes the file's SOPInstanceUID.
        patient: PatientID; each has one series.
        syntax: transfer syntax.
        encode: what compresses a frame; none: they are stored as they are.
        elements: others, by keyword; None leaves one out.
    """
    is_coloured = pixels.shape[-1] == 3
    frames = pixels if pixels.ndim == 3 + is_coloured else pixels[np.newaxis]
    data = general(number, patient)
    data.SOPClassUID = UltrasoundImageStorage if pixels.ndim == 2 + is_coloured else UltrasoundMultiFrameImageStorage
    data.Rows, data.Columns = frames.shape[1:3]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.SamplesPerPixel = 3 if is_coloured else 1
    data.PhotometricInterpretation = "RGB" if is_coloured else "MONOCHROME2"
    if is_coloured:
        data.PlanarConfiguration = 0
    if data.SOPClassUID == UltrasoundMultiFrameImageStorage:
        data.NumberOfFrames = len(frames)
        data.FrameTime = 40.0
        data.FrameIncrementPointer = 0x00181063
    data.PixelData = (
        encapsulate([encode(each) for each in frames]) if encode else frames.tobytes() + b"\0" * (frames.size % 2)
    )
    data["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    return written(data, syntax)


def general(number: int, patient: str) -> Dataset:
    """What each file of ultrasound says, apart from its pixels."""
    data = Dataset()
    data.SOPInstanceUID = uid(number, 1)
    data.StudyInstanceUID, data.SeriesInstanceUID = (uid(sum(patient.encode()), last) for last in (2, 3))
    data.Modality = "US"
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.PatientID = patient
    data.PatientName = data.PatientBirthDate = data.PatientSex = ""
    data.StudyDate = data.StudyTime = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.SeriesNumber, data.InstanceNumber = 1, number
    data.PatientOrientation, data.Laterality = "", "L"
    data.Manufacturer, data.ManufacturerModelName = "Acme", "Sono 3"
    data.BurnedInAnnotation = "NO"
    data.LossyImageCompression = "00"
    return data


def regions(*changes: dict[str, Any]) -> list[Dataset]:
    """A SequenceOfUltrasoundRegions: `REGION` with these changes, one each."""
    found = []
    for change in changes:
        region = Dataset()
        for keyword, value in (REGION | change).items():
            setattr(region, keyword, value)
        found.append(region)
    return found


def written(data: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The file of a dataset."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    data.file_meta = meta
    return _bytes(data)


def by_pillow(kind: str, **options: Any) -> Callable[[np.ndarray], bytes]:
    """Compresses a frame by Pillow."""

    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=kind, **options)
        return buffer.getvalue()

    return encode


def by_pydicom(syntax: UID, **options: Any) -> Callable[[np.ndarray], bytes]:
    """Compresses a frame by an encoder of pydicom."""

    def encode(pixels: np.ndarray) -> bytes:
        return get_encoder(syntax).encode(
            pixels,
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1 if pixels.ndim == 2 else 3,
            planar_configuration=0,
            bits_allocated=8,
            bits_stored=8,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2" if pixels.ndim == 2 else "RGB",
            number_of_frames=1,
            **options,
        )

    return encode


def by_gdcm(syntax: UID) -> Callable[[np.ndarray], bytes]:
    """Compresses a frame by GDCM, which does it with files."""

    def encode(pixels: np.ndarray) -> bytes:
        with TemporaryDirectory() as folder:
            before, after = (str(Path(folder, name)) for name in ("before.dcm", "after.dcm"))
            Path(before).write_bytes(ultrasound(pixels))
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(before)
            assert reader.Read()
            change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer.SetFileName(after)
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
            return next(generate_frames(dcmread(after).PixelData, number_of_frames=1))

    return encode


def segmented(source: bytes, masks: np.ndarray, labels: Sequence[str] = ("nerve",), **options: Any) -> bytes:
    """A DICOM SEG of a file with one frame, by highdicom.

    Args:
        source: the file.
        masks: (height, width, segments), uint8 0/1, or fractions where `options` say so.
        labels: of the segments.
        options: such as `segmentation_type`.
    """
    return _bytes(_by_highdicom(source, masks[np.newaxis], labels, options))


def segmented_cine(
    source: bytes, masks: np.ndarray, labels: Sequence[str] = ("nerve",), keep_empty: bool = False, number: int = 200
) -> bytes:
    """A DICOM SEG of a cine, which highdicom refuses to make: that of its first frame, with the frames that it lacks.

    Args:
        source: the file.
        masks: (frames, height, width, segments), uint8 0/1.
        labels: of the segments.
        keep_empty: whether frames without a pixel of the segment are in it.
        number: makes its UIDs.
    """
    cine = dcmread(io.BytesIO(source))
    still = ultrasound(np.zeros(masks.shape[1:3], np.uint8), patient=cine.PatientID)
    found = _by_highdicom(still, np.ones_like(masks[:1]), labels, {})
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = uid(number, 1)
    shown = [
        (frame, segment)
        for segment in range(len(labels))
        for frame in range(len(masks))
        if keep_empty or masks[frame, ..., segment].any()
    ]
    groups = []
    for frame, segment in shown:
        group = deepcopy(found.PerFrameFunctionalGroupsSequence[segment])
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = cine.SOPClassUID, cine.SOPInstanceUID
        item.ReferencedFrameNumber = frame + 1
        groups.append(group)
    (series,) = found.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = cine.SOPClassUID, cine.SOPInstanceUID
    found.PerFrameFunctionalGroupsSequence = groups
    found.NumberOfFrames = len(shown)
    bits = np.concatenate([masks[frame, ..., segment].ravel() for frame, segment in shown])
    packed = np.packbits(bits, bitorder="little").tobytes()
    found.PixelData = packed + b"\0" * (len(packed) % 2)
    return _bytes(found)


def _by_highdicom(source: bytes, masks: np.ndarray, labels: Sequence[str], options: dict[str, Any]) -> Segmentation:
    described = [
        SegmentDescription(
            number,
            label,
            segmented_property_category=CodedConcept("91723000", "SCT", "Anatomical structure"),
            segmented_property_type=CodedConcept("3057000", "SCT", "Nerve"),
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(labels, start=1)
    ]
    found = Segmentation(
        [dcmread(io.BytesIO(source))],
        masks,
        segment_descriptions=described,
        series_instance_uid=UID(ROOT + "9"),
        series_number=9,
        sop_instance_uid=generate_uid(ROOT, [source.hex(), str(labels)]),
        instance_number=1,
        manufacturer="Acme",
        manufacturer_model_name="Draw",
        software_versions="1",
        device_serial_number="1",
        **({"segmentation_type": "BINARY"} | options),
    )
    found.PatientOrientation = ""
    return found


def _bytes(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
