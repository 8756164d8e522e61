"""The registry of figures: each one's key in `metrics.json`, name, unit, direction, digits, sentence and computation.

Everything that shows a figure reads it here: the terminal, the report, the model card, the summary of a flow run; a
contract test holds the tables of docs/reference.md to it. To add a figure, add an entry to FIGURES:

- one that a single frame has (`of`) becomes a column of `per_image.csv`, and gets a mean with an interval and a spread
  over frames in `metrics.json`, a mean and a median for each subject, and rows in the report's tables;
- one that only all frames together have (`over`) becomes a number in `metrics.json`, with an interval if it has one.

`shown` names the other places where it stands.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from nerveseg.evaluation import calibration, selective
from nerveseg.evaluation.bootstrap import Estimate

if TYPE_CHECKING:
    from nerveseg.evaluation.results import Metrics
    from nerveseg.evaluation.scores import Frame, Sample

Place = Literal["terminal", "card", "report", "flow", "dvc"]  # report: its summary; dvc: its tables
Direction = Literal["higher", "lower"]

EXACT = 4  # digits in tables by which models are compared
SPREAD = {"median": 0.5, "p05": 0.05, "p25": 0.25, "p75": 0.75, "p95": 0.95}  # quantiles, by the ends of their keys
BASELINES = {  # by their keys in metrics.json
    "empty": "predicting nothing",
    "prior": "the mean training mask",
    "prior_half": "the mean training mask, thresholded at 0.5",
    "ellipse": "the ellipse with the prediction's moments",
}
_KEPT, _LEFT_OUT = f"{selective.KEPT:.0%}".replace("%", " %"), f"{1 - selective.KEPT:.0%}".replace("%", " %")


@dataclass(frozen=True)
class Figure:
    """A figure of `metrics.json`.

    Attributes:
        key: its dotted key there.
        name: as people read it, without unit.
        meaning: what it is, in one sentence without a full stop.
        better: which values are better; None if the figure says nothing about the model.
        unit: "" for a number without one.
        digits: after the decimal point in the report; tables by which models are compared have EXACT.
        interval: whether `key_ci` holds its 95 % interval.
        shown: where it stands besides `metrics.json`.
        of: computes it for one frame, NaN where it is undefined there; `metrics.json` has the mean over frames.
        over: computes it for all frames together. A figure with neither comes from outside of `scores.summary`.
        in_mm: whether it needs the pixel spacing; if no frame of a dataset has one, there is no such figure.
        detail: what the metrics add to its name, such as on how many frames it is defined; "" for nothing.
    """

    key: str
    name: str
    meaning: str
    better: Direction | None = "higher"
    unit: str = ""
    digits: int = 3
    interval: bool = True
    shown: frozenset[Place] = frozenset()
    of: "Callable[[Frame], float] | None" = None
    over: "Callable[[Sample], Estimate | float] | None" = None
    in_mm: bool = False
    detail: "Callable[[Metrics], str]" = lambda metrics: ""

    @property
    def section(self) -> str:
        """The key of the object in `metrics.json` that holds it, dotted."""
        return self.key.rpartition(".")[0]

    @property
    def column(self) -> str:
        """Its key in that object; for a figure of frames also its column in `per_image.csv` and the other tables."""
        return self.key.rpartition(".")[2]

    @property
    def label(self) -> str:
        """Its name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def title(self) -> str:
        """The label, and that it is a mean over frames if it is one."""
        return f"{self.label}, mean over frames" if self.of else self.label


def of_frames(spaced: bool) -> list[Figure]:
    """The figures that a single frame has, those in mm only if `spaced`."""
    return [figure for figure in FIGURES if figure.of and (spaced or not figure.in_mm)]


def in_section(section: str) -> list[Figure]:
    """The figures of an object in `metrics.json`, by its dotted key."""
    return [figure for figure in FIGURES if figure.section == section]


def get(key: str) -> Figure:
    """The figure with a key."""
    return next(figure for figure in FIGURES if figure.key == key)


def shown(place: Place, spaced: bool) -> list[Figure]:
    """The figures that stand in a place, those in mm only if `spaced`."""
    return [figure for figure in FIGURES if place in figure.shown and (spaced or not figure.in_mm)]


def intervals(subjects_known: bool) -> str:
    """What the intervals are, as a part of a sentence."""
    if not subjects_known:
        return "95 % intervals by resampling frames, because the subjects are unknown: too narrow"
    return (
        "95 % intervals by resampling subjects; the worst subject's interval resamples that subject's clusters of "
        "frames, and covers that subject's mean, not the ranking"
    )


def number(value: float | None, digits: int = EXACT) -> str:
    """A value as people read it; "undefined" for None and NaN."""
    return "undefined" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = EXACT) -> str:
    """An interval as people read it, `0.71 to 0.83`; "" if there is none."""
    return "" if bounds is None else " to ".join(f"{bound:.{digits}f}" for bound in bounds)


def with_interval(value: float | None, bounds: Sequence[float] | None, digits: int = EXACT) -> str:
    """A value and its interval, `0.77 (0.71 to 0.83)`."""
    between = interval(bounds, digits)
    return f"{number(value, digits)} ({between})" if between else number(value, digits)


def _defined(undefined: "Callable[[Metrics], int]") -> "Callable[[Metrics], str]":
    """On how many frames a figure is defined, where not on all: `undefined` tells on how many it is not."""

    def detail(metrics: "Metrics") -> str:
        frames, missing = metrics.test.frames, undefined(metrics)
        return f"defined on {frames - missing} of {frames}" if missing else ""

    return detail


def _spaced(metrics: "Metrics") -> str:
    """On how many frames a figure in mm can be defined."""
    return f"pixel spacing known on {metrics.test.with_spacing} of {metrics.test.frames}"


def _ranked(metrics: "Metrics") -> str:
    """How many subjects have enough frames."""
    return f"{metrics.test.subjects_ranked} {metrics.test.of_subjects}"


def _missed(sample: "Sample") -> Estimate:
    has_nerve = sample.column("true_area") > 0
    return sample.bootstrap.mean(np.where(has_nerve, sample.column("dice") == 0, np.nan))


def _below_half(sample: "Sample") -> Estimate:
    dice = sample.column("dice")
    return sample.bootstrap.mean(np.where(np.isnan(dice), np.nan, dice < 0.5))


def _pooled_dice(sample: "Sample") -> Estimate:
    return sample.bootstrap.ratio(
        2 * sample.column("overlap"), sample.column("true_area") + sample.column("predicted_area")
    )


def _pooled_iou(sample: "Sample") -> Estimate:
    overlap = sample.column("overlap")
    return sample.bootstrap.ratio(overlap, sample.column("true_area") + sample.column("predicted_area") - overlap)


def _worst_subject(sample: "Sample") -> Estimate:
    """Clusters are resampled, not frames: near-duplicate frames repeat one view."""
    ranked = sample.ranked
    if ranked.empty:
        return Estimate(np.nan, np.nan, np.nan)
    own = sample.of_subject(str(ranked.index[0])).mean("dice")
    return replace(own, value=float(ranked.iloc[0]))


def _risk_coverage_area(sample: "Sample") -> float:
    return float(selective.risk_coverage(sample.column("atypicality"), sample.column("dice"))["risk"].mean())


def _selective_gain(sample: "Sample") -> Estimate:
    dice = sample.column("dice")
    return sample.bootstrap.difference(dice, dice, sample.kept)


def _presence(sample: "Sample", right: str, wrong: str) -> Estimate:
    """The share of frames with the outcome `right` among those with either outcome."""
    good, bad = (sample.outcomes[name].astype(np.float64) for name in (right, wrong))
    return sample.bootstrap.ratio(good, good + bad)


def _of_baseline(key: str, meaning: str, shown: frozenset[Place]) -> tuple[Figure, Figure]:
    name, column = BASELINES[key], f"{key}_dice"
    return (
        Figure(
            f"baseline.{key}.dice",
            f"Dice of {name}",
            f"mean Dice over frames of {meaning}",
            None,
            shown=shown,
            over=lambda sample: sample.mean(column),
        ),
        Figure(
            f"baseline.{key}.gain",
            f"Gain over {name}",
            f"test.dice minus baseline.{key}.dice, paired by frame",
            over=lambda sample: sample.bootstrap.difference(sample.column("dice"), sample.column(column)),
        ),
    )


_TERMINAL: frozenset[Place] = frozenset({"terminal"})
_RECORDED: frozenset[Place] = frozenset({"terminal", "card"})
_HEADLINE: frozenset[Place] = frozenset({"terminal", "card", "report"})
_EVERYWHERE: frozenset[Place] = frozenset({"terminal", "card", "report", "flow"})
_DVC: frozenset[Place] = frozenset({"dvc"})  # few: `dvc exp show` has a column for each

FIGURES: tuple[Figure, ...] = (
    Figure(
        "test.dice",
        "Dice",
        "overlap of the predicted and the true mask: 1 is a perfect match, 0 no overlap",
        shown=_EVERYWHERE | _DVC,
        of=lambda frame: frame.overlap[0],
        detail=_defined(lambda metrics: metrics.test.left_out),
    ),
    Figure(
        "test.iou",
        "IoU",
        "intersection over union: stricter than Dice, 0.82 where Dice is 0.90",
        shown=_EVERYWHERE | _DVC,
        of=lambda frame: frame.overlap[1],
        detail=_defined(lambda metrics: metrics.test.left_out),
    ),
    Figure(
        "test.nsd",
        "NSD",
        "normalised surface distance: share of both outlines within evaluate.nsd_tolerance pixels of the other; 0 if "
        "one mask is empty, undefined if both are",
        shown=_EVERYWHERE | _DVC,
        of=lambda frame: frame.outlines.nsd,
        detail=_defined(lambda metrics: metrics.test.presence.true_negatives),
    ),
    Figure(
        "test.hd95",
        "HD95",
        "95 % Hausdorff distance: 95 % of each outline lies within this distance of the other; undefined if a mask is "
        "empty",
        "lower",
        unit="pixels",
        digits=1,
        shown=_EVERYWHERE | _DVC,
        of=lambda frame: frame.outlines.hd95,
        detail=_defined(lambda metrics: metrics.test.without_outline),
    ),
    Figure(
        "test.centroid_error",
        "Centroid error",
        "distance between the centroids of the two masks; undefined if a mask is empty",
        "lower",
        unit="pixels",
        digits=1,
        shown=_TERMINAL,
        of=lambda frame: frame.outlines.centroid_error,
        detail=_defined(lambda metrics: metrics.test.without_outline),
    ),
    Figure(
        "test.nsd_mm",
        "NSD, tolerance in mm",
        "normalised surface distance with a tolerance of evaluate.nsd_tolerance_mm, on frames whose pixel spacing is "
        "known",
        shown=_EVERYWHERE,
        of=lambda frame: frame.outlines_mm.nsd,
        in_mm=True,
        detail=_spaced,
    ),
    Figure(
        "test.hd95_mm",
        "HD95",
        "95 % Hausdorff distance in mm, on frames whose pixel spacing is known",
        "lower",
        unit="mm",
        digits=2,
        shown=_EVERYWHERE,
        of=lambda frame: frame.outlines_mm.hd95,
        in_mm=True,
        detail=_spaced,
    ),
    Figure(
        "test.centroid_error_mm",
        "Centroid error",
        "distance between the centroids of the two masks in mm, on frames whose pixel spacing is known",
        "lower",
        unit="mm",
        digits=2,
        shown=_RECORDED,
        of=lambda frame: frame.outlines_mm.centroid_error,
        in_mm=True,
        detail=_spaced,
    ),
    Figure(
        "test.true_area_mm2",
        "True area",
        "area of the true mask, 0 if it is empty, on frames whose pixel spacing is known",
        None,
        unit="mm²",
        digits=1,
        shown=_RECORDED,
        of=lambda frame: frame.area_mm2(frame.truth),
        in_mm=True,
        detail=_spaced,
    ),
    Figure(
        "test.predicted_area_mm2",
        "Predicted area",
        "area of the predicted mask, 0 if it is empty, on frames whose pixel spacing is known",
        None,
        unit="mm²",
        digits=1,
        shown=_RECORDED,
        of=lambda frame: frame.area_mm2(frame.mask),
        in_mm=True,
        detail=_spaced,
    ),
    Figure(
        "test.dice_by_subject",
        "Dice, mean over subjects",
        "mean of the subjects' means, in which every subject counts equally",
        shown=_EVERYWHERE,
        over=lambda sample: sample.mean_of_subjects("dice"),
    ),
    Figure(
        "test.iou_by_subject",
        "IoU, mean over subjects",
        "mean of the subjects' means, in which every subject counts equally",
        over=lambda sample: sample.mean_of_subjects("iou"),
    ),
    Figure(
        "test.dice_by_ranked_subject",
        "Dice, mean over subjects with enough frames",
        "the same without subjects that have fewer than evaluate.min_frames frames",
        shown=_HEADLINE,
        over=lambda sample: sample.mean_of_ranked_subjects("dice"),
        detail=_ranked,
    ),
    Figure(
        "test.iou_by_ranked_subject",
        "IoU, mean over subjects with enough frames",
        "the same without subjects that have fewer than evaluate.min_frames frames",
        over=lambda sample: sample.mean_of_ranked_subjects("iou"),
        detail=_ranked,
    ),
    Figure(
        "test.worst_subject",
        "Dice of the worst subject",
        "lowest mean Dice of a subject with at least evaluate.min_frames frames; its interval resamples that "
        "subject's clusters and covers that subject's mean, not the ranking",
        shown=_HEADLINE | _DVC,
        over=_worst_subject,
        detail=lambda metrics: (
            metrics.test.worst_subject_name
            or ("none has enough frames" if metrics.test.subjects_known else "subjects are unknown")
        ),
    ),
    Figure(
        "test.dice_below_half",
        "Share of frames with a Dice below 0.5",
        "how often a segmentation is more wrong than right",
        "lower",
        shown=_HEADLINE,
        over=_below_half,
    ),
    Figure(
        "test.pooled_dice",
        "Dice, pooled over all pixels",
        "Dice of the pixels of all frames taken as one frame, in which large nerves count more",
        shown=_TERMINAL,
        over=_pooled_dice,
    ),
    Figure(
        "test.pooled_iou",
        "IoU, pooled over all pixels",
        "IoU of the pixels of all frames taken as one frame, in which large nerves count more",
        over=_pooled_iou,
    ),
    Figure(
        "test.presence.recall",
        "Nerve presence, recall",
        "share of the frames with a nerve on which one is predicted: TP / (TP + FN)",
        shown=_RECORDED,
        over=lambda sample: _presence(sample, "true_positives", "false_negatives"),
    ),
    Figure(
        "test.presence.missed",
        "Nerve missed, Dice of 0",
        "share of the frames with a nerve that no predicted pixel lies on: nothing is predicted, or a mask in the "
        "wrong place, which recall counts as found",
        "lower",
        shown=_RECORDED,
        over=_missed,
    ),
    Figure(
        "test.presence.specificity",
        "Nerve presence, specificity",
        "share of the frames without a nerve on which nothing is predicted: TN / (TN + FP)",
        shown=_RECORDED,
        over=lambda sample: _presence(sample, "true_negatives", "false_positives"),
    ),
    Figure(
        "test.presence.precision",
        "Nerve presence, precision",
        "share of the frames with a predicted nerve that have one: TP / (TP + FP)",
        over=lambda sample: _presence(sample, "true_positives", "false_positives"),
    ),
    Figure(
        "test.ece",
        "Expected calibration error",
        f"mean distance between predicted probability and share of nerve, over pixels in {calibration.BINS} bins",
        "lower",
        digits=EXACT,
        shown=_HEADLINE,
        over=lambda sample: sample.bootstrap.of_sums(sample.histogram_sums, calibration.expected_error),
    ),
    Figure(
        "test.brier",
        "Brier score",
        "mean squared error of the predicted probability, over pixels",
        "lower",
        digits=EXACT,
        over=lambda sample: sample.bootstrap.of_sums(sample.histogram_sums, calibration.brier),
    ),
    Figure(
        "test.confidence_dice_correlation",
        "Confidence against Dice",
        "Spearman's rank correlation over frames: 1 if the more confident mask always has the higher Dice",
        digits=2,
        interval=False,
        over=lambda sample: sample.rank_correlation("confidence"),
    ),
    Figure(
        "test.atypicality_dice_correlation",
        "Atypicality against Dice",
        "Spearman's rank correlation over frames: -1 if the more atypical mask always has the lower Dice",
        "lower",
        digits=2,
        interval=False,
        over=lambda sample: sample.rank_correlation("atypicality"),
    ),
    Figure(
        "test.risk_coverage_area",
        "Area under the risk-coverage curve",
        "mean of risk in risk_coverage.csv",
        "lower",
        interval=False,
        over=_risk_coverage_area,
    ),
    Figure(
        "test.dice_kept",
        f"Dice of the least atypical {_KEPT}",
        f"mean Dice of the least atypical {_KEPT} of frames; frames tied at the cut share the remaining weight",
        over=lambda sample: sample.bootstrap.mean(sample.column("dice"), sample.kept),
    ),
    Figure(
        "test.selective_gain",
        f"Dice gained by leaving out the most atypical {_LEFT_OUT}",
        "test.dice_kept minus test.dice, paired by frame",
        shown=_RECORDED,
        over=_selective_gain,
    ),
    *_of_baseline("empty", "an empty mask for every frame", _RECORDED | {"flow"}),
    *_of_baseline(
        "prior",
        "one mask for every frame: the mean training mask, thresholded where it scores best on the training frames",
        _RECORDED | {"flow"},
    ),
    *_of_baseline("prior_half", "the same, thresholded at 0.5", _RECORDED),
    *_of_baseline("ellipse", "the ellipse with the moments of the predicted mask", _RECORDED),
    Figure(
        "ceiling.dice",
        "Ceiling of Dice",
        "best mean Dice over the scored frames if near-duplicate frames get one and the same mask",
        None,
        shown=_TERMINAL,
        detail=lambda metrics: f"{metrics.ceiling.conflicting_pairs} conflicting pairs of labels",
    ),
    *(
        Figure(f"leakage.{part}.{key}", name.format(label), meaning, None, digits=EXACT)
        for part, name, meaning in (
            ("by_subject", "{}, folds of subjects", "mean over frames, each scored out of fold, folds of subjects"),
            ("by_frame", "{}, random folds", "mean over the same frames, random folds"),
            ("optimism", "Optimism in {}", "random folds minus folds of subjects, paired by frame"),
        )
        for key, label in (("dice", "Dice"), ("iou", "IoU"))
    ),
)
