"""evaluate: scores of the trained network on frames it has not seen, at their own size."""

import numpy as np
import pandas as pd

from nerveseg import package, paths, tracking
from nerveseg.data.frame_store import SITE, FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import baselines, calibration, conflicts, inference, scores
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.files import replacing, replacing_folder, write_json
from nerveseg.model.device import device_name
from nerveseg.model.inference import Segmenter
from nerveseg.modelcard import evidence, smoke
from nerveseg.params import EvaluateParams, Params, flatten
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    """Scores `models/` on `data/packed`, writes the figures that the report shows, and logs them to the model's run.

    The run of a registered version does not change here: register updates it together with the card.

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
    summary = scores.summary(by_kaggle, sweep, params.evaluate, store.subjects_known())
    seen = set(store.index["subject"].iloc[store.rows("train")])
    summary["test"]["subjects_in_training"] = len(seen & set(scored.table["subject"]))
    summary["ceiling"] = conflicts.summary(store, rows, contradictions, params.evaluate, params.split.near_duplicate)
    metrics = Metrics.model_validate(summary)
    by_kaggle.write(paths.PREDICTIONS)
    _write_tables(scored, sweep, contradictions)
    write_json(paths.REFERENCE_JSON, evidence.reference(store, store.rows("train"), segmenter))
    smoke.write(evidence.smoke_pairs(store, scored.table, segmenter), paths.SMOKE)
    metrics.write(paths.METRICS_JSON)
    write_json(paths.SUMMARY_JSON, metrics.summary)
    write_json(paths.EVALUATION_JSON, {"tags": tracking.git_tags(), "source": package.running()})
    with tracking.reachable("reports/ is written: once the server answers, `dvc repro` evaluates again."):
        record = tracking.ensure_run(paths.MODELS)
        if not tracking.has_version(record["run_id"]):
            tracking.log_evaluation(
                record,
                flatten(metrics.record),
                [
                    *(paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.PREDICTIONS),
                    *(paths.CONFLICTS_CSV, paths.CURVES, paths.METRICS_JSON),
                ],
            )


def _score(store: FrameStore, rows: np.ndarray, segmenter: Segmenter, evaluate: EvaluateParams) -> Scores:
    priors = baselines.priors(store, evaluate.empty)
    found, histograms = [], []
    for row, probability in inference.probabilities(store, rows, segmenter, "scoring"):
        truth = store.mask(row)
        columns = store.index.columns.intersection(["image", "subject", SITE, "cluster", "height", "width", "sha256"])
        frame = store.index.loc[row, columns].to_dict()
        mask = segmenter.mask(probability)
        training = segmenter.spec.plausibility
        figures = scores.of_frame(probability, mask, truth, priors, training, evaluate, store.spacing(row))
        found.append({"row": row, **frame, **figures})
        histograms.append(calibration.histogram(probability, truth))
    return Scores(pd.DataFrame(found), np.stack(histograms))


def _write_tables(scored: Scores, sweep: pd.DataFrame, contradictions: pd.DataFrame) -> None:
    per_image = scores.per_image(scored.table)
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


if __name__ == "__main__":
    main(run)
