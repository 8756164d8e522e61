"""The figures of each scored frame, and from them those of all frames: what `reports/metrics.json` holds.

Which figures there are, and how each is computed, is the registry of `figures`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from nerveseg import legacy
from nerveseg.arrays import Bools, Floats, Mask, Probability
from nerveseg.data import rle
from nerveseg.data.frame_store import SITE
from nerveseg.errors import NervesegError
from nerveseg.evaluation import baselines, calibration, empty, figures, metrics, selective, surface
from nerveseg.evaluation.baselines import Priors
from nerveseg.evaluation.bootstrap import Estimate, SubjectBootstrap
from nerveseg.evaluation.figures import BASELINES, SPREAD, Figure
from nerveseg.files import replacing
from nerveseg.model import plausibility, shape
from nerveseg.model.spec import Plausibility
from nerveseg.params import EmptyRule, EvaluateParams

_HISTOGRAM = "histogram"
_SPACED = "true_area_mm2"  # undefined only where the pixel spacing is unknown


@dataclass(frozen=True)
class Frame:
    """A frame as the figures of the registry see it.

    Attributes:
        mask: the prediction, uint8 0/1 (H, W).
        truth: uint8 0/1 (H, W).
        evaluate: has the tolerances of the normalised surface distance.
        spacing: as `FrameStore.spacing` returns it.
    """

    mask: Mask
    truth: Mask
    evaluate: EvaluateParams
    spacing: tuple[float, float] | None = None

    @cached_property
    def overlap(self) -> tuple[float, float]:
        """Dice and IoU by Kaggle's rule for empty masks."""
        return metrics.score(self.mask, self.truth)

    @cached_property
    def outlines(self) -> surface.Outline:
        """How far the two outlines lie apart, in pixels."""
        return surface.compare(self.mask, self.truth, self.evaluate.nsd_tolerance)

    @cached_property
    def outlines_mm(self) -> surface.Outline:
        """How far the two outlines lie apart, in mm; NaN if the spacing is unknown."""
        if self.spacing is None or np.isnan(self.spacing).any():
            return surface.Outline()
        return surface.compare(self.mask, self.truth, self.evaluate.nsd_tolerance_mm, self.spacing)

    def area_mm2(self, mask: Mask) -> float:
        """The area of one of its masks in mm²; NaN if the spacing is unknown."""
        return float("nan") if self.spacing is None else float(np.count_nonzero(mask) * np.prod(self.spacing))

    @property
    def figures(self) -> dict[str, float]:
        """The registry's figures of frames, by their columns."""
        return {figure.column: figure.of(self) for figure in figures.of_frames(self.spacing is not None) if figure.of}


@dataclass(frozen=True)
class Sample:
    """The scored frames as the figures of the registry see them.

    Attributes:
        scores: by the rule `evaluate.empty`.
        bootstrap: resamples the subjects of these frames.
        evaluate: rule, resamples and seed.
        subjects_known: whether the column subject names people; if not, it has another name for each frame.
    """

    scores: "Scores"
    bootstrap: SubjectBootstrap
    evaluate: EvaluateParams
    subjects_known: bool = True

    @classmethod
    def of(cls, scores: "Scores", evaluate: EvaluateParams, unit: str = "subject", subjects_known: bool = True) -> Self:
        """The frames with resamples of a column: whole subjects, or the clusters of one subject."""
        bootstrap = SubjectBootstrap(scores.table[unit], evaluate.resamples, evaluate.seed)
        return cls(scores, bootstrap, evaluate, subjects_known)

    def column(self, name: str) -> Floats:
        """A column of the table: float64 (frames,), NaN where undefined."""
        values: Floats = self.scores.table[name].to_numpy(np.float64)
        return values

    def mean(self, name: str) -> Estimate:
        """The mean of a column over frames, those where it is undefined left out."""
        return self.bootstrap.mean(self.column(name))

    def mean_of_subjects(self, name: str) -> Estimate:
        """The mean of the subjects' means of a column."""
        return self.bootstrap.mean_of_subjects(self.column(name))

    def mean_of_ranked_subjects(self, name: str) -> Estimate:
        """The same over the subjects in `ranked` only."""
        enough = self.scores.table["subject"].isin(self.ranked.index).to_numpy()
        return self.bootstrap.mean_of_subjects(np.where(enough, self.column(name), np.nan))

    def rank_correlation(self, name: str) -> float:
        """Spearman's rank correlation of a column with Dice; NaN where either is constant."""
        from scipy.stats import spearmanr  # slow to import

        both = self.scores.table[[name, "dice"]].dropna()
        if (both.nunique() < 2).any():
            return float("nan")
        return float(spearmanr(both[name], both["dice"]).statistic)

    def of_subject(self, name: str) -> "Sample":
        """The frames of one subject that have a Dice, with resamples of that subject's clusters of frames."""
        table = self.scores.table
        own = (table["dice"].notna() & (table["subject"] == name)).to_numpy()
        return Sample.of(Scores(table[own], self.scores.histograms[own]), self.evaluate, "cluster")

    @cached_property
    def ranked(self) -> pd.Series:
        """Mean Dice of the known subjects with at least `evaluate.min_frames` frames, the lowest first."""
        subjects = self.scores.table.dropna(subset="dice").groupby("subject", sort=False)["dice"].agg(["size", "mean"])
        enough = (subjects["size"] >= self.evaluate.min_frames) & self.subjects_known
        return subjects.loc[enough, "mean"].sort_values(kind="stable")

    @cached_property
    def outcomes(self) -> dict[str, Bools]:
        """TP, FP, FN and TN of nerve presence, per frame: bool (frames,)."""
        return outcomes(self.scores.table)

    @cached_property
    def kept(self) -> Floats:
        """Weights of the frames that selective prediction keeps, as `selective.kept` returns them."""
        table = self.scores.table
        return selective.kept(table["atypicality"].where(table["dice"].notna()).to_numpy())

    @cached_property
    def histogram_sums(self) -> Floats:
        """The histograms, a row per frame: float64 (frames, 4 * BINS)."""
        return self.scores.histograms.reshape(len(self.scores.histograms), -1)


@dataclass(frozen=True)
class Scores:
    """Scored frames.

    Attributes:
        table: a row per frame, RangeIndex: row (in the frame store's index), image, subject, site (if any is known),
            cluster, height, width, sha256 (of the frame's pixels), and the entries of `of_frame`.
        histograms: float64 (frames, 4, BINS), as `calibration.histogram` returns them.
    """

    table: pd.DataFrame
    histograms: Floats

    def by_rule(self, rule: EmptyRule) -> "Scores":
        """The same frames with every Dice and IoU by another rule for empty masks."""
        columns = ["dice", "iou", *(f"{name}_dice" for name in BASELINES)]
        true = self.table["true_area"].to_numpy()
        changed = {column: empty.apply(self.table[column].to_numpy(), true, rule) for column in columns}
        return Scores(self.table.assign(**changed), self.histograms)

    def write(self, path: Path) -> None:
        """Writes a parquet file with the columns of the table, and `histogram`, a list for each frame."""
        flat = self.histograms.reshape(len(self.histograms), -1)
        with replacing(path) as beside:
            self.table.assign(**{_HISTOGRAM: list(flat)}).to_parquet(beside, index=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what `write` wrote.

        Raises:
            NervesegError: the file is missing, damaged, or from an older version, which only stored the masks.
        """
        try:
            table = pd.read_parquet(path)
            histograms = np.stack(table.pop(_HISTOGRAM).to_numpy()).reshape(len(table), -1, calibration.BINS)
        except FileNotFoundError:
            raise NervesegError(f"{path} is missing: `dvc repro` makes it, `dvc pull` fetches it.") from None
        except (OSError, ValueError, KeyError) as error:
            raise NervesegError(f"{path} holds no scores ({error}): `dvc repro -f -s evaluate` recreates it.") from None
        return cls(table.rename(columns=legacy.current), histograms)


def of_frame(
    probability: Probability,
    mask: Mask,
    truth: Mask,
    priors: Priors,
    training: Plausibility | None,
    evaluate: EvaluateParams,
    spacing: tuple[float, float] | None = None,
) -> dict[str, float | str]:
    """What is recorded of one frame.

    Args:
        probability: float32 in [0, 1] (H, W).
        mask, truth, evaluate, spacing: as `Frame` has them.
        priors: as `baselines.priors` returns them.
        training: as `plausibility.fit` returns it; None: atypicality is NaN.

    Returns:
        The registry's figures of frames; atypicality; confidence (NaN where nothing is predicted); true_area,
        predicted_area, overlap in pixels; the Dice of each baseline; rle_mask.
    """
    frame = Frame(mask, truth, evaluate, spacing)
    best, half = (baselines.at_size(prior, *truth.shape) for prior in (priors.best, priors.half))
    guesses = (np.zeros_like(truth), best, half, shape.ellipse(mask))
    return {
        **frame.figures,
        "atypicality": plausibility.atypicality(mask, training),
        "confidence": metrics.confidence(probability, mask),
        "true_area": int(np.count_nonzero(truth)),
        "predicted_area": int(np.count_nonzero(mask)),
        "overlap": int(np.count_nonzero(mask & truth)),
        **{f"{name}_dice": metrics.score(guess, truth)[0] for name, guess in zip(BASELINES, guesses, strict=True)},
        "rle_mask": rle.encode(mask),
    }


def is_spaced(table: pd.DataFrame) -> bool:
    """Whether a table as `Scores` has it holds figures in mm: those of a dataset in which a pixel spacing is known."""
    return _SPACED in table


def per_image(table: pd.DataFrame) -> pd.DataFrame:
    """What `per_image.csv` holds, of a table as `Scores` has it."""
    columns = [figure.column for figure in figures.of_frames(is_spaced(table))]
    site = [SITE] if SITE in table else []
    return table[["image", "subject", *site, *columns, "atypicality", "confidence", "true_area", "predicted_area"]]


def per_subject(table: pd.DataFrame, by: str = "subject") -> pd.DataFrame:
    """What `per_subject.csv` holds: one row a subject.

    Args:
        table: as `per_image` returns it, or with more columns.
        by: the column to group by.

    Returns:
        subject (or what `by` says), frames; with_spacing, the frames whose pixel spacing is known, where the table has
        figures in mm; the means of the figures of frames and of atypicality; the medians of the former as X_median;
        dice_below_half, the share of the subject's frames; TP, FP, FN and TN of nerve presence in frames as
        true_positives, ..., with precision, recall and missed. A frame where a figure is undefined is left out of its
        mean and median; NaN where it is undefined for all frames.
    """
    columns = [figure.column for figure in figures.of_frames(is_spaced(table))]
    below_half = table["dice"].lt(0.5).where(table["dice"].notna())
    missed = table["dice"].eq(0).where(table["true_area"] > 0)
    presence = pd.DataFrame(outcomes(table)).set_axis(table.index)
    shares = [below_half.astype(float).rename("dice_below_half"), missed.astype(float).rename("missed")]
    extended = pd.concat([table, *shares, presence], axis=1)
    grouped = extended.groupby(by, sort=False)
    counts = grouped[list(presence)].sum()
    right = counts["true_positives"]
    parts = [
        grouped.size().rename("frames"),
        *([grouped[_SPACED].count().rename("with_spacing")] if is_spaced(table) else []),
        grouped[[*columns, "atypicality"]].mean(),
        grouped[columns].median().add_suffix("_median"),
        grouped["dice_below_half"].mean(),
        counts,
        (right / (right + counts["false_positives"])).rename("precision"),
        (right / (right + counts["false_negatives"])).rename("recall"),
        grouped["missed"].mean(),
    ]
    return pd.concat(parts, axis=1).reset_index()


def curves(scores: Scores, sweep: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables in `reports/curves/`, by name: calibration, thresholds and risk_coverage.

    Args:
        scores: by the rule `evaluate.empty`.
        sweep: of the validation frames, as `calibration.sweep` returns it.
    """
    atypicality, dice = (scores.table[name].to_numpy() for name in ("atypicality", "dice"))
    return {
        "calibration": calibration.curve(scores.histograms),
        "thresholds": sweep,
        "risk_coverage": selective.risk_coverage(atypicality, dice),
    }


def summary(
    scores: Scores, sweep: pd.DataFrame, evaluate: EvaluateParams, subjects_known: bool = True
) -> dict[str, Any]:
    """What `metrics.json` holds but for the sections that come from elsewhere, as `results.Metrics` reads it.

    Args:
        scores: by Kaggle's rule, as `of_frame` computes them.
        sweep: of the validation frames, as `calibration.sweep` returns it.
        evaluate: rule, resamples and seed.
        subjects_known: as `Sample` has it.
    """
    sample = Sample.of(scores.by_rule(evaluate.empty), evaluate, subjects_known=subjects_known)
    table, ranked = sample.scores.table, sample.ranked
    threshold, best_dice = calibration.best(sweep)
    record: dict[str, Any] = {
        "test": {
            "split": evaluate.split,
            "frames": len(table),
            "subjects": table["subject"].nunique(),
            "subjects_known": subjects_known,
            "left_out": int(table["dice"].isna().sum()),
            "without_outline": int(table["hd95"].isna().sum()),
            **({"with_spacing": int(table[_SPACED].notna().sum())} if is_spaced(table) else {}),
            "worst_subject_name": None if ranked.empty else ranked.index[0],
            "subjects_ranked": len(ranked),
            "presence": {name: int(frames.sum()) for name, frames in sample.outcomes.items()},
        },
        "baseline": {name: {} for name in BASELINES},
        "validation": {"best_threshold": threshold, "dice_at_best_threshold": best_dice},
        "empty_rule": empty.describe(evaluate.empty),
        "by_empty_rule": {
            rule: {name: scores.by_rule(rule).table[name].mean() for name in ("dice", "iou")} for rule in empty.RULES
        },
    }
    for figure in figures.FIGURES:
        if (figure.of or figure.over) and (is_spaced(table) or not figure.in_mm):
            section = record
            for part in figure.section.split("."):
                section = section[part]
            section |= _measure(figure, sample)
    plain: dict[str, Any] = _plain(record)
    return plain


def _measure(figure: Figure, sample: Sample) -> dict[str, Any]:
    """The entries of a figure in its section of metrics.json."""
    name = figure.column
    found = figure.over(sample) if figure.over else sample.mean(name)
    if not isinstance(found, Estimate):
        return {name: found}
    record = {name: found.value, **({f"{name}_ci": found.interval} if figure.interval else {})}
    if figure.of:
        values = sample.scores.table[name]
        record |= {f"{name}_{place}": values.quantile(share) for place, share in SPREAD.items()}
    return record


def outcomes(table: pd.DataFrame) -> dict[str, Bools]:
    """TP, FP, FN and TN of nerve presence, per frame: bool (frames,)."""
    is_there, is_found = table["true_area"].to_numpy() > 0, table["predicted_area"].to_numpy() > 0
    return {
        "true_positives": is_there & is_found,
        "false_positives": ~is_there & is_found,
        "false_negatives": is_there & ~is_found,
        "true_negatives": ~is_there & ~is_found,
    }


def _plain(value: Any) -> Any:
    """Python's own numbers, None for NaN: what JSON can hold."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
