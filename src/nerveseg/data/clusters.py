"""Near-duplicate frames: neighbours in a slow sweep, and scans that appear in a dataset under two subjects."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nerveseg.arrays import Bools, Ints


def near_identical(hashes: Sequence[str], bits: int) -> Ints:
    """Numbers the clusters of near-duplicate frames. Clusters are transitive.

    Args:
        hashes: from `frame_store.difference_hash`.
        bits: largest distance between near-duplicates. A frame without contrast, whose bits are all 0, has none.

    Returns:
        int64, counted from 0 in the order of the frames.
    """
    if not len(hashes):
        return np.zeros(0, np.int64)
    codes = _codes(hashes)
    folded = np.bitwise_xor.reduce(codes, axis=1)
    left: Bools = np.asarray(codes.any(axis=1))  # frames with contrast that are in no cluster yet
    clusters = np.full(len(codes), -1, np.int64)
    number = 0
    for first in range(len(codes)):
        if clusters[first] >= 0:
            continue
        reached = [first]
        while reached:  # each frame once, so that many near-duplicates take no more time or memory than few
            row = reached.pop()
            clusters[row] = number
            if left[row] or row != first:
                near = _near(row, codes, folded, left, bits)
                left[near] = False
                reached += near[near != row].tolist()
        number += 1
    return clusters


def connected(first: Ints, second: Ints, number: int) -> Ints:
    """The connected component of each of `number` nodes, int64, counted from 0; edges join `first` with `second`."""
    edges = coo_array((np.ones(len(first), bool), (first, second)), (number, number))
    components: Ints = pd.factorize(connected_components(edges)[1])[0]
    return components


def differences(hashes: Sequence[str]) -> Ints:
    """Hamming distances between all hashes, as for `near_identical`: int64 (n, n)."""
    codes = _codes(hashes)
    bits: Ints = np.bitwise_count(codes[:, None] ^ codes).sum(axis=2, dtype=np.int64)
    return bits


def _codes(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The bits of each hash: uint64 (n, 4)."""
    return np.array([list(bytes.fromhex(each)) for each in hashes], np.uint8).view(np.uint64)


def _near(row: int, codes: npt.NDArray[np.uint64], folded: npt.NDArray[np.uint64], left: Bools, bits: int) -> Ints:
    """The rows of those that are `left` whose codes differ from that of `row` by at most `bits`.

    Where codes differ in so many bits, the exclusive or of their four words, `folded`, differs in no more; so one word
    rules most of them out.
    """
    rows = np.flatnonzero((np.bitwise_count(folded ^ folded[row]) <= bits) & left)
    near: Ints = rows[np.bitwise_count(codes[rows] ^ codes[row]).sum(axis=1) <= bits]
    return near
