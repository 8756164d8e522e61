"""From masks to metrics.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nerveseg.data import rle
from nerveseg.errors import NervesegError
from nerveseg.evaluation import calibration, metrics, scores, selective
from nerveseg.evaluation.baselines import Priors
from nerveseg.evaluation.results import Metrics, Validation
from nerveseg.evaluation.scores import Scores
from nerveseg.model import plausibility
from nerveseg.model.spec import Plausibility
from nerveseg.params import EvaluateParams
from nerveseg.report import headline

HEIGHT, WIDTH = 60, 80
EMPTY = np.zeros((HEIGHT, WIDTH), np.uint8)
PRIOR = np.zeros((96, 128), np.float32)
PRIOR[32:64, 32:80] = 1
PRIORS = Priors(best=PRIOR, half=np.zeros_like(PRIOR))


def rectangle(top: int, left: int, height: int = 20, width: int = 30) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + height, left : left + width] = 1
    return mask


TRUTH = rectangle(20, 20)
TRAINING = plausibility.fit([rectangle(20 + shift, 20 - shift) for shift in (-2, 0, 2)])
# Subject, truth and prediction of each frame; subject 3 has one frame.
FRAMES = [
    ("1", TRUTH, TRUTH),
    ("1", TRUTH, rectangle(20, 35)),
    ("1", TRUTH, EMPTY),
    ("2", EMPTY, EMPTY),
    ("2", EMPTY, rectangle(0, 0, 5, 5)),
    ("2", TRUTH, rectangle(25, 20)),
    ("2", TRUTH, rectangle(20, 26)),
    ("3", TRUTH, EMPTY),
]


def params(**changes: Any) -> EvaluateParams:
    tolerances = {"nsd_tolerance": 3.0, "nsd_tolerance_mm": 1.0}
    base = {"split": "test", "empty": "kaggle", **tolerances, "min_frames": 2, "resamples": 1000}
    return EvaluateParams.model_validate({**base, "overlays": 6, "seed": 70} | changes)


def scored(
    frames: list[tuple[str, np.ndarray, np.ndarray]],
    training: Plausibility | None = TRAINING,
    spacings: Sequence[tuple[float, float]] | None = None,
) -> Scores:
    rows, histograms = [], []
    for number, ((subject, truth, mask), spacing) in enumerate(
        zip(frames, spacings or [None] * len(frames), strict=True)
    ):
        probability = np.where(mask, 0.9, 0.1).astype(np.float32)
        figures = scores.of_frame(probability, mask, truth, PRIORS, training, params(), spacing)
        named = {"row": number, "image": f"{subject}_{number}.png", "subject": subject, "cluster": number}
        rows.append(named | figures)
        histograms.append(calibration.histogram(probability, truth))
    return Scores(pd.DataFrame(rows), np.stack(histograms))


def summary(frames: list[tuple[str, np.ndarray, np.ndarray]] = FRAMES, **changes: Any) -> dict[str, Any]:
    return of_scores(scored(frames), **changes)


def of_scores(found: Scores, subjects_known: bool = True, **changes: Any) -> dict[str, Any]:
    given = params(**changes)
    return scores.summary(found, calibration.sweep(found.histograms, given.empty), given, subjects_known)


def dice(frames: list[tuple[str, np.ndarray, np.ndarray]] = FRAMES) -> list[float]:
    return [metrics.score(mask, truth)[0] for _, truth, mask in frames]


def test_means_medians_and_shares_are_over_frames() -> None:
    test = summary()["test"]
    assert test["dice"] == pytest.approx(np.mean(dice()))
    assert test["dice_median"] == pytest.approx(np.median(dice()))
    assert test["dice_p25"] == pytest.approx(np.percentile(dice(), 25))
    assert test["dice_below_half"] == pytest.approx(np.mean(np.array(dice()) < 0.5))
    assert (test["frames"], test["subjects"]) == (8, 3)
    table = scored(FRAMES).table
    for name in ("iou", "nsd", "hd95", "centroid_error"):
        assert test[f"{name}_median"] == pytest.approx(table[name].median())
        for percent in (5, 25, 75, 95):
            assert test[f"{name}_p{percent:02}"] == pytest.approx(np.nanpercentile(table[name], percent))


def test_pooled_metrics_are_over_all_pixels() -> None:
    truth, mask = (np.stack([frame[place] for frame in FRAMES]) for place in (1, 2))
    test = summary()["test"]
    assert (test["pooled_dice"], test["pooled_iou"]) == pytest.approx(metrics.score(mask, truth))


def test_subjects_with_few_frames_count_for_the_mean_but_not_for_the_worst() -> None:
    by_subject = [np.mean(dice()[:3]), np.mean(dice()[3:7]), 0]
    test = summary()["test"]
    assert test["dice_by_subject"] == pytest.approx(np.mean(by_subject))
    assert test["dice_by_ranked_subject"] == pytest.approx(np.mean(by_subject[:2])), "3 has a single frame"
    iou = scored(FRAMES).table["iou"]
    assert test["iou_by_ranked_subject"] == pytest.approx(np.mean([iou[:3].mean(), iou[3:7].mean()]))
    assert (test["worst_subject_name"], test["worst_subject"]) == ("1", pytest.approx(by_subject[0]))
    assert test["subjects_ranked"] == 2
    assert summary(min_frames=1)["test"]["worst_subject_name"] == "3"
    none = summary(min_frames=5)["test"]
    assert (none["worst_subject"], none["worst_subject_name"], none["subjects_ranked"]) == (None, None, 0)
    assert none["worst_subject_ci"] is None
    assert (none["dice_by_ranked_subject"], none["dice_by_ranked_subject_ci"]) == (None, None)
    assert summary(min_frames=1)["test"]["dice_by_ranked_subject"] == pytest.approx(test["dice_by_subject"])


def test_the_worst_subjects_interval_covers_its_mean() -> None:
    """Its clusters are resampled: frames that repeat one view add no information."""
    found = scored(FRAMES)
    low, high = of_scores(found)["test"]["worst_subject_ci"]
    drawn = np.random.default_rng(0).choice(dice()[:3], (100_000, 3)).mean(axis=1)
    assert (low, high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.02)
    one_view = Scores(found.table.assign(cluster=0), found.histograms)
    assert of_scores(one_view)["test"]["worst_subject_ci"] is None
    others = found.table["subject"] != "1"
    elsewhere = Scores(found.table.assign(iou=0.5, dice=found.table["dice"].where(~others, 1.0)), found.histograms)
    assert of_scores(elsewhere)["test"]["worst_subject_ci"] == [low, high], "other subjects do not matter"


def test_frames_with_an_empty_mask_have_no_outline_and_are_counted() -> None:
    table = scored(FRAMES).table
    assert table["nsd"].fillna(-1).tolist() == pytest.approx([1, table["nsd"][1], 0, -1, 0, *table["nsd"][5:7], 0])
    assert table["hd95"].isna().tolist() == [False, False, True, True, True, False, False, True]
    test = summary()["test"]
    assert test["nsd"] == pytest.approx(table["nsd"].sum() / 7), "missed nerves count"
    assert test["without_outline"] == 4
    assert test["hd95"] == pytest.approx(table["hd95"].mean())
    assert test["centroid_error"] == pytest.approx((0 + 15 + 5 + 6) / 4)


def test_the_terminal_shows_the_numbers_of_frames_and_a_worst_subject_only_if_there_is_one() -> None:
    def names(**changes: Any) -> list[str]:
        found = Metrics.model_validate(summary(**changes))
        return [str(cell) for cell in headline.table(found, "").columns[0].cells]

    expected = {"NSD, mean over frames, defined on 7 of 8", "HD95, pixels, mean over frames, defined on 4 of 8"}
    assert expected <= set(names())
    assert "Dice of the worst subject, 1" in names()
    assert "Dice of the worst subject, none has enough frames" in names(min_frames=5)
    assert "NSD, mean over frames" in names(frames=FRAMES[:2] * 2)


def test_presence_counts_frames() -> None:
    presence = summary()["test"]["presence"]
    assert [
        presence[f"{kind}s"] for kind in ("true_positive", "false_positive", "false_negative", "true_negative")
    ] == [
        4,
        1,
        2,
        1,
    ]
    assert (presence["precision"], presence["recall"], presence["specificity"]) == pytest.approx((4 / 5, 4 / 6, 1 / 2))
    assert presence["missed"] == pytest.approx(2 / 6), "as many as recall leaves out, while every mask lies on a nerve"
    always = summary([frame for frame in FRAMES if frame[1].any()])["test"]["presence"]
    assert (always["specificity"], always["specificity_ci"]) == (None, None), "no frame without a nerve"


@pytest.mark.parametrize("rule", ["kaggle", "monai"])
def test_a_mask_in_the_wrong_place_is_no_nerve_found(rule: str) -> None:
    """Frames without a nerve do not count, whatever their Dice is by the rule for empty masks."""
    astray = [*FRAMES, ("3", TRUTH, rectangle(0, 50, 10, 10))]
    before, after = (summary(frames, empty=rule)["test"]["presence"] for frames in (FRAMES, astray))
    assert after["recall"] > before["recall"], "recall counts it as found"
    assert after["missed"] == pytest.approx(3 / 7)
    low, high = after["missed_ci"]
    assert low < after["missed"] < high
    by_subject = scores.per_subject(scored(astray).by_rule(rule).table).set_index("subject")
    assert by_subject["missed"].tolist() == pytest.approx([1 / 3, 0, 1])
    only_empty = summary([frame for frame in FRAMES if not frame[1].any()])["test"]["presence"]
    assert only_empty["missed"] is None


def test_headline_metrics_lie_in_their_intervals() -> None:
    found = summary()
    for record in (found["test"], found["test"]["presence"], *found["baseline"].values()):
        for name in [name for name in record if f"{name}_ci" in record]:
            low, high = record[f"{name}_ci"]
            assert low <= high
            assert low <= record[name] <= high or name == "ece", (
                name
            )  # it is a sum of absolute values, which resampling increases
    names = {"dice", "iou", "dice_by_subject", "nsd", "hd95", "centroid_error", "pooled_dice", "ece", "brier"}
    assert {f"{name}_ci" for name in names} <= set(found["test"])


def test_one_subject_has_metrics_without_intervals() -> None:
    test = summary([frame for frame in FRAMES if frame[0] == "1"])["test"]
    assert test["dice"] is not None
    assert test["dice_ci"] is None


@pytest.mark.parametrize("rule", ["kaggle", "nnunet", "monai", "smp"])
def test_the_rule_for_empty_masks_applies_to_every_dice(rule: str) -> None:
    found = summary(empty=rule)
    left_out = {"kaggle": [], "nnunet": [3], "monai": [3, 4], "smp": []}[rule]
    kept = [value for place, value in enumerate(dice()) if place not in left_out]
    assert found["test"]["dice"] == pytest.approx(np.mean(kept))
    assert found["test"]["left_out"] == len(left_out)
    assert found["by_empty_rule"][rule]["dice"] == pytest.approx(found["test"]["dice"])
    assert found["by_empty_rule"] == summary()["by_empty_rule"], "whichever rule is chosen"
    nothing = [float(not truth.any()) for place, (_, truth, _) in enumerate(FRAMES) if place not in left_out]
    if rule == "nnunet":  # predicting nothing leaves out both frames without a nerve
        nothing = [0.0] * 6
    assert found["baseline"]["empty"]["dice"] == pytest.approx(np.mean(nothing))
    assert found["empty_rule"].startswith(rule)


def test_baselines_are_scored_next_to_the_model() -> None:
    found = summary()
    table = scored(FRAMES).table
    assert table.loc[0, "prior_dice"] == 1, "the prior is the mask of this frame"
    assert found["baseline"]["prior"]["dice"] == pytest.approx(np.mean([1, 1, 1, 0, 0, 1, 1, 1]))
    assert found["baseline"]["prior_half"]["dice"] == pytest.approx(2 / 8), "half of them agree on no pixel"
    assert 0.8 < table.loc[0, "ellipse_dice"] < 1, "an ellipse is not a rectangle"
    for baseline in found["baseline"].values():
        assert baseline["gain"] == pytest.approx(found["test"]["dice"] - baseline["dice"])


def test_predictions_are_kept_with_their_confidence() -> None:
    table = scored(FRAMES).table
    for (_, _, mask), row in zip(FRAMES, table.itertuples(), strict=True):
        np.testing.assert_array_equal(rle.decode(row.rle_mask, HEIGHT, WIDTH), mask)
        assert np.isnan(row.confidence) == (not mask.any())
    assert table["confidence"].dropna().tolist() == pytest.approx([0.9] * 5)


def test_selective_prediction_gains_by_leaving_out_atypical_frames() -> None:
    frames = [(str(number % 4), TRUTH, rectangle(20, 20 + number % 2)) for number in range(8)]
    frames += [("4", TRUTH, rectangle(0, 50)), ("5", TRUTH, rectangle(40, 0))]
    test = summary(frames)["test"]
    assert test["dice_kept"] == pytest.approx(np.mean(dice(frames)[:8]))
    assert test["selective_gain"] == pytest.approx(test["dice_kept"] - test["dice"])
    assert test["atypicality_dice_correlation"] < 0
    assert test["risk_coverage_area"] < 1 - test["dice"]


def test_kept_frames_match_the_risk_coverage_curve_in_any_order() -> None:
    masks = [rectangle(20, 20), rectangle(20, 20), rectangle(0, 50), rectangle(0, 50), rectangle(0, 50)]
    truths = [TRUTH, TRUTH, rectangle(0, 50), TRUTH, TRUTH]
    frames = [(str(number), *pair) for number, pair in enumerate(zip(truths, masks, strict=True))]
    for order in (frames, frames[::-1]):
        found = scored(order)
        curve = selective.risk_coverage(found.table["atypicality"].to_numpy(), found.table["dice"].to_numpy())
        kept = of_scores(found)["test"]["dice_kept"]
        assert kept == pytest.approx(1 - curve["risk"][3])
        assert kept == pytest.approx((1 + 1 + 2 / 3 * sum(dice(frames)[2:])) / 4)


def test_a_model_without_atypicality_has_no_selective_gain() -> None:
    test = of_scores(scored(FRAMES, None))["test"]
    for name in ("dice_kept", "selective_gain", "dice_kept_ci", "selective_gain_ci", "risk_coverage_area"):
        assert test[name] is None


def test_the_threshold_has_the_best_validation_dice() -> None:
    validation = summary()["validation"]
    assert 0.1 < validation["best_threshold"] <= 0.9
    assert validation["dice_at_best_threshold"] == pytest.approx(np.mean(dice()))


def test_choosing_the_threshold_is_advised_only_if_it_was_not_chosen() -> None:
    found = Metrics.model_validate(summary(empty="nnunet"))
    best = found.validation.best_threshold
    assert best is not None
    assert headline.better_threshold(found, best, False) == ""
    given, chosen = (headline.better_threshold(found, 0.95, each) for each in (False, True))
    assert f"by the rule nnunet for empty masks, a threshold of {best:g} has the best Dice" in given
    assert "With model.threshold: validation" in given
    assert "model.threshold" not in chosen
    assert "which calibrate chose by the rule kaggle" in chosen
    undefined = Validation(best_threshold=None, dice_at_best_threshold=None)
    assert headline.better_threshold(found.model_copy(update={"validation": undefined}), 0.5, False) == ""


def test_it_is_json_without_nan() -> None:
    json.dumps(summary(empty="monai"), allow_nan=False)


def test_subjects_have_the_means_of_their_frames() -> None:
    table = scores.per_subject(scored(FRAMES).table).set_index("subject")
    assert table["frames"].to_dict() == {"1": 3, "2": 4, "3": 1}
    assert table.loc["1", "dice"] == pytest.approx(np.mean(dice()[:3]))
    assert table.loc["1", "centroid_error"] == pytest.approx(7.5)
    assert table.loc["3", "nsd"] == 0
    assert np.isnan(table.loc["3", "hd95"])
    assert table.loc["2", "dice_median"] == pytest.approx(np.median(dice()[3:7]))
    assert table["dice_below_half"].tolist() == pytest.approx(
        [np.mean(np.array(part) < 0.5) for part in (dice()[:3], dice()[3:7], dice()[7:])]
    )
    kinds = ["true_positives", "false_positives", "false_negatives", "true_negatives"]
    assert table.loc["2", kinds].tolist() == [2, 1, 0, 1]
    assert table.loc["2", ["precision", "recall"]].tolist() == pytest.approx([2 / 3, 1])
    assert np.isnan(table.loc["3", "precision"]), "it found none"
    assert table.loc["3", "recall"] == 0


def test_a_frame_left_out_by_the_rule_does_not_count_against_its_subject() -> None:
    table = scores.per_subject(scored(FRAMES).by_rule("monai").table).set_index("subject")
    assert table.loc["2", "dice_below_half"] == 0, "those without a nerve are left out"


def test_scores_can_be_written_and_read(tmp_path: Path) -> None:
    found = scored(FRAMES)
    found.write(tmp_path / "predictions.parquet")
    again = Scores.read(tmp_path / "predictions.parquet")
    pd.testing.assert_frame_equal(again.table, found.table)
    np.testing.assert_array_equal(again.histograms, found.histograms)


def test_a_file_without_scores_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    with pytest.raises(NervesegError, match=r"predictions\.parquet is missing"):
        Scores.read(path)
    path.write_text("no parquet")
    with pytest.raises(NervesegError, match=r"predictions\.parquet holds no scores"):
        Scores.read(path)
    scored(FRAMES).table[["image", "rle_mask"]].to_parquet(path)
    with pytest.raises(NervesegError, match=r"predictions\.parquet holds no scores"):
        Scores.read(path)


def test_unknown_subjects_have_no_worst_one_even_if_a_frame_is_enough() -> None:
    table = scored(FRAMES)
    alone = Scores(table.table.assign(subject=table.table["image"]), table.histograms)
    test = Metrics.model_validate(of_scores(alone, subjects_known=False, min_frames=1)).test
    assert (test.subjects_known, test.worst_subject_name, test.subjects_ranked) == (False, None, 0)
    assert test.measured("worst_subject").value is None
    assert test.measured("dice").interval is not None
