import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from dataset_zips import HEIGHT, WIDTH, image, mask
from nerveseg.arrays import Mask
from nerveseg.data import masks
from nerveseg.data.archive import UnfitImageError, open_image

TRUTH = mask(30)
TWO_CLASSES = np.maximum(TRUTH, np.roll(TRUTH, 99) * 2)
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def coloured(background: tuple[int, ...], nerve: tuple[int, ...], suffix: str = "png") -> bytes:
    return image(np.array([background, nerve], np.uint8)[TRUTH], suffix)


def palette(indices: np.ndarray, colours: list[tuple[int, int, int]], suffix: str = "png", **options: Any) -> bytes:
    picture = Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette([value for colour in colours for value in colour])
    buffer = io.BytesIO()
    picture.save(buffer, format={"png": "PNG", "tif": "TIFF", "bmp": "BMP"}[suffix], **options)
    return buffer.getvalue()


def read(content: bytes) -> tuple[Mask, tuple[str, ...]]:
    with open_image(content) as (picture, _):
        return masks.read(picture)


def refusal(content: bytes) -> str:
    with pytest.raises(UnfitImageError) as error:
        read(content)
    assert error.value.kind == "mask values"
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (image(TRUTH * 255), "#ffffff"),
        (image(TRUTH), "#010101"),
        (image(TRUTH.astype(bool)), "#ffffff"),
        (coloured(BLACK, RED), "#ff0000"),
        (coloured(BLACK, (0, 0, 4)), "#000004"),  # its luma is 0
        (coloured((*BLACK, 255), (*RED, 255)), "#ff0000"),
        (coloured((*WHITE, 0), (*WHITE, 255)), "#ffffff"),  # by alpha: the colour is the same everywhere
        (coloured((*BLACK, 0), (*BLACK, 255)), "#000000"),
        (coloured((0, 0), (255, 255)), "#ffffff"),
        (coloured((*BLACK, 128), (*RED, 128)), "#ff000080"),
        (palette(TRUTH, [BLACK, WHITE]), "index 1"),
        (palette(TRUTH * 7, [BLACK] * 256), "index 7"),
        (palette(TRUTH, [WHITE, BLACK]), "index 1"),
        (palette(TRUTH, [WHITE, RED], "tif"), "index 1"),
        (palette(TRUTH, [WHITE, RED], transparency=0), "index 1"),
    ],
)
def test_reads_a_background_and_one_other_value(content: bytes, value: str) -> None:
    found, values = read(content)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, TRUTH)
    assert values == (value,)


@pytest.mark.parametrize(
    "content",
    [
        image(np.zeros((HEIGHT, WIDTH), np.uint8)),
        image(np.zeros((HEIGHT, WIDTH, 4), np.uint8), "png"),
        image(np.full((HEIGHT, WIDTH, 4), (*WHITE, 0), np.uint8), "png"),
        palette(np.zeros((HEIGHT, WIDTH)), [WHITE, RED]),
    ],
)
def test_nothing_but_background_is_an_empty_mask(content: bytes) -> None:
    found, values = read(content)
    assert found.shape == (HEIGHT, WIDTH)
    assert not found.any()
    assert values == ()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (image(np.full((HEIGHT, WIDTH), 255, np.uint8)), "only the value #ffffff"),
        (image(TRUTH + 1), "the 2 values #010101, #020202"),
        (image(TWO_CLASSES), "the 3 values #000000, #020202, #010101"),
        (coloured((255, 0, 0), (0, 130, 0)), "#ff0000, #008200"),  # of equal luma
        (image(np.array([(*BLACK, 0), (*BLACK, 255), (*RED, 255)], np.uint8)[TWO_CLASSES], "png"), "transparent, "),
        (coloured((*BLACK, 0), (*WHITE, 0)), "transparent everywhere, but hides the colours #000000, #ffffff"),
        (palette(TRUTH + 1, [BLACK] * 3), "the 2 values index 1, index 2"),
        (palette(TWO_CLASSES, [BLACK] * 3), "the 3 values index 0, index 1, index 2"),
        (palette(1 - TRUTH, [RED, WHITE], transparency=1), "index 0, index 1 (transparent)"),
        (palette(np.ones((HEIGHT, WIDTH)), [BLACK, WHITE]), "only the value index 1"),
        (image(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), "jpg"), "256 colours"),
    ],
)
def test_names_the_values_of_any_other_image(content: bytes, named: str) -> None:
    text = refusal(content)
    assert named in text
    assert "black background" in text


@pytest.mark.parametrize(
    ("content", "chosen", "values"),
    [
        (image(TWO_CLASSES), [2], ("#010101", "#020202")),
        (image(TWO_CLASSES + 1), ["#030303"], ("#010101", "#020202", "#030303")),  # without a background
        (palette(TWO_CLASSES, [BLACK] * 3), [2], ("index 1", "index 2")),
        (image(np.array([WHITE, BLACK, RED], np.uint8)[TWO_CLASSES]), ["#FF0000"], ("#ff0000", "#ffffff")),
    ],
)
def test_the_chosen_values_are_nerve_and_all_are_listed(
    content: bytes, chosen: list[int | str], values: tuple[str, ...]
) -> None:
    with open_image(content) as (picture, _):
        found, listed = masks.read(picture, chosen)
    np.testing.assert_array_equal(found, TWO_CLASSES == 2)
    assert tuple(sorted(listed)) == values
    assert masks.spellings(masks.choice(values[-1]).strip('"')) >= {values[-1]}


def test_values_of_palettes_and_greys_are_suggested_as_numbers() -> None:
    assert [masks.choice(value) for value in ("index 3", "#070707", "#ff0000")] == ["3", "7", '"#ff0000"']


def test_is_turned_as_a_frame_is() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for suffix in ("png", "tif"):
        found, _ = read(image(np.ascontiguousarray(np.rot90(TRUTH * 255)), suffix, exif=exif))
        np.testing.assert_array_equal(found, TRUTH)


@pytest.mark.parametrize(
    ("mask", "pieces"),
    [
        ([[0, 0], [0, 0]], 0),
        ([[1, 0], [0, 1]], 1),
        ([[1, 0, 1], [1, 0, 1], [0, 0, 0]], 2),
    ],
)
def test_counts_connected_pieces(mask: list[list[int]], pieces: int) -> None:
    assert masks.pieces(np.array(mask, np.uint8)) == pieces
