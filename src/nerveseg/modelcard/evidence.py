"""Evidence stored with a model's weights: statistics of its training frames, and a few frames with its masks."""

from typing import Any

import numpy as np
import pandas as pd

from nerveseg.arrays import Ints
from nerveseg.data.frame_store import FrameStore
from nerveseg.data.names import FIRST_PART
from nerveseg.evaluation import inference, metrics
from nerveseg.model.inference import Segmenter
from nerveseg.modelcard.smoke import Pair
from nerveseg.prediction import drift

_REFERENCE_FRAMES = 512  # at most; more training frames would hardly change the shares in the bins
_SMOKE_FRAMES = 8


def reference(store: FrameStore, rows: Ints, segmenter: Segmenter) -> dict[str, Any]:
    """Statistics of the training frames and of the network's masks on them: the content of `reference.json`.

    Args:
        rows: of the training frames, int64.
    """
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _REFERENCE_FRAMES).astype(int))]
    grey = np.zeros(drift.LEVELS, np.int64)
    areas, confidences, atypicalities = [], [], []
    for row, probability in inference.probabilities(store, rows, segmenter, "training set"):
        mask = segmenter.mask(probability)
        grey += drift.grey_levels(store.frame(row))
        areas.append(mask.mean())
        confidences.append(metrics.confidence(probability, mask))
        atypicalities.append(segmenter.atypicality(mask))
    subjects = store.index["subject"].iloc[rows].nunique()
    figures = drift.Figures(grey, np.array(areas), np.nan_to_num(confidences), np.array(atypicalities), subjects)
    return {**drift.reference(figures), "subject_rule": store.findings().get("subject_rule", FIRST_PART)}


def smoke_pairs(store: FrameStore, table: pd.DataFrame, segmenter: Segmenter) -> list[Pair]:
    """The frames with the best Dice on which something is predicted, with the network's masks: one per subject, then
    further ones of the same subjects while there are too few.

    Args:
        table: the scored frames, as `Scores` has them.
    """
    best = table[table["predicted_area"] > 0].sort_values("dice", ascending=False, kind="stable")
    turns = best.groupby("subject", sort=False).cumcount().sort_values(kind="stable")
    frames = [store.frame(row) for row in best.loc[turns.index, "row"].head(_SMOKE_FRAMES)]
    return [
        (frame, segmenter.mask(probability))
        for frame, probability in zip(frames, segmenter.probabilities(frames), strict=True)
    ]
