"""How far a batch of frames lies from the training set: a population stability index of each figure.

PSI = sum((a - e) ln(a / e)) over bins, with the shares e of the training set and a of the batch; by custom, 0.1 to 0.25
is a moderate and more a major shift (Siddiqi, Credit Risk Scorecards, 2006). Bins count half a frame more than they
hold, so that an empty one does not outweigh all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtri  # scipy.stats.chi2 is the same and takes a second to import

from nerveseg import legacy
from nerveseg.arrays import Floats, Frame, Ints
from nerveseg.data.names import subject_of

LEVELS = 256  # grey levels
_GREY_BINS = 16
_QUANTILES = 5
_CHANCE = 0.001  # how often a batch of the very same kind may pass the limit of a figure that a frame has one of


@dataclass(frozen=True)
class Figures:
    """What a set of frames looks like.

    Attributes:
        grey: int64 (256,), pixels of each grey level over all frames.
        areas: float64 (N,), share of each frame that its predicted mask covers, in [0, 1].
        confidences: float64 (N,), of each frame; 0 where nothing was predicted.
        atypicalities: float64 (N,), of each predicted mask, in [0, 1]; NaN by a model that has no plausibility.
        subjects: people scanned, by the frames' names; a frame whose name tells none counts as one.
    """

    grey: Ints
    areas: Floats
    confidences: Floats
    atypicalities: Floats
    subjects: int

    def by_frame(self) -> dict[str, Floats]:
        """The figures that a frame has one of, (N,) each; without atypicality where the model tells none."""
        found = {"area": self.areas, "confidence": self.confidences, "atypicality": self.atypicalities}
        return {name: values for name, values in found.items() if not np.isnan(values).any()}


@dataclass(frozen=True)
class Drift:
    """One figure of a batch against the training set; `limit` is the PSI beyond which it has drifted."""

    figure: str
    training_mean: float
    batch_mean: float
    psi: float
    limit: float

    @property
    def drifted(self) -> bool:
        return self.psi > self.limit


def grey_levels(frame: Frame) -> Ints:
    """Pixels of each grey level of a uint8 frame: int64 (256,)."""
    return np.bincount(frame.ravel(), minlength=LEVELS)


def subject(name: str) -> str:
    """The person scanned, by the name of a frame; the name itself where it tells none."""
    return subject_of(name) or name


def reference(training: Figures) -> dict[str, Any]:
    """What `reports/reference.json` holds of the training frames: bins, counts and means of each figure."""
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
    """Intensity, area, confidence and atypicality of a batch against what `reference` recorded.

    Args:
        training: as `reference` makes it; that of an older model may hold atypicality under its
            former name, or lack it, in which case it is left out.
        threshold: PSI from which a figure has drifted. Frames of one person resemble each other, so for all but
            intensity the limit rises to what chance alone exceeds in one of a thousand batches of so few people:
            without drift, PSI is distributed as (1 / n + 1 / m) chi2(bins - 1) (Yurdakul, 2018,
            https://scholarworks.wmich.edu/dissertations/3208).
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
    """Values in each bin: below the first edge, from edge to edge, from the last one on."""
    counts: list[int] = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
    return counts


def _grey_counts(figures: Figures) -> list[float]:
    """Frames' worth of pixels in each bin of grey levels: the pixels of a frame are no chances of their own."""
    pixels = figures.grey.reshape(_GREY_BINS, -1).sum(axis=1)
    counts: list[float] = (pixels * (len(figures.areas) / pixels.sum())).tolist()
    return counts


def _grey_mean(grey: Ints) -> float:
    return float(grey @ np.arange(LEVELS) / grey.sum())
