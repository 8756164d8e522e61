import io
import struct
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from dataset_zips import frame, image, write_zip
from nerveseg.data.archive import Archive, UnfitImageError, decode_grey, open_image
from nerveseg.errors import NervesegError


def refusal(path: Path) -> str:
    with pytest.raises(NervesegError) as error:
        Archive(path)
    assert str(path) in str(error.value)
    return str(error.value)


def patched(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def test_reads_members_except_those_added_by_file_managers(tmp_path: Path) -> None:
    names = ["train/", "train/1_1.tif", "__MACOSX/train/._1_1.tif", "train/.DS_Store", ".hidden/1_2.tif", "a\\b.tif"]
    path = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))
    with Archive(path) as archive:
        assert archive.names == ["a/b.tif", "train/1_1.tif"]
        assert archive.read("a/b.tif") == b"x"


def test_rejects_a_missing_file(tmp_path: Path) -> None:
    assert "missing" in refusal(tmp_path / "none.zip")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_rejects_a_file_that_is_not_a_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert "not a zip" in refusal(tmp_path / "a.zip")


def test_rejects_a_truncated_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1_1.tif": image(frame(1))})
    assert "truncated" in refusal(patched(path, lambda content: content[: len(content) * 9 // 10]))


@pytest.mark.parametrize("members", [{}, {"folder/": b""}, {".DS_Store": b"x"}])
def test_rejects_a_zip_without_files(tmp_path: Path, members: dict[str, bytes]) -> None:
    assert "contains no files" in refusal(write_zip(tmp_path / "a.zip", members))


@pytest.mark.parametrize("name", ["/etc/1_1.tif", "../1_1.tif", "a/../../1_1.tif", "..\\1_1.tif"])
def test_rejects_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    assert "leads out of the zip" in refusal(write_zip(tmp_path / "a.zip", {name: b"x"}))


def test_rejects_control_characters_in_names(tmp_path: Path) -> None:
    assert "control characters" in refusal(write_zip(tmp_path / "a.zip", {"1_1\x1b[31m.tif": b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_rejects_a_name_listed_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1_1.tif", b"x")
        archive.writestr("1_1.tif", b"y")
    assert "contains 1_1.tif twice" in refusal(tmp_path / "a.zip")


def test_names_are_composed_as_tables_write_them(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "1_äé.tif")
    with Archive(write_zip(tmp_path / "a.zip", {decomposed: b"x"})) as archive:
        assert archive.names == ["1_äé.tif"]
        assert archive.read("1_äé.tif") == b"x"


def test_utf8_names_without_the_flag_of_utf8(tmp_path: Path) -> None:
    """As the Archive Utility of macOS writes them."""
    path = write_zip(tmp_path / "a.zip", {"1_ä.tif": b"x"})
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = path.read_bytes().index(mark) + offset
        patched(path, lambda content, at=at: content[:at] + b"\0\0" + content[at + 2 :])  # type: ignore[misc]
    with Archive(path) as archive:
        assert archive.names == ["1_ä.tif"]
        assert archive.read("1_ä.tif") == b"x"


def test_rejects_very_long_names(tmp_path: Path) -> None:
    assert "longer than 1024" in refusal(write_zip(tmp_path / "a.zip", {f"1_{'1' * 5000}.tif": b"x"}))


def test_rejects_encrypted_members(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1_1.tif": b"x" * 100})
    flags_at = path.read_bytes().index(b"PK\x01\x02") + 8  # in the central directory
    patched(path, lambda content: content[:flags_at] + b"\x01" + content[flags_at + 1 :])
    assert "is encrypted" in refusal(path)


def test_rejects_links(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("1_1.tif")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "is a link" in refusal(tmp_path / "a.zip")


def test_rejects_other_compression_methods(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("1_1.tif", b"x")
    assert "by a method other than deflate" in refusal(tmp_path / "a.zip")


def test_rejects_a_zip_bomb_by_its_ratio(tmp_path: Path) -> None:
    assert "200 times its compressed size" in refusal(write_zip(tmp_path / "a.zip", {"1_1.tif": bytes(17 * 2**20)}))


def test_accepts_an_empty_mask_with_a_high_ratio(tmp_path: Path) -> None:
    with Archive(write_zip(tmp_path / "a.zip", {"1_1_mask.tif": bytes(580 * 420)})) as archive:
        assert len(archive.read("1_1_mask.tif")) == 580 * 420


def declare_size(path: Path, size: int) -> Path:
    at = path.read_bytes().index(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    return patched(path, lambda content: content[:at] + struct.pack("<I", size) + content[at + 4 :])


def test_rejects_a_huge_member(tmp_path: Path) -> None:
    path = declare_size(write_zip(tmp_path / "a.zip", {"1_1.tif": b"x"}), 256 * 2**20 + 1)
    assert "the limit is 268435456" in refusal(path)


def test_a_member_larger_than_its_recorded_size_is_damaged(tmp_path: Path) -> None:
    path = declare_size(write_zip(tmp_path / "a.zip", {"1_1.tif": bytes(2**20)}), 10)
    with Archive(path) as archive, pytest.raises(ValueError, match="damaged in the zip"):
        archive.read("1_1.tif")


def test_a_member_before_the_start_of_the_zip_is_damaged(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1_1.tif": b"x"})
    at = path.read_bytes().index(b"PK\x05\x06") + 16  # offset of the directory in the end record
    patched(path, lambda content: content[:at] + struct.pack("<I", 1000) + content[at + 4 :])
    with Archive(path) as archive, pytest.raises(ValueError, match="damaged in the zip"):
        archive.read("1_1.tif")


def test_a_flipped_bit_is_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1_1.tif", b"pixels" * 9)
    path = patched(tmp_path / "a.zip", lambda content: content.replace(b"pixels", b"pixelz", 1))
    with Archive(path) as archive, pytest.raises(ValueError, match="damaged in the zip"):
        archive.read("1_1.tif")


@pytest.mark.parametrize("suffix", ["tif", "png", "bmp"])
def test_decodes_greyscale_exactly(suffix: str) -> None:
    pixels, is_coloured = decode_grey(image(frame(1), suffix))
    assert pixels.dtype == np.uint8
    assert not is_coloured
    np.testing.assert_array_equal(pixels, frame(1))


def test_decodes_jpeg() -> None:
    pixels, _ = decode_grey(image(np.full((40, 50), 77, np.uint8), "jpg"))
    assert pixels.shape == (40, 50)
    assert np.abs(pixels.astype(int) - 77).max() <= 2


@pytest.mark.parametrize("channels", [3, 4])
def test_equal_channels_are_greyscale(channels: int) -> None:
    pixels, is_coloured = decode_grey(image(np.repeat(frame(1)[..., None], channels, axis=2), "png"))
    assert not is_coloured
    np.testing.assert_array_equal(pixels, frame(1))


def test_colours_are_converted_by_luma() -> None:
    pixels, is_coloured = decode_grey(image(np.full((40, 50, 3), (200, 100, 50), np.uint8), "png"))
    assert is_coloured
    assert pixels[0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize(
    ("value", "turn"),
    [
        (1, lambda upright: upright),
        (2, np.fliplr),
        (3, lambda upright: np.rot90(upright, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, np.rot90),
        (7, lambda upright: np.rot90(upright, 2).T),
        (8, lambda upright: np.rot90(upright, 3)),
    ],
)
def test_every_format_is_turned_upright(suffix: str, value: int, turn: Callable[[np.ndarray], np.ndarray]) -> None:
    upright = np.zeros((40, 56), np.uint8)
    upright[:8, :16] = 255  # whole blocks of a JPEG
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    content = image(np.ascontiguousarray(turn(upright)), suffix, exif=exif)
    pixels, _ = decode_grey(content)
    np.testing.assert_array_equal(pixels > 127, upright > 127)
    with open_image(content) as (_, orientation):
        assert orientation == value


def two_pages() -> bytes:
    pages = [Image.fromarray(frame(seed)) for seed in (1, 2)]
    buffer = io.BytesIO()
    pages[0].save(buffer, format="TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "unreadable"),
        (b"not an image", "unreadable"),
        (image(frame(1), "png")[:-200], "unreadable"),
        (image(frame(1), "tif")[:-200], "unreadable"),
        (two_pages(), "several pages"),
        (image(frame(1).astype(np.uint16) * 256, "tif"), "bit depth"),
        (image(frame(1).astype(np.uint16) * 256, "png"), "bit depth"),
        (image(frame(1).astype(np.int32), "tif"), "sample format"),
        (image(frame(1).astype(np.float32), "tif"), "sample format"),
        (image(frame(1), "tif", tiffinfo={339: 2}), "sample format"),  # signed
        (
            cv2.imencode(".png", np.zeros((40, 50, 3), np.uint16))[1].tobytes(),
            "bit depth",
        ),  # Pillow reads only 8 bits of it
        (cv2.imencode(".tif", np.zeros((40, 50, 3), np.uint16))[1].tobytes(), "bit depth"),
        (image(np.zeros((4097, 4096), np.uint8), "png"), "too large"),
        (
            image(np.zeros((1, 1), np.uint8), "png").replace(struct.pack(">II", 1, 1), b"\x7f\xff\xff\xff" * 2),
            "unreadable",
        ),
    ],
)
def test_says_why_an_image_is_unfit(content: bytes, kind: str) -> None:
    with pytest.raises(UnfitImageError) as error:
        decode_grey(content)
    assert error.value.kind == kind
