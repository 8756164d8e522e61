"""Label Studio's brush masks are decoded as its converter does."""

import numpy as np
import pytest
from label_studio_converter import brush as converter

from dataset_zips import HEIGHT, WIDTH, mask
from foreign_zips import nerve
from nerveseg.data.archive import UnfitImageError
from nerveseg.data.brush import Brush

NOISE = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)


@pytest.mark.parametrize("pixels", [NOISE, NOISE * (NOISE > 128), nerve(3) * 255, mask(0), mask(HEIGHT * WIDTH) * 7])
def test_masks_of_the_converter(pixels: np.ndarray) -> None:
    stream = converter.mask2rle(pixels)
    np.testing.assert_array_equal(Brush(bytes(stream)).draw(HEIGHT, WIDTH), pixels > 0)


def written(pixels: np.ndarray, sizes: list[int], seed: int) -> bytes:
    """RGBA pixels (height, width, 4) as the editor writes them: runs, and also values that differ in one go."""
    random = np.random.default_rng(seed)
    values = pixels.ravel()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    at = 0
    while at < len(values):
        kind = int(random.integers(4))
        run = int(np.argmax(values[at:] != values[at])) or len(values) - at
        repeats = run > 4
        number = min(run if repeats else 9, 2 ** sizes[kind], len(values) - at)
        bits += f"{int(repeats)}{kind:02b}{number - 1:0{sizes[kind]}b}"
        bits += "".join(f"{value:08b}" for value in values[at : at + (1 if repeats else number)])
        at += number
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("sizes", [[3, 4, 8, 16], [1, 1, 1, 1], [16, 15, 2, 7]])
def test_runs_and_single_values_of_the_editor(sizes: list[int]) -> None:
    colour = np.array([255, 163, 158, 1], np.uint8)
    pixels = nerve(5, 32, 33)[..., None] * colour
    stream = written(pixels, sizes, seed=sum(sizes))
    np.testing.assert_array_equal(converter.decode_rle(list(stream)).reshape(pixels.shape), pixels)
    np.testing.assert_array_equal(Brush(stream).draw(32, 33), nerve(5, 32, 33))


STREAM = bytes(converter.mask2rle(nerve(3) * 255))


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "is cut off"),
        (STREAM[:9], "is cut off"),
        (STREAM[:-9], "is cut off"),
        (bytes(converter.mask2rle(nerve(3, 50, 50))), "has 10000 values; the frame takes 8000"),
        (b"\xff\xff\xff\xff" + STREAM[4:], "has 4294967295 values"),
        (STREAM[:4] + b"\xff" + STREAM[5:], "values of 32 bits"),
        (int(f"{8000:032b}{7:05b}{'1' * 16}1{'1' * 18}{255:08b}", 2).to_bytes(10, "big"), "more than the 8000 values"),
    ],
)
def test_a_damaged_stream_is_refused(stream: bytes, reason: str) -> None:
    with pytest.raises(UnfitImageError, match=reason):
        Brush(stream).draw(HEIGHT, WIDTH)
