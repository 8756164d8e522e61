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
    with_contrast = np.flatnonzero(codes.any(axis=1))
    pairs = [(row, other) for row in with_contrast for other in _near(codes[row], codes, with_contrast, bits)]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return connected(first, second, len(codes))


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


def _near(code: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint64], rows: Ints, bits: int) -> Ints:
    """Those of `rows` whose codes differ from `code` by at most `bits`."""
    near: Bools = np.bitwise_count(codes[rows] ^ code).sum(axis=1) <= bits
    return rows[near]
