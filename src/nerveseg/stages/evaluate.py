"""evaluate: scores of the trained network on frames it has not seen, at their own size."""

import numpy as np
import pandas as pd

from nerveseg import paths, tracking
from nerveseg.console import console, progress
from nerveseg.data.packed import Packed
from nerveseg.errors import NervesegError
from nerveseg.evaluation import baselines, card, drift, metrics, overlays, smoke
from nerveseg.files import replacing, replacing_folder, write_json
from nerveseg.model.device import device_name
from nerveseg.model.inference import BATCH, Segmenter
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
    scores = _score(packed, rows, segmenter)
    per_image = scores[["image", "subject", "dice", "iou"]]
    summary = {
        "test": {"split": params.evaluate.split, **metrics.summary(per_image)},
        "baseline": {name: {"dice": float(scores[f"{name}_dice"].mean())} for name in ("empty", "prior")},
        "empty_rule": metrics.EMPTY_RULE,
    }
    for table, path in ((per_image, paths.PER_IMAGE_CSV), (metrics.per_subject(per_image), paths.PER_SUBJECT_CSV)):
        with replacing(path) as beside:
            table.to_csv(beside, index=False, float_format="%.6f")
    with replacing_folder(paths.FIGURES) as folder:
        overlays.draw_curves(pd.read_csv(paths.MODELS / "curve.csv"), folder / "curves.png")
        for name, chosen in _choose(scores, params.evaluate).items():
            panels = [_panel(packed, segmenter, scores.loc[row]) for row in chosen]
            overlays.draw_panels(
                panels, f"{name} of {len(scores)} {params.evaluate.split} frames", folder / f"{name}.png"
            )
    with replacing(paths.CARD) as beside:
        beside.write_text(card.render(segmenter.spec, packed, summary), encoding="utf-8")
    write_json(paths.REFERENCE_JSON, _reference(packed, segmenter))
    smoke.write(_smoke_pairs(packed, segmenter, scores), paths.SMOKE)
    write_json(paths.METRICS_JSON, summary)
    _print(summary)
    with tracking.reachable("reports/ is written: once the server answers, `dvc repro` evaluates again."):
        tracking.log_evaluation(
            tracking.ensure_run(paths.MODELS),
            flatten(summary),
            paths.FIGURES,
            # The others go with their hashes, in register: a version that exists must stay what its tags say.
            [paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.METRICS_JSON],
        )


def _score(packed: Packed, rows: np.ndarray, segmenter: Segmenter) -> pd.DataFrame:
    """A row a frame: its row in the index, image, subject, predicted area, scores of network and baselines."""
    prior = baselines.prior_mask(packed)
    found = []
    with progress("batches") as bar:
        for start in bar.track(range(0, len(rows), BATCH), description="scoring"):
            batch = rows[start : start + BATCH]
            probabilities = segmenter.probabilities([packed.frame(row) for row in batch])
            for row, probability in zip(batch, probabilities, strict=True):
                truth = packed.mask(row)
                mask = segmenter.mask(probability)
                dice, iou = metrics.score(mask, truth)
                found.append(
                    {
                        "row": int(row),
                        "image": packed.index.at[row, "image"],
                        "subject": packed.index.at[row, "subject"],
                        "dice": dice,
                        "iou": iou,
                        "area": int(mask.sum()),
                        "empty_dice": metrics.score(np.zeros_like(truth), truth)[0],
                        "prior_dice": metrics.score(baselines.at_size(prior, *truth.shape), truth)[0],
                    }
                )
    return pd.DataFrame(found)


def _reference(packed: Packed, segmenter: Segmenter) -> dict:
    """What the training frames look like, to the eye and to the network."""
    rows = packed.rows("train")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _REFERENCE_FRAMES).astype(int))]
    grey = np.zeros(drift.LEVELS, np.int64)
    areas, confidences = [], []
    with progress("batches") as bar:
        for start in bar.track(range(0, len(rows), BATCH), description="training set"):
            frames = [packed.frame(row) for row in rows[start : start + BATCH]]
            for frame, probability in zip(frames, segmenter.probabilities(frames), strict=True):
                mask = segmenter.mask(probability)
                grey += drift.grey_levels(frame)
                areas.append(mask.mean())
                confidences.append(metrics.confidence(probability, mask))
    subjects = packed.index["subject"].iloc[rows].nunique()
    return drift.reference(drift.Figures(grey, np.array(areas), np.nan_to_num(confidences), subjects))


def _smoke_pairs(packed: Packed, segmenter: Segmenter, scores: pd.DataFrame) -> list[smoke.Pair]:
    """The best frames, one a subject, on which the network found something, with its masks."""
    best = scores[scores["area"] > 0].sort_values("dice", ascending=False, kind="stable").drop_duplicates("subject")
    frames = [packed.frame(row) for row in best["row"].head(_SMOKE_FRAMES)]
    return [
        (frame, segmenter.mask(probability))
        for frame, probability in zip(frames, segmenter.probabilities(frames), strict=True)
    ]


def _choose(scores: pd.DataFrame, evaluate: EvaluateParams) -> dict[str, pd.Index]:
    count = min(evaluate.overlays, len(scores))
    ranked = scores.sort_values("dice", kind="stable").index
    random = np.random.default_rng(evaluate.seed).choice(scores.index, count, replace=False)
    return {"best": ranked[::-1][:count], "worst": ranked[:count], "random": pd.Index(random)}


def _panel(packed: Packed, segmenter: Segmenter, score: pd.Series) -> overlays.Panel:
    frame = packed.frame(score["row"])
    prediction = segmenter.mask(segmenter.probabilities([frame])[0])
    return overlays.Panel(score["image"], frame, packed.mask(score["row"]), prediction, score["dice"], score["iou"])


def _print(summary: dict) -> None:
    test, baseline = summary["test"], summary["baseline"]
    console.print(
        f"{test['frames']} {test['split']} frames of {test['subjects']} subjects: Dice {test['dice']:.4f} "
        f"({test['dice_by_subject']:.4f} by subject), IoU {test['iou']:.4f}; "
        f"nothing predicted {baseline['empty']['dice']:.4f}, mean training mask {baseline['prior']['dice']:.4f}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main(run)
