"""evaluate: scores of the trained network on frames it has not seen, at their own size."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore, counts
from nerveseg.errors import NervesegError
from nerveseg.evaluation import baselines, calibration, conflicts, inference, scores
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, replacing, replacing_folder, write_json
from nerveseg.model.device import device_name
from nerveseg.model.inference import Segmenter
from nerveseg.modelcard import card, provenance, smoke
from nerveseg.modelcard import evidence as evidence
from nerveseg.modelcard.card import Card
from nerveseg.params import EvaluateParams, Params, flatten
from nerveseg.report import headline, overlays, parity
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    """Scores `models/` on `data/packed`, writes `reports/` and adds figures and pictures to the training's run.

    The run of a registered version stays as its card says until register renews both.

    Raises:
        NervesegError: missing or damaged inputs, no frames to score, or a tracking server that failed.
    """
    store = FrameStore.open(paths.PACKED)
    rows = store.rows(params.evaluate.split)
    if not len(rows):
        raise NervesegError(f"data/packed has no {params.evaluate.split} frames; see evaluate.split and split.test.")
    segmenter = Segmenter.load(paths.MODELS, device_name(settings().device))
    by_kaggle = _score(store, rows, segmenter, params.evaluate)
    scored = by_kaggle.by_rule(params.evaluate.empty)
    if scored.table["empty_dice"].isna().all():
        raise NervesegError(
            f"None of the {params.evaluate.split} frames has a nerve, and evaluate.empty: {params.evaluate.empty} "
            "scores no others. Set evaluate.empty: kaggle."
        )
    histograms = (
        by_kaggle.histograms
        if params.evaluate.split == "validation"
        else inference.histograms(store, store.rows("validation"), segmenter)
    )
    sweep = calibration.sweep(histograms, params.evaluate.empty)
    contradictions = conflicts.find(store, params.split.near_duplicate)
    summary = scores.summary(by_kaggle, sweep, params.evaluate)
    seen = set(store.index["subject"].iloc[store.rows("train")])
    summary["test"]["subjects_in_training"] = len(seen & set(scored.table["subject"]))
    summary["ceiling"] = conflicts.summary(store, rows, contradictions, params.evaluate, params.split.near_duplicate)
    by_kaggle.write(paths.PREDICTIONS)
    _write_tables(scored, sweep, contradictions)
    with replacing_folder(paths.FIGURES) as folder:
        _draw(store, scored.table, contradictions, params.evaluate, folder)
    write_json(paths.REFERENCE_JSON, evidence.reference(store, store.rows("train"), segmenter))
    smoke.write(evidence.smoke_pairs(store, scored.table, segmenter), paths.SMOKE)
    write_json(paths.METRICS_JSON, summary)
    card.write(_card(store, segmenter, summary, params.evaluate), paths.CARD_JSON, paths.CARD, paths.METADATA_JSON)
    _print(summary, segmenter.spec.threshold)
    _print_parity()
    with tracking.reachable("reports/ is written: once the server answers, `dvc repro` evaluates again."):
        record = tracking.ensure_run(paths.MODELS)
        if not tracking.has_version(record["run_id"]):
            tracking.log_evaluation(
                record,
                flatten(summary),
                paths.FIGURES,
                [paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.CONFLICTS_CSV, paths.CURVES, paths.METRICS_JSON],
            )


def _score(store: FrameStore, rows: np.ndarray, segmenter: Segmenter, evaluate: EvaluateParams) -> Scores:
    priors = baselines.priors(store, evaluate.empty)
    found, histograms = [], []
    for row, probability in inference.probabilities(store, rows, segmenter, "scoring"):
        truth = store.mask(row)
        frame = store.index.loc[row, ["image", "subject", "cluster", "height", "width"]].to_dict()
        mask = segmenter.mask(probability)
        training = segmenter.spec.plausibility
        figures = scores.of_frame(probability, mask, truth, priors, training, evaluate.nsd_tolerance)
        found.append({"row": row, **frame, **figures})
        histograms.append(calibration.histogram(probability, truth))
    return Scores(pd.DataFrame(found), np.stack(histograms))


def _write_tables(scored: Scores, sweep: pd.DataFrame, contradictions: pd.DataFrame) -> None:
    per_image = scored.table[list(scores.PER_IMAGE)]
    for table, path in (
        (per_image, paths.PER_IMAGE_CSV),
        (scores.per_subject(per_image), paths.PER_SUBJECT_CSV),
        (contradictions, paths.CONFLICTS_CSV),
    ):
        with replacing(path) as beside:
            table.to_csv(beside, index=False, float_format="%.6f")
    with replacing_folder(paths.CURVES) as folder:
        for name, curve in scores.curves(scored, sweep).items():
            curve.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")


def _card(store: FrameStore, segmenter: Segmenter, summary: dict[str, Any], evaluate: EvaluateParams) -> Card:
    # Provenance, which must not make the evaluation stale, so dvc.yaml does not name it: docs/adr/0003
    source = read_json(paths.SOURCE_JSON)
    training = read_json(paths.MODELS / "run.json")
    origins = provenance.Origins(
        dataset=source["sha256"],
        split=store.digest(),
        params={**training["params"], **flatten({"evaluate": evaluate.model_dump()})},
        code=provenance.Code.of(training["tags"], tracking.git_tags()),
        weights=provenance.hashes(paths.MODELS / name for name in ("model.safetensors", "model.json")),
        figures=provenance.hashes((paths.METRICS_JSON, paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV)),
    )
    shared = int((store.index.groupby("subject")["split"].nunique() > 1).sum())
    return card.record(segmenter.spec, counts(store.index), shared, summary, source["uri"], origins)


def _draw(
    store: FrameStore, table: pd.DataFrame, contradictions: pd.DataFrame, evaluate: EvaluateParams, folder: Path
) -> None:
    overlays.draw_curves(pd.read_csv(paths.MODELS / "curve.csv"), folder / "curves.png")
    for name, chosen in overlays.choose(table, evaluate.overlays, evaluate.seed).items():
        if len(chosen):
            title = f"{name.replace('atypical', 'most atypical')} of {len(table)} {evaluate.split} frames"
            overlays.draw_panels([_panel(store, table.loc[row]) for row in chosen], title, folder / f"{name}.jpg")
    if len(contradictions):
        pairs = [
            (_labelled(store, pair["row"]), _labelled(store, pair["other_row"]), pair["dice"])
            for pair in contradictions.head(evaluate.overlays).to_dict("records")
        ]
        title = f"worst of {len(contradictions)} pairs of near-identical frames with contradictory masks"
        overlays.draw_conflicts(pairs, title, folder / "conflicts.jpg")


def _panel(store: FrameStore, score: pd.Series) -> overlays.Panel:
    prediction = rle.decode(score["rle_mask"], score["height"], score["width"])
    row = score["row"]
    return overlays.Panel(score["image"], store.frame(row), store.mask(row), prediction, score["dice"], score["iou"])


def _labelled(store: FrameStore, row: int) -> overlays.Labelled:
    return overlays.Labelled(store.index.loc[row, "image"], store.frame(row), store.mask(row))


def _print_parity() -> None:
    """The training's figures beside the published run's, where it had that run's settings."""
    record = read_json(paths.MODELS / "run.json")["params"]
    if not parity.applies(record):
        return
    shown = Table(title=parity.TITLE, caption=parity.NOTE, title_justify="left", caption_justify="left")
    for number, column in enumerate(parity.COLUMNS):
        shown.add_column(column, justify="right" if number else "left")
    curve, timings = pd.read_csv(paths.MODELS / "curve.csv"), read_json(paths.MODELS / "timings.json")
    for row in parity.rows(record, curve, timings):
        shown.add_row(*row)
    console.print(shown)


def _print(summary: dict[str, Any], threshold: float) -> None:
    test = summary["test"]
    console.print(headline.table(summary, f"{test['frames']} {test['split']} frames of {test['subjects']} subjects"))
    chosen = read_json(paths.MODELS / "run.json")["params"]["model.threshold"] == "validation"
    if remark := headline.better_threshold(summary, threshold, chosen):
        console.print(remark, soft_wrap=True)


if __name__ == "__main__":
    main(run)
