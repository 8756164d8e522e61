"""Frames of DICOM files as they are decoded, and what their headers say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dataset_zips import HEIGHT, WIDTH, frame, write_zip
from dicom_files import REGION, by_gdcm, by_pillow, by_pydicom, regions, ultrasound
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.dicom.files import Header, Pixels, Region, read_header

COLOURS = np.stack([frame(1), frame(2), frame(3)], axis=2)
LUMA = (COLOURS @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
SMOOTH = np.add.outer(np.arange(HEIGHT), 3 * np.arange(WIDTH)).astype(np.uint8)


def header(tmp_path: Path, content: bytes) -> Header:
    with Archive(write_zip(tmp_path / "a.zip", {"a.dcm": content})) as archive:
        return Header.of(read_header(archive, "a.dcm"))


def refusal(tmp_path: Path, content: bytes) -> tuple[str, str]:
    with pytest.raises(UnfitImageError) as error:
        header(tmp_path, content)
    return error.value.kind, str(error.value)


def frames(tmp_path: Path, content: bytes) -> list[tuple[np.ndarray, bool]]:
    """Each frame of a file, cropped as it asks for, and whether it has colours."""
    with Archive(write_zip(tmp_path / "a.zip", {"a.dcm": content})) as archive:
        said = Header.of(read_header(archive, "a.dcm"))
        pixels = Pixels.load(archive, "a.dcm")
        return [pixels.grey(index, said.region) for index in range(said.frames)]


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        pytest.param(ImplicitVRLittleEndian, None, id="implicit"),
        pytest.param(ExplicitVRBigEndian, None, id="big endian"),
        pytest.param(RLELossless, by_pydicom(RLELossless), id="RLE"),
        pytest.param(JPEGLSLossless, by_pydicom(JPEGLSLossless), id="JPEG-LS"),
        pytest.param(JPEG2000Lossless, by_pillow("JPEG2000", no_jp2=True), id="JPEG 2000"),
        pytest.param(JPEGLosslessSV1, by_gdcm(JPEGLosslessSV1), id="lossless JPEG"),
    ],
)
def test_cines_are_decoded_exactly(tmp_path: Path, syntax: UID, encode: Callable[[np.ndarray], bytes] | None) -> None:
    cine = np.stack([frame(seed) for seed in (1, 2, 3)])
    found = frames(tmp_path, ultrasound(cine, syntax=syntax, encode=encode))
    np.testing.assert_array_equal([pixels for pixels, _ in found], cine)
    assert not any(is_coloured for _, is_coloured in found)


def test_jpeg_in_colours_and_in_grey_is_decoded_nearly(tmp_path: Path) -> None:
    encode = by_pillow("JPEG", quality=95)
    ((pixels, is_coloured),) = frames(tmp_path, ultrasound(SMOOTH, syntax=JPEGBaseline8Bit, encode=encode))
    assert np.abs(pixels.astype(int) - SMOOTH).max() < 20
    assert not is_coloured
    grey = np.stack([SMOOTH] * 3, axis=2)
    content = ultrasound(grey, syntax=JPEGBaseline8Bit, encode=encode, PhotometricInterpretation="YBR_FULL_422")
    ((same, is_coloured),) = frames(tmp_path, content)
    np.testing.assert_array_equal(same, pixels)
    assert not is_coloured, "grey in three channels is no colour"


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_become_grey_by_luma(tmp_path: Path, planar: int) -> None:
    stored = COLOURS if planar == 0 else np.moveaxis(COLOURS, 2, 0)
    content = ultrasound(COLOURS, PlanarConfiguration=planar, PixelData=stored.tobytes())
    ((pixels, is_coloured),) = frames(tmp_path, content)
    assert is_coloured
    assert np.abs(pixels.astype(int) - LUMA).max() <= 1


def test_brightness_becomes_grey_of_luma_and_chroma(tmp_path: Path) -> None:
    neutral = np.stack([SMOOTH, np.full_like(SMOOTH, 128), np.full_like(SMOOTH, 128)], axis=2)
    ((pixels, is_coloured),) = frames(tmp_path, ultrasound(neutral, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_array_equal(pixels, SMOOTH)
    assert not is_coloured


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    ((pixels, _),) = frames(tmp_path, ultrasound(frame(1), PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(pixels, 255 - frame(1))


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_are_looked_up(tmp_path: Path, bits: int) -> None:
    table = np.arange(255, -1, -1).astype(np.uint8)
    stored = (table if bits == 8 else table.astype("<u2") << 8).tobytes()
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        palette[f"{colour}PaletteColorLookupTableData"] = stored
    ((pixels, is_coloured),) = frames(tmp_path, ultrasound(frame(1), **palette))
    np.testing.assert_array_equal(pixels, 255 - frame(1))
    assert not is_coloured


def test_eight_bits_in_sixteen_are_read(tmp_path: Path) -> None:
    stored = frame(1).astype("<u2").tobytes()
    ((pixels, _),) = frames(tmp_path, ultrasound(frame(1), BitsAllocated=16, PixelData=stored))
    np.testing.assert_array_equal(pixels, frame(1))


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}, "bit depth"),
        ({"PixelRepresentation": 1}, "sample format"),
        ({"HighBit": 6}, "sample format"),
        ({"PhotometricInterpretation": "HSV"}, "sample format"),
        ({"Rows": 5000, "Columns": 5000}, "too large"),
        ({"NumberOfFrames": 2**20}, "too large"),
        ({"BitsStored": None}, "unreadable"),
        ({"syntax": MPEG4HP41, "encode": bytes}, "transfer syntax"),
    ],
)
def test_what_is_not_read_is_refused_by_its_header(tmp_path: Path, elements: dict[str, Any], kind: str) -> None:
    assert refusal(tmp_path, ultrasound(frame(1), **elements))[0] == kind


def test_a_deflated_dataset_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    content = ultrasound(np.zeros((2000, 4000), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    assert refusal(tmp_path, content)[0] == "transfer syntax"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="half a file"),
        pytest.param(lambda content: content[:200], id="half a header"),
        pytest.param(lambda content: content.replace(b"\xff\xd8", b"\xff\x00"), id="no JPEG"),
        pytest.param(lambda content: content.replace((HEIGHT).to_bytes(2), (60000).to_bytes(2)), id="another size"),
    ],
)
def test_damage_is_named_without_quoting_the_file(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    encode = by_pillow("JPEG")
    content = ultrasound(SMOOTH, syntax=JPEGBaseline8Bit, encode=encode, PatientName="DOE^JANE")
    with pytest.raises(UnfitImageError) as error:
        frames(tmp_path, spoil(content))
    assert error.value.kind == "unreadable"
    assert "damaged" in str(error.value)
    assert "DOE" not in str(error.value)


def test_fewer_frames_than_the_header_says_are_refused(tmp_path: Path) -> None:
    cine = np.stack([frame(1), frame(2)])
    for options in ({}, {"syntax": RLELossless, "encode": by_pydicom(RLELossless)}):
        with pytest.raises(UnfitImageError):
            frames(tmp_path, ultrasound(cine, NumberOfFrames=3, **options))


def test_one_ultrasound_region_is_cropped_and_gives_the_spacing(tmp_path: Path) -> None:
    inner = {"RegionLocationMinX0": 4, "RegionLocationMinY0": 3, "RegionLocationMaxX1": 43, "RegionLocationMaxY1": 38}
    doppler = {"RegionSpatialFormat": 3, "PhysicalUnitsXDirection": 4}
    content = ultrasound(frame(1), SequenceOfUltrasoundRegions=regions(inner, doppler), PixelSpacing=[9, 9])
    ((pixels, _),) = frames(tmp_path, content)
    np.testing.assert_array_equal(pixels, frame(1)[3:39, 4:44])
    assert header(tmp_path, content).spacing_mm == pytest.approx((0.2, 0.1)), "between rows, between columns"


@pytest.mark.parametrize(
    ("changes", "spacing", "said"),
    [
        ([{}, {"RegionLocationMinX0": 20}], (0.2, 0.1), "several"),
        ([{}, {"PhysicalDeltaX": 0.5}], None, "several"),
        ([{"RegionLocationMaxX1": WIDTH + 20}], (0.2, 0.1), "not inside"),
        ([{"RegionLocationMaxX1": WIDTH}], (0.2, 0.1), ""),
        ([{"PhysicalUnitsXDirection": 0}], (0.7, 0.6), ""),
        ([{"PhysicalDeltaX": 0.0}], (0.7, 0.6), ""),
        ([], (0.7, 0.6), ""),
    ],
)
def test_regions_that_cannot_be_cropped_are_said(
    tmp_path: Path, changes: list[dict[str, Any]], spacing: tuple[float, float] | None, said: str
) -> None:
    elements = {"SequenceOfUltrasoundRegions": regions(*changes), "PixelSpacing": [0.7, 0.6]}
    found = header(tmp_path, ultrasound(frame(1), **elements))
    assert found.region == Region(0, 0, HEIGHT, WIDTH)
    assert found.spacing_mm == pytest.approx(spacing)
    assert (said in found.uncropped) if said else found.uncropped == ""


def test_without_regions_and_spacing_nothing_is_known(tmp_path: Path) -> None:
    assert header(tmp_path, ultrasound(frame(1))).spacing_mm is None
    assert REGION["PhysicalDeltaX"] > 0
