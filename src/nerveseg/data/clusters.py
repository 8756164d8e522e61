"""Near-identical frames: neighbours in a slow sweep, and scans that are in a dataset under two subjects."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nerveseg.arrays import Bools, Ints


def near_identical(hashes: Sequence[str], bits: int) -> Ints:
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


def connected(first: Ints, second: Ints, number: int) -> Ints:
    """The component of each of `number` nodes, int64, from 0 in their order; edges join `first` with `second`."""
    edges = coo_array((np.ones(len(first), bool), (first, second)), (number, number))
    components: Ints = pd.factorize(connected_components(edges)[1])[0]
    return components


def differences(hashes: Sequence[str]) -> Ints:
    """By how many bits any two hashes, as for `near_identical`, differ: int64 (n, n)."""
    codes = _codes(hashes)
    bits: Ints = np.bitwise_count(codes[:, None] ^ codes).sum(axis=2, dtype=np.int64)
    return bits


def _codes(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The bits of each hash: uint64 (n, 4)."""
    return np.array([list(bytes.fromhex(each)) for each in hashes], np.uint8).view(np.uint64)


def _near(code: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint64], rows: Ints, bits: int) -> Ints:
    """Those of `rows` whose codes differ from `code` in `bits` at most."""
    near: Bools = np.bitwise_count(codes[rows] ^ code).sum(axis=1) <= bits
    return rows[near]
