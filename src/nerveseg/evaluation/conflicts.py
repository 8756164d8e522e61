"""Near-duplicate frames with contradictory masks, and the ceiling of Dice on such labels.

Two frames are near-duplicates if their hashes differ by a few bits at most. Clusters in the index are transitive, to
be safe in the split; here, every pair must match, both to be compared and to be treated as one frame.

A model that gives near-duplicate frames one and the same mask cannot match all of their true masks. For n frames with
true masks A_i of areas a_i, let that one mask hold m pixels. Its mean Dice is

    1/n sum_i 2 |M and A_i| / (m + a_i)  =  2/n sum_{p in M} w(p)    with w(p) = sum_i A_i(p) / (m + a_i)

so for each m the best mask consists of the m pixels with the largest weights, and the ceiling is the best over all m.
An empty mask scores the share of frames without a nerve (Kaggle's rule). Pixels in the same true masks have the same
weight, so pixels are counted by pattern.

Not every m has to be tried. Removing d pixels from a mask of m + d removes at most d pixels from each overlap. So with
F(m), the best mean Dice of m pixels, F(m + d) <= F(m) + 2/n sum_i d / (m + a_i) over the frames with a nerve. Ranges
of m that cannot exceed the best so far are dropped; the others are divided until they are single sizes.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from nerveseg.arrays import Floats, Ints
from nerveseg.data import clusters
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import empty, metrics
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.params import EmptyRule, EvaluateParams

# Two masks with a Dice below this contradict each other. Of 412 pairs of near-duplicate real frames, half have a Dice
# of at least 0.84, and 31 one below this.
CONFLICT = 0.7
COLUMNS = (
    *("row", "image", "subject", "split", "area"),
    *("other_row", "other_image", "other_subject", "other_split", "other_area"),
    *("cluster", "bits", "dice"),
)
# Frames processed together: the bits of their masks at a pixel form one word. This bounds the work: a larger cluster is
# processed in parts, in the order of the index, which misses pairs across parts and can only raise the ceiling.
_TOGETHER = 64
_PARTS = 8  # into which a range of sizes is divided
_CELLS = 2_000_000  # weights held at once


def find(store: FrameStore, bits: int) -> pd.DataFrame:
    """The pairs of near-duplicate frames of one size whose masks have a Dice below CONFLICT, the worst first.

    Args:
        bits: largest number of bits, of 256, by which their hashes may differ; as for the clusters of the index.

    Returns:
        COLUMNS: row (in the index), image, subject, split and mask area in pixels of both frames, their cluster, the
        bits of 256 by which their hashes differ, and the Dice of their masks in [0, CONFLICT).
    """
    index = store.index
    found = []
    for rows in _groups(index, np.arange(len(index))):
        apart = _differences(index, rows)
        patterns, counts = _patterns(store, rows)
        overlaps = (patterns.T * counts) @ patterns
        areas = overlaps.diagonal()
        dice = metrics.dice(overlaps, areas[:, None], areas[None])
        found += [
            _pair(index.loc[rows[first]], index.loc[rows[second]], apart[first, second], dice[first, second])
            for first, second in combinations(range(len(rows)), 2)
            if apart[first, second] <= bits and dice[first, second] < CONFLICT
        ]
    return pd.DataFrame(found, columns=list(COLUMNS)).sort_values("dice", kind="stable", ignore_index=True)


def ceilings(store: FrameStore, rows: Ints, rule: EmptyRule, bits: int) -> Floats:
    """What each frame scores at best where near-identical frames of `rows` get one and the same mask.

    If the rule leaves out a frame without a nerve on which nothing is predicted, such frames are left out.

    Args:
        rows: int64 (frames,), rows of the index.
        bits: as for `find`.

    Returns:
        Dice, float64 in [0, 1] (frames,): with the best single mask for its group of frames, all of which are
        near-duplicates of each other; 1 for a frame without a near-duplicate, NaN for one that is left out.
    """
    areas = store.index["mask_area"].to_numpy()
    scores = empty.apply(np.ones(len(rows)), areas[rows], rule)
    place = pd.Series(np.arange(len(rows)), index=rows)
    for group in _groups(store.index, rows[~np.isnan(scores)]):
        for alike in _all_alike(store.index, group, bits):
            scores[place[alike]] = best_single(*_patterns(store, alike))
    return scores


def summary(store: FrameStore, rows: Ints, pairs: pd.DataFrame, evaluate: EvaluateParams, bits: int) -> dict[str, Any]:
    """The section `ceiling` of metrics.json; numbers, None where undefined.

    Args:
        rows: the scored frames, rows of the index.
        pairs: as `find` returns them.
        bits: as for `find`.
    """
    scores = ceilings(store, rows, evaluate.empty, bits)
    bootstrap = SubjectBootstrap(store.index["subject"].iloc[rows], evaluate.resamples, evaluate.seed)
    dice = bootstrap.mean(scores)
    return {
        "dice": dice.value,
        "dice_ci": dice.interval,
        "near_identical_frames": sum(
            int(((_differences(store.index, group) <= bits).sum(axis=1) > 1).sum())  # one is the frame itself
            for group in _groups(store.index, rows)
        ),
        "conflicting_pairs": len(pairs),
    }


def best_single(patterns: Floats, counts: Floats) -> Floats:
    """The Dice of n true masks with the one mask whose mean Dice with them is best: float64 in [0, 1] (n,).

    Args:
        patterns: 0/1 (k, n), the distinct sets of masks that hold a pixel.
        counts: (k,), the number of pixels of each.
    """
    areas: Floats = counts @ patterns
    best, size = float((areas == 0).mean()), 0  # the empty mask
    firsts, width = np.array([1]), int(counts.sum())
    while width:
        values = np.concatenate([_best_mean(part, patterns, counts, areas) for part in _in_parts(firsts, patterns)])
        if len(values) and values.max() > best:
            best, size = float(values.max()), int(firsts[values.argmax()])
        steepest = 2 / len(areas) * (1 / (firsts[:, None] + areas[areas > 0])).sum(axis=1)
        firsts = firsts[values + steepest * (width - 1) > best]
        former, width = width, 0 if width == 1 or not len(firsts) else -(-width // _PARTS)
        if width:
            firsts = np.unique(firsts[:, None] + np.arange(0, former, width))
            firsts = firsts[firsts <= counts.sum()]
    if size == 0:
        return np.asarray(areas == 0, np.float64)
    order, taken = _heaviest(np.array([size]), patterns, counts, areas)[1:]
    overlaps = taken[0] @ patterns[order[0]]
    dice: Floats = 2 * overlaps / (size + areas)
    return dice


def _in_parts(sizes: Ints, patterns: Floats) -> list[Ints]:
    return np.array_split(sizes, -(-len(sizes) * len(patterns) // _CELLS))


def _best_mean(sizes: Ints, patterns: Floats, counts: Floats, areas: Floats) -> Floats:
    """Best mean Dice of a mask of each size: (sizes,)."""
    weights, _, taken = _heaviest(sizes, patterns, counts, areas)
    means: Floats = 2 / len(areas) * (weights * taken).sum(axis=1)
    return means


def _heaviest(sizes: Ints, patterns: Floats, counts: Floats, areas: Floats) -> tuple[Floats, Ints, Floats]:
    """For each size the patterns by weight, the largest first: their weights, their indices, and how many pixels of
    each the best mask takes; all (sizes, k)."""
    weights = (1 / (sizes[:, None] + areas)) @ patterns.T
    order = np.argsort(-weights, axis=1, kind="stable")
    pixels = counts[order]
    before = np.cumsum(pixels, axis=1) - pixels
    return np.take_along_axis(weights, order, axis=1), order, np.clip(sizes[:, None] - before, 0, pixels)


def _groups(index: pd.DataFrame, rows: Ints) -> Iterator[Ints]:
    """Those of `rows` that are of one cluster and size, together: int64 (2 to _TOGETHER,)."""
    chosen = index.iloc[rows]
    for _, group in chosen.groupby(["cluster", "height", "width"], sort=False):
        for start in range(0, len(group), _TOGETHER):
            part = group.index[start : start + _TOGETHER].to_numpy()
            if len(part) > 1:
                yield part


def _all_alike(index: pd.DataFrame, rows: Ints, bits: int) -> Iterator[Ints]:
    """Divides a group into parts in which every pair of frames matches: int64 (2 or more,); single frames left out."""
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import, and only evaluate looks for conflicts
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(_differences(index, rows)), method="complete")
    parts = fcluster(tree, bits, criterion="distance")
    yield from (
        rows[parts == part] for part, size in zip(*np.unique(parts, return_counts=True), strict=True) if size > 1
    )


def _differences(index: pd.DataFrame, rows: Ints) -> Ints:
    return clusters.differences(index["dhash"].iloc[rows].tolist())


def _patterns(store: FrameStore, rows: Ints) -> tuple[Floats, Floats]:
    """The masks of up to 64 frames of one size as `best_single` takes them, pixels outside of all masks left out."""
    masks = np.stack([store.mask(row) for row in rows]).reshape(len(rows), -1)
    masks = masks[:, masks.any(axis=0)]
    codes = np.packbits(masks, axis=0).T
    words = np.zeros((len(codes), _TOGETHER // 8), np.uint8)
    words[:, : codes.shape[1]] = codes
    distinct, counts = np.unique(words.view(np.uint64).ravel(), return_counts=True)
    bits = np.unpackbits(distinct.view(np.uint8).reshape(-1, _TOGETHER // 8), axis=1, count=len(rows))
    return bits.astype(np.float64), counts.astype(np.float64)


def _pair(frame: pd.Series, other: pd.Series, bits: int, dice: float) -> dict[str, Any]:
    sides = {"": frame, "other_": other}
    described = {
        f"{prefix}{name}": value
        for prefix, side in sides.items()
        for name, value in (("row", side.name), *side[["image", "subject", "split"]].items(), ("area", side.mask_area))
    }
    return {**described, "cluster": frame["cluster"], "bits": bits, "dice": dice}
