"""Confidence intervals by a bootstrap that resamples whole subjects.

Frames of one subject resemble each other, so the sampling unit is the subject, not the frame (Davison and Hinkley,
Bootstrap Methods and their Application, 1997, 3.8). A resample draws as many subjects as there are, with replacement,
each with all its frames; the interval lies between the 2.5th and the 97.5th percentile of the figure over the resamples
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3).

With few subjects, such an interval is too narrow. In simulations with normal and skewed subjects, 93 % of the intervals
covered the true value with 35 subjects, 92 % with 20, 89 % with ten, 83 % with five. With one subject there is none. An
interval covers other subjects from the same source, not other scanners, and not another training run.

Only figures that are functions of sums over subjects get an interval: means and ratios. For a median, a percentile or a
minimum, such as the worst of the subjects, the percentile bootstrap is unreliable with few subjects. The interval of
one subject's mean is another matter: it resamples that subject's clusters of near-duplicate frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nerveseg.arrays import Floats

_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its bounds, low and high; None if undefined."""
        return None if np.isnan(self.low) else (self.low, self.high)


class SubjectBootstrap:
    """Resamples of the subjects of a set of frames, the same for every figure, so that differences are paired."""

    def __init__(self, subjects: Sequence[str], resamples: int, seed: int) -> None:
        """
        Args:
            subjects: the subject of each frame; within one subject, the cluster.
            resamples: their number; a few thousand fix the second digit of an interval's width.
            seed: for PCG64.
        """
        self._codes, names = pd.factorize(np.asarray(subjects, dtype=object))
        self._subjects = len(names)
        draw = np.random.Generator(np.random.PCG64(seed)).multinomial
        # How often each resample holds each subject: (resamples, subjects).
        self._draws = draw(self._subjects, np.full(self._subjects, 1 / self._subjects), resamples).astype(np.float64)

    def mean(self, values: Floats, weights: Floats | float = 1.0) -> Estimate:
        """The mean over frames, those that are NaN left out. `values` and `weights`, >= 0, are float64 (frames,)."""
        return self.ratio(*_mean(values, weights))

    def mean_of_subjects(self, values: Floats) -> Estimate:
        """The mean of the subjects' means, in which subjects weigh alike; NaN left out. `values`: float64 (frames,)."""
        sums = self._sums(np.stack(_mean(values), axis=1))
        defined = sums[:, 1] > 0
        means = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(self._subjects), where=defined)
        return self._estimate(np.stack([means, defined], axis=1), _ratio)

    def ratio(self, numerators: Floats, denominators: Floats) -> Estimate:
        """sum(numerators) / sum(denominators) over the frames, both float64 (frames,)."""
        return self.of_sums(np.stack([numerators, denominators], axis=1), _ratio)

    def difference(self, first: Floats, second: Floats, weights: Floats | float = 1.0) -> Estimate:
        """The mean of `first`, with `weights`, less that of `second`, both of the same frames, as for `mean`."""
        return self.of_sums(
            np.stack([*_mean(first, weights), *_mean(second)], axis=1),
            lambda sums: _ratio(sums[:, :2]) - _ratio(sums[:, 2:]),
        )

    def of_sums(self, columns: Floats, figure: Callable[[Floats], Floats]) -> Estimate:
        """A figure that is a function of sums over the frames.

        Args:
            columns: float64 (frames, k), what is summed.
            figure: from sums (n, k) to figures (n,).
        """
        return self._estimate(self._sums(columns), figure)

    def _sums(self, columns: Floats) -> Floats:
        """The sums of each subject, (subjects, k)."""
        sums = np.zeros((self._subjects, columns.shape[1]))
        np.add.at(sums, self._codes, columns)
        return sums

    def _estimate(self, sums: Floats, figure: Callable[[Floats], Floats]) -> Estimate:
        value = float(figure(sums.sum(axis=0, keepdims=True))[0])
        drawn = figure(self._draws @ sums)
        drawn = drawn[np.isfinite(drawn)]  # a resample may hold no frame on which the figure is defined
        if self._subjects < 2 or not len(drawn):
            return Estimate(value, np.nan, np.nan)
        low, high = np.percentile(drawn, _PERCENTILES)
        return Estimate(value, float(low), float(high))


def _mean(values: Floats, weights: Floats | float = 1.0) -> tuple[Floats, Floats]:
    """A mean as numerators and denominators."""
    return np.nan_to_num(values) * weights, ~np.isnan(values) * weights


def _ratio(sums: Floats) -> Floats:
    ratios: Floats = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    return ratios
