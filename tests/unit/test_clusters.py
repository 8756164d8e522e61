"""Clusters of near-duplicate frames."""

import time
import tracemalloc

import cv2
import numpy as np
import pytest

from nerveseg.data import clusters
from nerveseg.data.frame_store import difference_hash


def frame(seed: int, height: int = 210, width: int = 290) -> np.ndarray:
    """Smooth structures with speckle, like ultrasound."""
    random = np.random.default_rng(seed)
    smooth = cv2.resize(random.random((9, 12)), (width, height), interpolation=cv2.INTER_CUBIC)
    return (255 * np.clip(smooth * random.rayleigh(0.5, (height, width)), 0, 1)).astype(np.uint8)


def of(frames: list[np.ndarray], bits: int = 6) -> list[int]:
    return clusters.near_identical([difference_hash(each) for each in frames], bits).tolist()


def test_different_frames_are_in_different_clusters() -> None:
    assert of([frame(seed) for seed in range(40)]) == list(range(40))


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels,
        lambda pixels: np.clip(pixels.astype(int) + np.random.default_rng(1).integers(-4, 5, pixels.shape), 0, 255),
        lambda pixels: pixels * 0.8 + 10,
        lambda pixels: cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], 0),
        lambda pixels: cv2.resize(pixels, (580, 420), interpolation=cv2.INTER_LINEAR),
    ],
    ids=["same", "noise", "contrast", "jpeg", "size"],
)
def test_noise_contrast_compression_and_size_do_not_matter(change: object) -> None:
    changed = change(frame(3)).astype(np.uint8)  # type: ignore[operator]
    assert of([frame(2), frame(3), frame(4), changed]) == [0, 1, 2, 1]


def test_a_chain_of_near_duplicates_is_one_cluster() -> None:
    code = np.zeros(256, np.uint8)
    code[:40] = 1
    chain = []
    for bit in range(100, 120, 5):
        code[bit : bit + 5] = 1
        chain.append(np.packbits(code).tobytes().hex())
    assert clusters.near_identical(chain, 5).tolist() == [0, 0, 0, 0]
    assert clusters.near_identical(chain, 4).tolist() == [0, 1, 2, 3]


def test_frames_without_contrast_have_no_near_duplicates() -> None:
    assert of([np.full((50, 60), grey, np.uint8) for grey in (0, 0, 90)]) == [0, 1, 2]


def test_no_frames_have_no_clusters() -> None:
    assert of([]) == []


def test_as_many_frames_as_in_the_kaggle_dataset_take_seconds() -> None:
    random = np.random.default_rng(70)
    hashes = [random.bytes(32).hex() for _ in range(5635)]
    begun = time.perf_counter()
    assert len(set(clusters.near_identical(hashes, 6).tolist())) == 5635
    assert time.perf_counter() - begun < 20


def test_thousands_of_equal_frames_are_one_cluster_in_little_memory() -> None:
    tracemalloc.start()
    try:
        assert set(clusters.near_identical([difference_hash(frame(0))] * 5000, 6)) == {0}
        assert tracemalloc.get_traced_memory()[1] < 10e6, "25 million pairs would take a hundred times as much"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(17, 18), (32, 34), (160, 170), (210, 290), (420, 580), (33, 700)])
def test_hashes_are_those_of_frames_that_opencv_makes_smaller(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, size).astype(np.uint8)
    ramp = (np.add.outer(np.arange(size[0]), np.arange(size[1])) // 3 % 256).astype(np.uint8)
    dark = np.where(np.arange(size[0])[:, None] < size[0] // 2, random.integers(0, 3, size), 7).astype(np.uint8)
    for pixels in (noise, ramp, dark, cv2.GaussianBlur(noise, (0, 0), 9), np.asfortranarray(noise)):
        small = cv2.resize(pixels, (17, 16), interpolation=cv2.INTER_AREA)
        assert difference_hash(pixels) == np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()
