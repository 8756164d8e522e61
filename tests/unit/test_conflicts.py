"""Contradictory masks of near-duplicate frames, and the resulting ceiling."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.evaluation import conflicts, metrics
from nerveseg.params import EmptyRule, load


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((40, 48), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


EMPTY = rectangle(0, 0, 0, 0)
BITS = 6
PARAMS = Path(__file__).parents[2] / "params.yaml"


def make_store(folder: Path, masks: list[np.ndarray], clusters: list[int]) -> FrameStore:
    """Frames with these masks, the same frame within a cluster."""
    with Writer(folder) as writer:
        for number, (mask, cluster) in enumerate(zip(masks, clusters, strict=True)):
            frame = np.random.default_rng(cluster).integers(0, 255, mask.shape, np.uint8)
            writer.append(f"{number}_1.png", str(number), None, frame, mask)
        writer.write_index(pd.Series(["test"] * len(masks)), np.array(clusters))
    return FrameStore.open(folder)


def ceiling(store: FrameStore, rule: EmptyRule = "kaggle") -> float:
    return float(np.nanmean(conflicts.ceilings(store, np.arange(len(store)), rule, BITS)))


def by_trying_all(masks: list[np.ndarray]) -> float:
    """The best mean Dice over all masks: only the number of pixels of each of three patterns matters."""
    first, second = (mask.astype(bool) for mask in masks)
    only_first, both, only_second = first & ~second, first & second, second & ~first
    counts = [int(part.sum()) for part in (only_first, both, only_second)]
    best = 0.0
    for a in range(counts[0] + 1):
        for b in range(counts[1] + 1):
            c = np.arange(counts[2] + 1)
            size = a + b + c
            with np.errstate(invalid="ignore"):
                mean = (a + b) / (size + first.sum()) + (b + c) / (size + second.sum())
            best = max(best, float(np.nanmax(mean)))
    return best


def test_if_one_of_two_near_duplicates_is_empty_the_ceiling_is_one_half(tmp_path: Path) -> None:
    store = make_store(tmp_path, [rectangle(5, 15, 5, 25), EMPTY], [0, 0])
    assert ceiling(store) == pytest.approx(0.5)
    assert ceiling(store, "monai") == 1, "the frame without a nerve is left out"
    pairs = conflicts.find(store, BITS)
    assert pairs[["image", "other_image", "dice", "area", "other_area"]].to_numpy().tolist() == [
        ["0_1.png", "1_1.png", 0.0, 200, 0]
    ]


@pytest.mark.parametrize(
    "masks",
    [
        [rectangle(5, 15, 5, 15), rectangle(8, 20, 8, 18)],
        [rectangle(0, 30, 0, 30), rectangle(2, 6, 2, 6)],
        [rectangle(0, 4, 0, 4), rectangle(20, 36, 20, 36)],
    ],
)
def test_the_ceiling_of_two_masks_is_the_best_over_all_masks(tmp_path: Path, masks: list[np.ndarray]) -> None:
    assert ceiling(make_store(tmp_path, masks, [0, 0])) == pytest.approx(by_trying_all(masks))


def test_the_ceiling_of_many_masks_is_the_best_over_all_sizes() -> None:
    """Compares the bounded search with trying every mask size."""
    random = np.random.default_rng(3)
    for _ in range(20):
        patterns = np.unique(random.integers(0, 2, (30, 7)), axis=0).astype(float)
        patterns = patterns[patterns.any(axis=1)]
        counts = random.integers(1, 60, len(patterns)).astype(float)
        areas = counts @ patterns
        expected = 0.0
        for size in range(1, int(counts.sum()) + 1):
            weights = np.repeat(patterns @ (1 / (size + areas)), counts.astype(int))
            expected = max(expected, 2 / 7 * float(np.sort(weights)[::-1][:size].sum()))
        assert conflicts.best_single(patterns, counts).mean() == pytest.approx(expected)


def test_unique_frames_and_equal_masks_have_a_ceiling_of_one(tmp_path: Path) -> None:
    here, there = rectangle(5, 15, 5, 25), rectangle(20, 30, 20, 40)
    store = make_store(tmp_path, [here, here, there, EMPTY, EMPTY], [0, 0, 1, 2, 2])
    assert conflicts.ceilings(store, np.arange(5), "kaggle", BITS).tolist() == pytest.approx([1.0] * 5)
    assert conflicts.find(store, BITS).empty


def test_conflicts_are_sorted_worst_first_without_agreeing_pairs(tmp_path: Path) -> None:
    masks = [rectangle(5, 15, 5, 25), rectangle(5, 15, 6, 26), rectangle(5, 15, 20, 40), rectangle(25, 35, 5, 25)]
    store = make_store(tmp_path, [*masks, masks[3]], [4, 4, 4, 4, 5])
    pairs = conflicts.find(store, BITS)
    assert pairs["dice"].is_monotonic_increasing
    assert set(zip(pairs["row"], pairs["other_row"], strict=True)) == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    for pair in pairs.itertuples():
        assert pair.dice == pytest.approx(metrics.score(store.mask(pair.row), store.mask(pair.other_row))[0])


def test_frames_joined_only_through_others_are_not_near_duplicates(tmp_path: Path) -> None:
    """The first and last frame of a chain differ in 8 bits, neighbours in 3 and 5."""
    here, there = rectangle(5, 15, 5, 25), rectangle(25, 35, 5, 25)
    store = make_store(tmp_path, [here, here, there], [0, 0, 0])
    store.index["dhash"] = [f"{bits:064x}" for bits in (0xF00, 0xF07, 0xFFF)]
    pairs = conflicts.find(store, BITS)
    assert pairs[["row", "other_row", "bits"]].to_numpy().tolist() == [[1, 2, 5]]
    found = conflicts.ceilings(store, np.arange(3), "kaggle", BITS)
    assert found.tolist() == [1, 1, 1], "two groups, each without contradictions"
    evaluate = load(PARAMS).evaluate
    assert conflicts.summary(store, np.arange(3), pairs, evaluate, BITS)["near_identical_frames"] == 3
    assert conflicts.summary(store, np.array([0, 2]), pairs, evaluate, BITS)["near_identical_frames"] == 0


def test_a_cluster_larger_than_a_word_is_processed_in_parts(tmp_path: Path) -> None:
    masks = [rectangle(5, 15, 5, 25)] * 64 + [rectangle(25, 35, 5, 25)] * 2
    scores = conflicts.ceilings(make_store(tmp_path, masks, [0] * 66), np.arange(66), "kaggle", BITS)
    assert scores.tolist() == pytest.approx([1.0] * 66)
