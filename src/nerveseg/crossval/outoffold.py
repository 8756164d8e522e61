"""Pools the scores of all folds: every frame is scored once, by a network that has not seen it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nerveseg.errors import NervesegError
from nerveseg.evaluation.bootstrap import Estimate, SubjectBootstrap
from nerveseg.evaluation.scores import Scores
from nerveseg.params import EvaluateParams


def pool(folds: Sequence[Scores], frames: int) -> Scores:
    """The out-of-fold scores, in the order of the frame store's index.

    Args:
        folds: scores of the test frames of each fold, all of one dataset.
        frames: number of frames in the dataset.

    Returns:
        The scores of all frames, with the column `fold` in the table, counted from 0.

    Raises:
        NervesegError: a frame was scored in no fold or in several.
    """
    table = pd.concat([scores.table.assign(fold=number) for number, scores in enumerate(folds)], ignore_index=True)
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    table = table.iloc[order].reset_index(drop=True)
    if not np.array_equal(table["row"], np.arange(frames)):
        twice, missing = int(table["row"].duplicated().sum()), frames - table["row"].nunique()
        raise NervesegError(
            f"The folds do not test every frame once: of {frames}, {missing} are in no fold, {twice} in more than one. "
            "They come from different datasets or splits."
        )
    return Scores(table, np.concatenate([scores.histograms for scores in folds])[order])


def sweep(sweeps: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Pools the folds' validation sweeps from `calibration.sweep`: means over all their frames."""
    stacked = pd.concat(sweeps)
    means = ["dice", "iou"]
    sums = stacked.assign(**{name: stacked[name] * stacked["frames"] for name in means}).groupby("threshold").sum()
    return sums.assign(**{name: sums[name] / sums["frames"] for name in means}).reset_index()


def leakage(by_subject: Scores, by_frame: Scores, evaluate: EvaluateParams) -> dict[str, Any]:
    """The leakage audit: how much too good scores are if the tested subjects have frames in training.

    Args:
        by_subject, by_frame: out-of-fold scores of the same frames from folds of subjects and from random folds, by
            Kaggle's rule, from `pool`.
        evaluate: rule, resamples and seed.

    Returns:
        `by_subject` and `by_frame`, each with `dice` and `iou`, and `optimism`, the second minus the first, paired by
        frame; each metric X with `X_ci` from resampling subjects, None with one subject.

    Raises:
        NervesegError: the frames differ.
    """
    honest, leaking = (scores.by_rule(evaluate.empty).table for scores in (by_subject, by_frame))
    if not honest["image"].equals(leaking["image"]):
        raise NervesegError("The folds of subjects and the random folds do not have the same frames.")
    bootstrap = SubjectBootstrap(honest["subject"], evaluate.resamples, evaluate.seed)
    found: dict[str, Any] = {"by_subject": {}, "by_frame": {}, "optimism": {}}
    for name in ("dice", "iou"):
        first, second = (table[name].to_numpy() for table in (honest, leaking))
        for part, estimate in (
            ("by_subject", bootstrap.mean(first)),
            ("by_frame", bootstrap.mean(second)),
            ("optimism", bootstrap.difference(second, first)),
        ):
            found[part] |= _figure(name, estimate)
    return found


def _figure(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: None if np.isnan(estimate.value) else estimate.value, f"{name}_ci": estimate.interval}
