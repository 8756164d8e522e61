"""evaluate: scores of the trained network on frames it has not seen, at their own size."""

import numpy as np
import pandas as pd

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data import rle
from nerveseg.data.packed import Packed, counts
from nerveseg.errors import NervesegError
from nerveseg.evaluation import (
    baselines,
    calibration,
    card,
    drift,
    headline,
    inference,
    metrics,
    overlays,
    plausibility,
    provenance,
    scores,
    smoke,
)
from nerveseg.evaluation.card import Card
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, replacing, replacing_folder, write_json
from nerveseg.model.device import device_name
from nerveseg.model.inference import Segmenter
from nerveseg.params import EvaluateParams, Params, flatten
from nerveseg.settings import settings
from nerveseg.stages import main

_REFERENCE_FRAMES = 512  # training frames at most that a batch is compared with; more would hardly move the shares
_SMOKE_FRAMES = 4


def run(params: Params) -> None:
    """Scores `models/` on `data/packed`, writes `reports/` and adds figures and pictures to the training's run.

    Raises:
        NervesegError: missing or damaged inputs, no frames to score, or a tracking server that failed.
    """
    packed = Packed.open(paths.PACKED)
    rows = packed.rows(params.evaluate.split)
    if not len(rows):
        raise NervesegError(f"data/packed has no {params.evaluate.split} frames; see evaluate.split and split.test.")
    segmenter = Segmenter.load(paths.MODELS, device_name(settings().device))
    by_kaggle = _score(packed, rows, segmenter, params.evaluate)
    scored = by_kaggle.by_rule(params.evaluate.empty)
    if scored.table["empty_dice"].isna().all():
        raise NervesegError(
            f"None of the {params.evaluate.split} frames has a nerve, and evaluate.empty: {params.evaluate.empty} "
            "scores no others. Set evaluate.empty: kaggle."
        )
    histograms = (
        by_kaggle.histograms
        if params.evaluate.split == "validation"
        else inference.histograms(packed, packed.rows("validation"), segmenter)
    )
    sweep = calibration.sweep(histograms, params.evaluate.empty)
    summary = scores.summary(by_kaggle, sweep, params.evaluate)
    seen = set(packed.index["subject"].iloc[packed.rows("train")])
    summary["test"]["subjects_in_training"] = len(seen & set(scored.table["subject"]))
    by_kaggle.write(paths.PREDICTIONS)
    _write_tables(scored, sweep)
    with replacing_folder(paths.FIGURES) as folder:
        overlays.draw_curves(pd.read_csv(paths.MODELS / "curve.csv"), folder / "curves.png")
        for name, chosen in _choose(scored.table, params.evaluate).items():
            panels = [_panel(packed, scored.table.loc[row]) for row in chosen]
            overlays.draw_panels(
                panels, f"{name} of {len(rows)} {params.evaluate.split} frames", folder / f"{name}.png"
            )
    write_json(paths.REFERENCE_JSON, _reference(packed, segmenter))
    smoke.write(_smoke_pairs(packed, segmenter, scored.table), paths.SMOKE)
    write_json(paths.METRICS_JSON, summary)
    _write_card(_card(packed, segmenter, summary, params.evaluate))
    _print(summary, segmenter.spec.threshold)
    with tracking.reachable("reports/ is written: once the server answers, `dvc repro` evaluates again."):
        tracking.log_evaluation(
            tracking.ensure_run(paths.MODELS),
            flatten(summary),
            paths.FIGURES,
            # The others go with their hashes, in register: a version that exists must stay what its tags say.
            [paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.CURVES, paths.METRICS_JSON],
        )


def _score(packed: Packed, rows: np.ndarray, segmenter: Segmenter, evaluate: EvaluateParams) -> Scores:
    prior = baselines.prior_mask(packed, evaluate.empty)
    found, histograms = [], []
    for row, probability in inference.probabilities(packed, rows, segmenter, "scoring"):
        truth = packed.mask(row)
        frame = packed.index.loc[row, ["image", "subject", "height", "width"]].to_dict()
        mask = segmenter.mask(probability)
        training = segmenter.spec.plausibility
        figures = scores.of_frame(probability, mask, truth, prior, training, evaluate.nsd_tolerance)
        found.append({"row": row, **frame, **figures})
        histograms.append(calibration.histogram(probability, truth))
    return Scores(pd.DataFrame(found), np.stack(histograms))


def _write_tables(scored: Scores, sweep: pd.DataFrame) -> None:
    per_image = scored.table[list(scores.PER_IMAGE)]
    for table, path in ((per_image, paths.PER_IMAGE_CSV), (scores.per_subject(per_image), paths.PER_SUBJECT_CSV)):
        with replacing(path) as beside:
            table.to_csv(beside, index=False, float_format="%.6f")
    with replacing_folder(paths.CURVES) as folder:
        for name, curve in scores.curves(scored, sweep).items():
            curve.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")


def _card(packed: Packed, segmenter: Segmenter, summary: dict, evaluate: EvaluateParams) -> Card:
    # Provenance, which must not make the evaluation stale, so dvc.yaml does not name it: docs/adr/0003
    source = read_json(paths.SOURCE_JSON)
    training = read_json(paths.MODELS / "run.json")
    origins = provenance.Origins(
        dataset=source["sha256"],
        split=packed.digest(),
        params={**training["params"], **flatten({"evaluate": evaluate.model_dump()})},
        code=provenance.Code(
            training=_git(training["tags"]), evaluation=_git(tracking.git_tags()), source=provenance.running_source()
        ),
        weights=provenance.hashes(paths.MODELS / name for name in ("model.safetensors", "model.json")),
        figures=provenance.hashes((paths.METRICS_JSON, paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV)),
    )
    shared = int((packed.index.groupby("subject")["split"].nunique() > 1).sum())
    return card.record(segmenter.spec, counts(packed.index), shared, summary, source["uri"], origins)


def _git(tags: dict[str, str]) -> dict[str, str]:
    return {key: tags[key] for key in ("git_commit", "git_changed") if key in tags}


def _write_card(found: Card) -> None:
    write_json(paths.CARD_JSON, found.model_dump(mode="json"))
    with replacing(paths.CARD) as beside:
        beside.write_text(card.markdown(found), encoding="utf-8")
    write_json(paths.METADATA_JSON, card.bundle_metadata(found))


def _reference(packed: Packed, segmenter: Segmenter) -> dict:
    """What the training frames look like, to the eye and to the network."""
    rows = packed.rows("train")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _REFERENCE_FRAMES).astype(int))]
    grey = np.zeros(drift.LEVELS, np.int64)
    areas, confidences, mistrusts = [], [], []
    for row, probability in inference.probabilities(packed, rows, segmenter, "training set"):
        mask = segmenter.mask(probability)
        grey += drift.grey_levels(packed.frame(row))
        areas.append(mask.mean())
        confidences.append(metrics.confidence(probability, mask))
        mistrusts.append(plausibility.mistrust(mask, segmenter.spec.plausibility))
    subjects = packed.index["subject"].iloc[rows].nunique()
    return drift.reference(
        drift.Figures(grey, np.array(areas), np.nan_to_num(confidences), np.array(mistrusts), subjects)
    )


def _smoke_pairs(packed: Packed, segmenter: Segmenter, table: pd.DataFrame) -> list[smoke.Pair]:
    """The best frames, one a subject, on which the network found something, with its masks."""
    best = table[table["predicted_area"] > 0].sort_values("dice", ascending=False, kind="stable")
    frames = [packed.frame(row) for row in best.drop_duplicates("subject")["row"].head(_SMOKE_FRAMES)]
    return [
        (frame, segmenter.mask(probability))
        for frame, probability in zip(frames, segmenter.probabilities(frames), strict=True)
    ]


def _choose(table: pd.DataFrame, evaluate: EvaluateParams) -> dict[str, pd.Index]:
    ranked = table.dropna(subset="dice").sort_values("dice", kind="stable").index
    count = min(evaluate.overlays, len(ranked))
    random = np.random.default_rng(evaluate.seed).choice(table.index, count, replace=False)
    return {"best": ranked[::-1][:count], "worst": ranked[:count], "random": pd.Index(random)}


def _panel(packed: Packed, score: pd.Series) -> overlays.Panel:
    prediction = rle.decode(score["rle_mask"], score["height"], score["width"])
    row = score["row"]
    return overlays.Panel(score["image"], packed.frame(row), packed.mask(row), prediction, score["dice"], score["iou"])


def _print(summary: dict, threshold: float) -> None:
    test, validation = summary["test"], summary["validation"]
    console.print(headline.table(summary, f"{test['frames']} {test['split']} frames of {test['subjects']} subjects"))
    if validation["best_threshold"] != threshold:
        console.print(
            f"On the validation frames, a threshold of {validation['best_threshold']:g} has the best Dice, "
            f"{card.figure(validation['dice_at_best_threshold'])}; the model uses {threshold:g}. "
            "With model.threshold: validation, train chooses the best one.",
            soft_wrap=True,
        )


if __name__ == "__main__":
    main(run)
