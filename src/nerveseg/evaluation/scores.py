"""The figures of each scored frame, and from them those of all: what `reports/metrics.json` holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from nerveseg.data import rle
from nerveseg.errors import NervesegError
from nerveseg.evaluation import baselines, calibration, empty, metrics, selective, surface
from nerveseg.evaluation.baselines import Priors
from nerveseg.evaluation.bootstrap import Estimate, SubjectBootstrap
from nerveseg.files import replacing
from nerveseg.model import plausibility, shape
from nerveseg.model.spec import Plausibility
from nerveseg.params import EmptyRule, EvaluateParams

BASELINES = ("empty", "prior", "prior_half", "ellipse")
_SPREAD = ("dice", "iou", "nsd", "hd95", "centroid_error")  # figures of which median and percentiles are given
_MEANS = (*_SPREAD, "atypicality")
_HISTOGRAM = "histogram"
PER_IMAGE = ("image", "subject", *_MEANS, "confidence", "true_area", "predicted_area")


@dataclass(frozen=True)
class Scores:
    """Scored frames.

    Attributes:
        table: a row a frame, RangeIndex: row (in the frame store's index), image, subject, cluster, height, width, the
            figures of `of_frame`, and rle_mask (the predicted mask).
        histograms: float64 (frames, 4, BINS), as `calibration.histogram` makes them.
    """

    table: pd.DataFrame
    histograms: np.ndarray

    def by_rule(self, rule: EmptyRule) -> "Scores":
        """The same with every Dice and IoU by another rule for empty masks."""
        columns = ["dice", "iou", *(f"{name}_dice" for name in BASELINES)]
        true = self.table["true_area"].to_numpy()
        changed = {column: empty.apply(self.table[column].to_numpy(), true, rule) for column in columns}
        return Scores(self.table.assign(**changed), self.histograms)

    def write(self, path: Path) -> None:
        """Writes all of it as a parquet file: the columns of the table, and `histogram` as a list a frame."""
        flat = self.histograms.reshape(len(self.histograms), -1)
        with replacing(path) as beside:
            self.table.assign(**{_HISTOGRAM: list(flat)}).to_parquet(beside, index=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote.

        Raises:
            NervesegError: the file is missing, damaged, or of an older version, which kept the masks alone.
        """
        try:
            table = pd.read_parquet(path)
            histograms = np.stack(table.pop(_HISTOGRAM).to_numpy()).reshape(len(table), -1, calibration.BINS)
        except FileNotFoundError:
            raise NervesegError(f"{path} is missing: `dvc repro` makes it, `dvc pull` brings it.") from None
        except (OSError, ValueError, KeyError) as error:
            raise NervesegError(
                f"{path} holds no scores ({error}): `dvc repro -f -s evaluate` makes it anew."
            ) from None
        return cls(table, histograms)


def of_frame(
    probability: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray,
    priors: Priors,
    training: Plausibility | None,
    tolerance: float,
) -> dict[str, float | str]:
    """The figures of one frame.

    Args:
        probability: float32 in [0, 1] (H, W).
        mask: the prediction, uint8 0/1 (H, W).
        truth: uint8 0/1 (H, W).
        priors: as `baselines.priors` makes them.
        training: as `plausibility.fit` makes it; None: no atypicality.
        tolerance: of the normalised surface distance, in pixels.

    Returns:
        dice, iou; nsd, hd95, centroid_error as `surface.Outline` has them; atypicality; confidence (NaN where
        nothing is predicted); true_area, predicted_area, overlap in pixels; the Dice of each baseline; rle_mask.
    """
    dice, iou = metrics.score(mask, truth)
    best, half = (baselines.at_size(prior, *truth.shape) for prior in (priors.best, priors.half))
    guesses = (np.zeros_like(truth), best, half, shape.ellipse(mask))
    return {
        "dice": dice,
        "iou": iou,
        **vars(surface.compare(mask, truth, tolerance)),
        "atypicality": plausibility.atypicality(mask, training),
        "confidence": metrics.confidence(probability, mask),
        "true_area": int(np.count_nonzero(truth)),
        "predicted_area": int(np.count_nonzero(mask)),
        "overlap": int(np.count_nonzero(mask & truth)),
        **{f"{name}_dice": metrics.score(guess, truth)[0] for name, guess in zip(BASELINES, guesses, strict=True)},
        "rle_mask": rle.encode(mask),
    }


def per_subject(table: pd.DataFrame) -> pd.DataFrame:
    """One row a subject: subject, frames, and the figures of its frames, those without a figure left out.

    Args:
        table: with the columns PER_IMAGE.

    Returns:
        subject, frames; the means; of those of _SPREAD X_median; dice_below_half, the share of its frames; whether its
        frames have a nerve, as true_positives, ... (frames), precision and recall, NaN where undefined.
    """
    below_half = table["dice"].lt(0.5).where(table["dice"].notna())
    outcomes = pd.DataFrame(_outcomes(table)).set_axis(table.index)
    extended = pd.concat([table, below_half.astype(float).rename("dice_below_half"), outcomes], axis=1)
    grouped = extended.groupby("subject", sort=False)
    counts = grouped[list(outcomes)].sum()
    right = counts["true_positives"]
    parts = [
        grouped.size().rename("frames"),
        grouped[list(_MEANS)].mean(),
        grouped[list(_SPREAD)].median().add_suffix("_median"),
        grouped["dice_below_half"].mean(),
        counts,
        (right / (right + counts["false_positives"])).rename("precision"),
        (right / (right + counts["false_negatives"])).rename("recall"),
    ]
    return pd.concat(parts, axis=1).reset_index()


def curves(scores: Scores, sweep: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What `reports/curves/` holds, by name: calibration, thresholds and risk_coverage.

    Args:
        scores: by the rule that counts.
        sweep: of the validation frames, as `calibration.sweep` makes it.
    """
    atypicality, dice = (scores.table[name].to_numpy() for name in ("atypicality", "dice"))
    return {
        "calibration": calibration.curve(scores.histograms),
        "thresholds": sweep,
        "risk_coverage": selective.risk_coverage(atypicality, dice),
    }


def summary(scores: Scores, sweep: pd.DataFrame, evaluate: EvaluateParams) -> dict[str, Any]:
    """What `metrics.json` holds: numbers, `X_ci: [low, high]` beside a headline figure X, None where undefined.

    Args:
        scores: by Kaggle's rule, as `of_frame` makes them.
        sweep: of the validation frames, as `calibration.sweep` makes it.
        evaluate: rule, resamples and seed.
    """
    ruled = scores.by_rule(evaluate.empty)
    bootstrap = SubjectBootstrap(ruled.table["subject"], evaluate.resamples, evaluate.seed)
    dice = ruled.table["dice"].to_numpy()
    threshold, best_dice = calibration.best(sweep)
    record = {
        "test": {
            "split": evaluate.split,
            **_counts(ruled.table),
            **_overlap(ruled.table, bootstrap),
            **_by_subject(ruled.table, bootstrap, evaluate),
            **_outlines(ruled.table, bootstrap),
            **_probability(ruled, bootstrap),
            **_selective_prediction(ruled.table, bootstrap),
            "presence": _presence(ruled.table, bootstrap),
        },
        "baseline": {name: _baseline(dice, ruled.table[f"{name}_dice"].to_numpy(), bootstrap) for name in BASELINES},
        "validation": {"best_threshold": threshold, "dice_at_best_threshold": best_dice},
        "empty_rule": empty.describe(evaluate.empty),
        "by_empty_rule": {
            rule: {name: scores.by_rule(rule).table[name].mean() for name in ("dice", "iou")} for rule in empty.RULES
        },
    }
    plain: dict[str, Any] = _plain(record)
    return plain


def _counts(table: pd.DataFrame) -> dict[str, int]:
    return {
        "frames": len(table),
        "subjects": table["subject"].nunique(),
        "left_out": int(table["dice"].isna().sum()),
        "without_outline": int(table["hd95"].isna().sum()),
    }


def _overlap(table: pd.DataFrame, bootstrap: SubjectBootstrap) -> dict[str, Any]:
    dice, iou = table["dice"].to_numpy(), table["iou"].to_numpy()
    overlap, true, predicted = (table[name].to_numpy() for name in ("overlap", "true_area", "predicted_area"))
    return {
        **_with_interval("dice", bootstrap.mean(dice)),
        **_with_interval("iou", bootstrap.mean(iou)),
        **_spread(table, "dice"),
        **_spread(table, "iou"),
        **_with_interval("dice_below_half", bootstrap.mean(np.where(np.isnan(dice), np.nan, dice < 0.5))),
        **_with_interval("pooled_dice", bootstrap.ratio(2 * overlap, true + predicted)),
        **_with_interval("pooled_iou", bootstrap.ratio(overlap, true + predicted - overlap)),
    }


def _by_subject(table: pd.DataFrame, bootstrap: SubjectBootstrap, evaluate: EvaluateParams) -> dict[str, Any]:
    defined = table.dropna(subset="dice")
    subjects = defined.groupby("subject", sort=False)["dice"].agg(["size", "mean"])
    ranked = subjects.loc[subjects["size"] >= evaluate.min_frames, "mean"].sort_values(kind="stable")
    name = ranked.index[0] if len(ranked) else None
    return {
        **_with_interval("dice_by_subject", bootstrap.mean_of_subjects(table["dice"].to_numpy())),
        **_with_interval("iou_by_subject", bootstrap.mean_of_subjects(table["iou"].to_numpy())),
        "worst_subject": ranked.iloc[0] if len(ranked) else None,
        "worst_subject_ci": _of_one_subject(defined[defined["subject"] == name], evaluate),
        "worst_subject_name": name,
        "subjects_ranked": len(ranked),
    }


def _of_one_subject(table: pd.DataFrame, evaluate: EvaluateParams) -> list[float] | None:
    """How well the mean Dice of these frames of one subject is known: its clusters are drawn, as they repeat a view."""
    if table.empty:
        return None
    clusters = SubjectBootstrap(table["cluster"], evaluate.resamples, evaluate.seed)
    return clusters.mean(table["dice"].to_numpy()).interval


def _outlines(table: pd.DataFrame, bootstrap: SubjectBootstrap) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name in ("nsd", "hd95", "centroid_error"):
        record |= _with_interval(name, bootstrap.mean(table[name].to_numpy()))
        record |= _spread(table, name)
    return record


def _spread(table: pd.DataFrame, name: str) -> dict[str, float]:
    """Median and percentiles of a column, frames without a figure left out."""
    percentiles = {f"{name}_p{percent:02}": table[name].quantile(percent / 100) for percent in (5, 25, 75, 95)}
    return {f"{name}_median": table[name].median(), **percentiles}


def _probability(scores: Scores, bootstrap: SubjectBootstrap) -> dict[str, Any]:
    columns = scores.histograms.reshape(len(scores.histograms), -1)
    return {
        **_with_interval("ece", bootstrap.of_sums(columns, calibration.expected_error)),
        **_with_interval("brier", bootstrap.of_sums(columns, calibration.brier)),
        "confidence_dice_correlation": _rank_correlation(scores.table, "confidence"),
    }


def _selective_prediction(table: pd.DataFrame, bootstrap: SubjectBootstrap) -> dict[str, Any]:
    dice = table["dice"].to_numpy()
    kept = selective.kept(table["atypicality"].where(table["dice"].notna()).to_numpy())
    return {
        "atypicality_dice_correlation": _rank_correlation(table, "atypicality"),
        "risk_coverage_area": selective.risk_coverage(table["atypicality"].to_numpy(), dice)["risk"].mean(),
        **_with_interval("dice_kept", bootstrap.mean(dice, kept)),
        **_with_interval("selective_gain", bootstrap.difference(dice, dice, kept)),
    }


def _presence(table: pd.DataFrame, bootstrap: SubjectBootstrap) -> dict[str, Any]:
    """Whether there is a nerve at all, frame by frame."""
    outcomes = _outcomes(table)
    right, wrong, missed, left = outcomes.values()
    return {
        **_with_interval("precision", bootstrap.ratio(right, right | wrong)),
        **_with_interval("recall", bootstrap.ratio(right, right | missed)),
        **_with_interval("specificity", bootstrap.ratio(left, left | wrong)),
        **{name: int(frames.sum()) for name, frames in outcomes.items()},
    }


def _outcomes(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which frames have a nerve that was found, none that was, one that was not, none that was not: bool (frames,)."""
    is_there, is_found = table["true_area"].to_numpy() > 0, table["predicted_area"].to_numpy() > 0
    return {
        "true_positives": is_there & is_found,
        "false_positives": ~is_there & is_found,
        "false_negatives": is_there & ~is_found,
        "true_negatives": ~is_there & ~is_found,
    }


def _baseline(dice: np.ndarray, baseline: np.ndarray, bootstrap: SubjectBootstrap) -> dict[str, Any]:
    return {
        **_with_interval("dice", bootstrap.mean(baseline)),
        **_with_interval("gain", bootstrap.difference(dice, baseline)),
    }


def _rank_correlation(table: pd.DataFrame, name: str) -> float:
    """Spearman's, of a column with Dice; NaN where either never changes."""
    both = table[[name, "dice"]].dropna()
    if (both.nunique() < 2).any():
        return float("nan")
    return float(spearmanr(both[name], both["dice"]).statistic)


def _with_interval(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_ci": estimate.interval}


def _plain(value: Any) -> Any:
    """Python's own numbers, None for NaN: what JSON can hold."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
