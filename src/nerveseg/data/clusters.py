"""Near-identical frames: neighbours in a slow sweep, and scans that are in a dataset under two subjects."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def near_identical(hashes: Sequence[str], bits: int) -> np.ndarray:
    """Numbers that are the same for near-identical frames, and for what is near-identical to those.

    Args:
        hashes: as `frame_store.difference_hash` makes them.
        bits: by which two hashes differ at most. Frames without any contrast, whose bits are all 0, are like no other.

    Returns:
        int64, from 0 in the order of the frames.
    """
    if not len(hashes):
        return np.zeros(0, np.int64)
    codes = _codes(hashes)
    contrasts = np.flatnonzero(codes.any(axis=1))
    pairs = [(row, other) for row in contrasts for other in _near(codes[row], codes, contrasts, bits)]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return connected(first, second, len(codes))


def connected(first: np.ndarray, second: np.ndarray, number: int) -> np.ndarray:
    """The component of each of `number` nodes, int64, from 0 in their order; edges join `first` with `second`."""
    edges = coo_array((np.ones(len(first), bool), (first, second)), (number, number))
    return pd.factorize(connected_components(edges)[1])[0]


def differences(hashes: Sequence[str]) -> np.ndarray:
    """By how many bits any two hashes, as for `near_identical`, differ: int64 (n, n)."""
    codes = _codes(hashes)
    return np.bitwise_count(codes[:, None] ^ codes).sum(axis=2, dtype=np.int64)


def _codes(hashes: Sequence[str]) -> np.ndarray:
    """The bits of each hash: uint64 (n, 4)."""
    return np.array([list(bytes.fromhex(each)) for each in hashes], np.uint8).view(np.uint64)


def _near(code: np.ndarray, codes: np.ndarray, rows: np.ndarray, bits: int) -> np.ndarray:
    """Those of `rows` whose codes differ from `code` in `bits` at most."""
    return rows[np.bitwise_count(codes[rows] ^ code).sum(axis=1) <= bits]
