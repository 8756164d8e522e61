"""Which frames an epoch draws, where it does not draw each of them once."""

import numpy as np
import pandas as pd

from nerveseg.arrays import Ints
from nerveseg.params import SamplerName

_COLUMNS = {"subjects": "subject", "clusters": "cluster"}


def groups(index: pd.DataFrame, rows: Ints, sampler: SamplerName) -> Ints | None:
    """The number of the group of each row, int64, of which an epoch draws each as often; None: each frame once.

    Args:
        index: of the frame store.
        rows: int64, of the training frames.
    """
    if sampler == "frames":
        return None
    numbers: Ints = pd.factorize(index[_COLUMNS[sampler]].iloc[rows])[0].astype(np.int64)
    return numbers


def balanced(groups: Ints, random: np.random.Generator) -> Ints:
    """As many positions as there are frames, int64, in random order: each group as often, give or take one.

    So is each frame of a group. This is systematic sampling: the groups lie side by side on a line, each of the same
    length and divided among its frames, and what the points of a grid fall on is drawn.
    """
    count = len(groups)
    sizes = np.bincount(groups)
    order = random.permutation(count)
    order = order[np.argsort(random.permutation(len(sizes))[groups[order]], kind="stable")]
    ends = np.cumsum(count / len(sizes) / sizes[groups[order]])
    drawn = np.searchsorted(ends, np.arange(count) + random.random(), side="right")
    found: Ints = random.permutation(order[np.minimum(drawn, count - 1)])  # the last end is count, but for rounding
    return found
