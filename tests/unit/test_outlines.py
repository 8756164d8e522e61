"""Polygons and run lengths are drawn as pycocotools draws them, and what it would trust blindly is refused."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset_zips import HEIGHT, WIDTH, mask
from foreign_zips import nerve
from nerveseg.data.archive import UnfitImageError
from nerveseg.data.outlines import CocoRuns, Polygon

NOISE = (np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.5).astype(np.uint8)


def by_pycocotools(segmentation: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    coco = COCO()
    coco.imgs = {1: {"height": height, "width": width}}
    return coco.annToMask({"image_id": 1, "segmentation": segmentation})


def polygon(*numbers: float) -> Polygon:
    return Polygon(np.array(numbers, np.float64))


@pytest.mark.parametrize("seed", range(20))
def test_polygons_are_those_of_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(32, 90, 2)
    points = random.uniform(-0.05, 1.05, (random.integers(3, 40), 2)) * [width, height]
    if seed % 2:
        points = points.round()
    expected = by_pycocotools([points.ravel().tolist()], height, width)
    np.testing.assert_array_equal(Polygon(points.ravel()).draw(height, width), expected)


@pytest.mark.parametrize("pixels", [NOISE, 1 - NOISE, nerve(3), mask(0), mask(HEIGHT * WIDTH), mask(1)])
def test_run_lengths_are_those_of_pycocotools(pixels: np.ndarray) -> None:
    compressed = coco_mask.encode(np.asfortranarray(pixels))["counts"].decode()
    drawn = CocoRuns((HEIGHT, WIDTH), compressed).draw(HEIGHT, WIDTH)
    np.testing.assert_array_equal(drawn, pixels)
    numbers = np.diff([0, *np.flatnonzero(np.diff(pixels.T.ravel(), prepend=0)), pixels.size])
    np.testing.assert_array_equal(CocoRuns((HEIGHT, WIDTH), numbers).draw(HEIGHT, WIDTH), pixels)


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (polygon(1, 1, 5, 5), "4 numbers"),
        (polygon(1, 1, 5, 5, 9), "5 numbers"),
        (polygon(1, 1, 5, 5, 1, 60), "far outside the 50x40 frame"),
        (polygon(1, 1, 5, 5, -6, 1), "the point -6, 1"),
        (polygon(0.1, 0.1, 0.5, 0.1, 0.5, 1), "between 0 and 1: if they are shares of the frame"),
        (polygon(1, 1, 5, 5, 1e30, 1), "far outside"),
        (polygon(1, 1, 5, 5, float("inf"), 1), "far outside"),
        (polygon(1, 1, 5, 5, float("nan"), 1), "far outside"),
        (polygon(*[0, 0, WIDTH, HEIGHT] * 30_000), "pixels long; the limit is 1048576"),
        (CocoRuns((WIDTH, HEIGHT), np.array([HEIGHT * WIDTH])), "are of a 40x50 frame"),
        (CocoRuns((HEIGHT, WIDTH), np.array([1, 5])), "add up to 6 pixels; the frame has 2000"),
        (CocoRuns((HEIGHT, WIDTH), np.array([1999, 2])), "add up to 2001 pixels"),
        (CocoRuns((HEIGHT, WIDTH), np.array([2001, -1])), "have the length -1"),
        (CocoRuns((HEIGHT, WIDTH), np.array([2**62, 2**62, 2**62, 2**62])), "add up to 18446744073709551616"),
        (CocoRuns((HEIGHT, WIDTH), np.zeros(2**20 + 1, np.int64)), "1048577 parts"),
        (CocoRuns((HEIGHT, WIDTH), "o"), "cut off"),
        (CocoRuns((HEIGHT, WIDTH), "o" * 1000), "no compressed run lengths"),
        (CocoRuns((HEIGHT, WIDTH), "a b"), "no compressed run lengths"),
        (CocoRuns((HEIGHT, WIDTH), "ä"), "no compressed run lengths"),
        (CocoRuns((HEIGHT, WIDTH), "1" * (2**20 + 1)), "1048577 parts"),
        (CocoRuns((HEIGHT, WIDTH), ""), "add up to 0 pixels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(unfit: Polygon | CocoRuns, reason: str) -> None:
    with pytest.raises(UnfitImageError, match=reason):
        unfit.draw(HEIGHT, WIDTH)


def test_any_text_is_drawn_as_by_pycocotools_or_refused() -> None:
    random = np.random.default_rng(0)
    drawn = 0
    for _ in range(2000):
        text = "".join(map(chr, random.integers(48, 112, random.integers(1, 5))))
        try:
            pixels = CocoRuns((2, 4), text).draw(2, 4)
        except UnfitImageError:
            continue
        np.testing.assert_array_equal(pixels, coco_mask.decode({"size": [2, 4], "counts": text}))
        drawn += 1
    assert drawn > 5
