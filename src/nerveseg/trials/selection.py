"""How much of a search's gain is selection: the best of many scores too well on the frames that chose it.

Three answers, all from what each trial scored on the same subjects, none from other trainings:

- out of the choice: a resample of subjects chooses, the subjects that it left out score what it chose. That is the
  bootstrap bias corrected cross-validation of Tsamardinos, Greasidou and Borboudakis 2018,
  https://doi.org/10.1007/s10994-018-5714-4, here of the difference to params.yaml. The mean over resamples is what the
  procedure gains on subjects that did not choose; 95 % of the resamples lie within the interval. A resample chooses by
  63 % of the subjects, so the estimate is rather too low.
- the selection: the apparent gain minus that.
- by chance: the gain that the best would show if no trial differed from params.yaml (White 2000, A reality check for
  data snooping, https://doi.org/10.1111/1468-0262.00152): every trial's difference is centred at zero, and the largest
  of a resample is averaged. The share of resamples whose largest reaches the apparent gain is a p-value of "no trial is
  better".

Pruned trials count in none of them: they were not among those chosen from. The networks of a trial were trained on
subjects of the other folds, as in any cross-validation.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nerveseg.arrays import Floats
from nerveseg.evaluation.bootstrap import Estimate
from nerveseg.params import EvaluateParams

_PERCENTILES = (2.5, 97.5)
_ROUNDING = 1e-9  # sums in another order differ by as much


@dataclass(frozen=True)
class Selection:
    """What a search gained.

    Attributes:
        best: the chosen column; 0: params.yaml as it is.
        apparent: its mean less that of column 0, on the frames that chose it; the interval is paired by subject.
        unseen: the gain on subjects that did not choose; NaN with fewer than two subjects.
        chance: the apparent gain to expect if no trial differed from column 0.
        p_value: of the hypothesis that no trial is better.
    """

    best: int
    apparent: Estimate
    unseen: Estimate
    chance: float
    p_value: float

    @property
    def selected(self) -> float:
        """The part of the apparent gain that is selection."""
        return self.apparent.value - self.unseen.value


def sums(frames: pd.DataFrame, figures: tuple[str, ...]) -> pd.DataFrame:
    """Per subject: `frames`, the number of its frames with a figure, and the sum of each figure over them.

    Args:
        frames: a row per frame with subject and the figures, float64, NaN where undefined, together for all figures.
    """
    defined = frames.dropna(subset=list(figures))
    grouped = defined.groupby("subject", sort=True)[list(figures)]
    return grouped.sum().assign(frames=grouped.size())


def select(totals: Floats, frames: Floats, evaluate: EvaluateParams) -> Selection:
    """Chooses the best column and estimates what the choice is worth.

    Args:
        totals: sums of a figure, float64 (subjects, trials); column 0 is params.yaml as it is. Higher is better.
        frames: how many frames each sum is over, float64 (subjects, trials).
        evaluate: number of resamples, and their seed.
    """
    means = totals.sum(axis=0) / frames.sum(axis=0)
    best = int(np.argmax(means))  # the first of equals, so column 0 unless another is better
    gain = float(means[best] - means[0])
    subjects = len(frames)
    if subjects < 2:
        nothing = Estimate(float("nan"), float("nan"), float("nan"))
        return Selection(best, Estimate(gain, float("nan"), float("nan")), nothing, float("nan"), float("nan"))
    draw = np.random.Generator(np.random.PCG64(evaluate.seed)).multinomial
    drawn = draw(subjects, np.full(subjects, 1 / subjects), evaluate.resamples).astype(np.float64)
    left_out = (drawn == 0).astype(np.float64)
    usable = left_out.any(axis=1)  # with few subjects, a resample may draw all of them
    inside, outside = (_gains(weights[usable], totals, frames) for weights in (drawn, left_out))
    chosen = outside[np.arange(len(outside)), np.argmax(inside, axis=1)]
    largest = (inside - (means - means[0])).max(axis=1)
    return Selection(
        best=best,
        apparent=Estimate(gain, *_bounds(inside[:, best])),
        unseen=Estimate(float(chosen.mean()), *_bounds(chosen)),
        chance=float(largest.mean()),
        p_value=float((largest >= gain - _ROUNDING).mean()),
    )


def _gains(weights: Floats, totals: Floats, frames: Floats) -> Floats:
    """The difference of each trial's mean to that of column 0 in each resample, (resamples, trials)."""
    means = (weights @ totals) / (weights @ frames)
    gains: Floats = means - means[:, :1]
    return gains


def _bounds(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
