"""Drift of a batch of frames from the training set: the population stability index (PSI) of each figure.

PSI = sum((a - e) ln(a / e)) over bins, with the shares e of the training set and a of the batch. By convention, 0.1 to
0.25 is a moderate shift and more is a major one (Siddiqi, Credit Risk Scorecards, 2006). Half a frame is added to each
bin, so that an empty one does not outweigh all others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtri  # scipy.stats.chi2 is the same and takes a second to import

from nerveseg import legacy
from nerveseg.arrays import Floats, Frame, Ints
from nerveseg.data.names import FIRST_PART, matched

LEVELS = 256  # grey levels
_GREY_BINS = 16
_QUANTILES = 5
_CHANCE = 0.001  # how often a batch without drift may exceed the limit, for figures with one value per frame


@dataclass(frozen=True)
class Figures:
    """Statistics of a set of frames.

    Attributes:
        grey: int64 (256,), number of pixels of each grey level over all frames.
        areas: float64 (N,), share of each frame that its predicted mask covers, in [0, 1].
        confidences: float64 (N,), of each frame; 0 where no nerve was predicted.
        atypicalities: float64 (N,), of each predicted mask, in [0, 1]; NaN for a model without plausibility.
        subjects: people scanned, by the frames' names; a frame whose name has no subject counts as one.
    """

    grey: Ints
    areas: Floats
    confidences: Floats
    atypicalities: Floats
    subjects: int

    def by_frame(self) -> dict[str, Floats]:
        """The figures with one value per frame, (N,) each; without atypicality if it is unknown."""
        found = {"area": self.areas, "confidence": self.confidences, "atypicality": self.atypicalities}
        return {name: values for name, values in found.items() if not np.isnan(values).any()}


@dataclass(frozen=True)
class Drift:
    """One figure of a batch compared with the training set; it has drifted if its PSI is above `limit`."""

    figure: str
    training_mean: float
    batch_mean: float
    psi: float
    limit: float

    @property
    def drifted(self) -> bool:
        return self.psi > self.limit


def grey_levels(frame: Frame) -> Ints:
    """Number of pixels of each grey level in a uint8 frame: int64 (256,)."""
    return np.bincount(frame.ravel(), minlength=LEVELS)


def people(names: Iterable[str], training: dict[str, Any]) -> set[str]:
    """The people in a batch, by the names of its frames; a frame whose name has no subject counts as one.

    Args:
        names: with or without folders.
        training: the content of `reference.json`, whose `subject_rule` says how the training set's names were read; an
            older one lacks it.
    """
    rule, names = training.get("subject_rule", FIRST_PART), list(names)
    if rule in ("column", "none"):  # a batch has no table
        return set(names)
    return {groups.get("subject") or name for name, groups in zip(names, matched(names, rule), strict=True)}


def reference(training: Figures) -> dict[str, Any]:
    """The content of `reports/reference.json`: bins, counts and means of each figure over the training frames."""
    record: dict[str, Any] = {
        "frames": len(training.areas),
        "subjects": training.subjects,
        "intensity": {"counts": _grey_counts(training), "mean": _grey_mean(training.grey)},
    }
    for name, values in training.by_frame().items():
        edges = sorted(set(np.quantile(values, np.linspace(0, 1, _QUANTILES + 1)[1:-1]).tolist()))
        record[name] = {"edges": edges, "counts": _counts(values, edges), "mean": float(values.mean())}
    return record


def compare(training: dict[str, Any], batch: Figures, threshold: float) -> list[Drift]:
    """Compares intensity, area, confidence and atypicality of a batch with the training set.

    Args:
        training: from `reference`; an older one may have atypicality under its former name, or lack it, in which case
            it is left out.
        threshold: PSI above which a figure has drifted. Frames of one person resemble each other, so for all figures
            but intensity the limit is at least the value exceeded by chance in one batch in a thousand. Without drift,
            PSI is distributed as (1 / n + 1 / m) chi2(bins - 1) for n people in the batch and m in training (Yurdakul,
            2018, https://scholarworks.wmich.edu/dissertations/3208).
    """
    if not len(batch.areas):
        return []
    training = legacy.renamed(training)
    grey = training["intensity"]
    found = [
        Drift("intensity", grey["mean"], _grey_mean(batch.grey), _psi(grey["counts"], _grey_counts(batch)), threshold)
    ]
    for name, values in batch.by_frame().items():
        expected = training.get(name)
        if expected is None:
            continue
        bins = len(expected["counts"])
        chance = (1 / batch.subjects + 1 / training["subjects"]) * float(chdtri(bins - 1, _CHANCE))
        psi = _psi(expected["counts"], _counts(values, expected["edges"]))
        found.append(Drift(name, expected["mean"], float(values.mean()), psi, max(threshold, chance)))
    return found


def _psi(expected: Sequence[float], actual: Sequence[float]) -> float:
    e, a = ((np.asarray(counts) + 0.5) / (sum(counts) + 0.5 * len(counts)) for counts in (expected, actual))
    return float(((a - e) * np.log(a / e)).sum())


def _counts(values: Floats, edges: Sequence[float]) -> list[int]:
    """Number of values in each bin: below the first edge, between two edges, from the last edge up."""
    counts: list[int] = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
    return counts


def _grey_counts(figures: Figures) -> list[float]:
    """Pixels in each bin of grey levels, scaled to add up to the number of frames: pixels are not independent."""
    pixels = figures.grey.reshape(_GREY_BINS, -1).sum(axis=1)
    counts: list[float] = (pixels * (len(figures.areas) / pixels.sum())).tolist()
    return counts


def _grey_mean(grey: Ints) -> float:
    return float(grey @ np.arange(LEVELS) / grey.sum())
