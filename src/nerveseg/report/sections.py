"""The report: what a model was measured to do, what that means and where it ends, as one page.

Each section is a function of what it shows, so that other pages can be made of the same ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nerveseg.data import frame_store as store
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation import calibration, selective
from nerveseg.evaluation.conflicts import CONFLICT
from nerveseg.evaluation.scores import Scores, per_subject
from nerveseg.files import read_json
from nerveseg.modelcard.card import defined_on
from nerveseg.params import EvaluateParams, Params
from nerveseg.report import charts, overlays, page, parity
from nerveseg.report.page import Block, Charts, Figure, Figures, Note, Pictures, Section, Table

_EXAMPLES = 10  # rows of a table that could be long
_PAIRS = 4  # of conflicting frames that are shown
_SPLITS = ("train", "validation", "test")
_SPREAD = {  # figures of metrics.json: their names here, and digits
    "dice": ("Dice", 3),
    "iou": ("IoU", 3),
    "nsd": ("NSD", 3),
    "hd95": ("HD95, pixels", 1),
    "centroid_error": ("centroid error, pixels", 1),
}
_TITLES = {"best": "Best", "worst": "Worst", "random": "Random", "atypical": "Most atypical"}


def render(
    receipt: Mapping[str, Any], evaluate: EvaluateParams, store: FrameStore, scores: Scores, models: Path, reports: Path
) -> str:
    """The report of a model that the gate has judged, as HTML.

    Args:
        receipt: what `registration.json` is about to hold.
        store: the dataset.
        scores: by Kaggle's rule.
        models, reports: folders that the stages before have written.

    Raises:
        NervesegError: one of their files is missing or damaged.
    """
    metrics, spec = read_json(reports / "metrics.json"), read_json(models / "model.json")
    record, timings = read_json(models / "run.json")["params"], read_json(models / "timings.json")
    curve = pd.read_csv(models / "curve.csv")
    scored = scores.by_rule(evaluate.empty)
    pairs = pd.read_csv(reports / "conflicts.csv", dtype={"subject": str, "other_subject": str})
    sections = [
        summary(metrics, evaluate),
        verdict(receipt),
        dataset(store.index, store.findings(), evaluate.split),
        training(curve, record),
    ]
    if parity.applies(record):
        sections.append(published(record, curve, timings))
    sections += [
        subjects(scored.table, metrics),
        subject_table(scored.table, metrics),
        reliability(scored, metrics),
        thresholds(pd.read_csv(reports / "curves" / "thresholds.csv"), spec["threshold"], metrics),
        selective_prediction(scored.table, metrics),
        frames(store, scored.table, overlays.choose(scored.table, evaluate.overlays, evaluate.seed)),
        empty_rules(metrics),
        label_conflicts(store, pairs, metrics),
        durations(timings),
        provenance(read_json(reports / "card.json")),
    ]
    test = metrics["test"]
    lead = (
        f"{spec['architecture']} on {spec['encoder']}, {spec['height']}x{spec['width']} pixels, threshold "
        f"{spec['threshold']:g}. Scored on {test['frames']} {test['split']} frames of {test['subjects']} subjects, at "
        f"the frames' own size. MLflow run {receipt['run_id']}."
    )
    return page.render(f"How well {receipt['name']} finds nerves", lead, sections)


def render_crossval(
    metrics: Mapping[str, Any],
    params: Params,
    store: FrameStore,
    pooled: Scores,
    sweep: pd.DataFrame,
    folds: pd.DataFrame,
    pairs: pd.DataFrame,
    receipt: Mapping[str, Any] | None,
) -> str:
    """The report of a cross-validation, as HTML.

    Args:
        metrics: what `crossval/metrics.json` holds.
        store: the dataset.
        pooled: the out-of-fold scores, by Kaggle's rule.
        sweep: of the validation frames of all folds.
        folds: what `crossval/folds.csv` holds.
        pairs: as `conflicts.find` makes them.
        receipt: what `crossval/registration.json` is about to hold of the ensemble; None: none was asked for.
    """
    scored, model = pooled.by_rule(params.evaluate.empty), params.model
    chosen = overlays.choose(scored.table, params.evaluate.overlays, params.evaluate.seed)
    sections = [
        summary(metrics, params.evaluate),
        *([verdict(receipt)] if receipt else []),
        fold_table(folds),
        *([leakage(metrics)] if "leakage" in metrics else []),
        subjects(scored.table, metrics),
        subject_table(scored.table, metrics),
        reliability(scored, metrics),
        thresholds(sweep, model.threshold, metrics),
        selective_prediction(scored.table, metrics),
        frames(store, scored.table, chosen),
        empty_rules(metrics),
        label_conflicts(store, pairs, metrics),
    ]
    test = metrics["test"]
    lead = (
        f"{metrics['folds']} trainings of {model.architecture} on {model.encoder}, {model.height}x{model.width} "
        f"pixels: each of {test['frames']} frames of {test['subjects']} subjects is scored by the one that has not "
        "seen its subject, at the frame's own size. Figures are of the configuration, not of one model."
    )
    if receipt:
        lead += f" By them the gate judged the ensemble of the networks, MLflow run {receipt['run_id']}."
    return page.render("How well the configuration finds nerves, by cross-validation", lead, sections)


def summary(metrics: Mapping[str, Any], evaluate: EvaluateParams) -> Section:
    """The headline figures with their intervals, and beside them those of baselines.

    Args:
        metrics: the content of `metrics.json`.
    """
    test, baseline = metrics["test"], metrics["baseline"]
    worst = test["worst_subject_name"]
    figures = [
        _headline("Dice, mean over frames", test, "dice", "1 is perfect, 0 no overlap"),
        _headline("Dice, mean over subjects", test, "dice_by_subject", "every person weighs alike"),
        _headline("IoU, mean over frames", test, "iou", "stricter than Dice: 0.82 where Dice is 0.90"),
        _headline(
            "Worst subject",
            test,
            "worst_subject",
            f"mean Dice of subject {worst}; its interval draws this person's frames: how well the mean is known, not "
            "who is worst"
            if worst
            else "too few frames",
        ),
        _headline("Frames with Dice below 0.5", test, "dice_below_half", "share that is more wrong than right"),
        _headline(
            "NSD",
            test,
            "nsd",
            f"share of the outlines at most {evaluate.nsd_tolerance:g} pixels apart{defined_on(test, 'nsd')}",
        ),
        _headline("HD95", test, "hd95", f"pixels; 95 % of the outline is nearer than this{defined_on(test, 'hd95')}"),
        _headline("Calibration error", test, "ece", "0: probabilities mean what they say"),
    ]
    rows = [
        ("this model", *_cells(test, "dice"), ""),
        *(
            (name, *_cells(baseline[key], "dice"), _with_interval(baseline[key], "gain"))
            for name, key in (
                ("nothing predicted", "empty"),
                ("the mean training mask, always", "prior"),
                ("the same, cut at 0.5 instead of where it is best", "prior_half"),
                ("the ellipse of the prediction", "ellipse"),
            )
        ),
        ("best that the labels allow", *_cells(metrics["ceiling"], "dice"), ""),
    ]
    which = test["split"]
    watched = (
        " They are validation frames: training did not learn from them, but its course was watched on them."
        if which == "validation"
        else ""
    )
    text = (
        f"Figures of {test['frames']} {which} frames of {test['subjects']} subjects.{watched} Brackets hold the 95 % "
        "interval found by drawing subjects anew: where the figure would lie for other people like these. It says "
        "nothing of other scanners, hospitals or body parts, nor of another training. A model has to beat what needs "
        "no model, which the table shows; what the ellipse loses or gains is how much of a mask is shape."
    )
    return Section(
        "Summary",
        text,
        [
            Figures(figures),
            Table(("Dice of", "value", "95 % interval", "this model's gain"), rows, words=frozenset({0})),
        ],
    )


def verdict(receipt: Mapping[str, Any]) -> Section:
    """What the gate decided, and by which criteria. `receipt` is what `registration.json` holds."""
    gate = receipt["gate"]
    if receipt["registered"]:
        outcome = Note(f"Registered as {receipt['name']} version {receipt['version']}.", "good")
    else:
        outcome = Note(f"Not registered: {'; '.join(receipt['reasons'])}.", "bad")
    blocks: list[Block] = [outcome]
    if gate["note"]:
        blocks.append(Note(gate["note"]))
    criteria = gate["criteria"]
    if criteria:
        blocks.append(
            Table(
                ("criterion", "value", "threshold", "verdict", "in words"),
                [
                    (
                        each["name"],
                        _number(each["value"], 4),
                        f"{each['relation']} {_number(each['threshold'], 4)}",
                        "passed" if each["passed"] else "failed",
                        each["detail"],
                    )
                    for each in criteria
                ],
                marked=frozenset(number for number, each in enumerate(criteria) if not each["passed"]),
                words=frozenset({0, 3, 4}),
            )
        )
    meaning = {
        "off": "The gate is off (register.gate: off): no criterion was asked.",
        "report": "The gate only reports (register.gate: report): a criterion that fails keeps no model out.",
        "enforce": "The gate is enforced: a model that fails one criterion is not registered.",
    }[gate["mode"]]
    text = f"{meaning} To pass is to be good enough to be looked at, not to be fit for use on patients."
    return Section("Verdict of the gate", text, blocks)


def dataset(index: pd.DataFrame, findings: Mapping[str, Any], split: str) -> Section:
    """How the frames were divided, and what the checks of the dataset found.

    Args:
        index: of the frame store.
        findings: the content of `findings.json`.
        split: which frames are scored.
    """
    counts = store.counts(index).reindex(_SPLITS, fill_value=0)
    table = Table(
        ("split", "frames", "subjects", "with a nerve", "distinct frames"),
        [(name, *map(str, row)) for name, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)],
    )
    subjects = {name: set(part["subject"]) for name, part in index.groupby("split")}
    shared = len(subjects.get(split, set()) & subjects.get("train", set()))
    note = (
        Note(f"{shared} of the scored subjects have frames in the training set too: these figures are too good.", "bad")
        if shared
        else Note("No scored subject has a frame in the training set.", "good")
    )
    kinds = Counter((each["severity"], each["kind"]) for each in findings["findings"])
    examples = {(each["severity"], each["kind"]): each for each in reversed(findings["findings"])}
    found: Block = (
        Table(
            ("severity", "kind", "count", "first", "detail"),
            [
                (severity, kind, str(count), examples[severity, kind]["image"], examples[severity, kind]["detail"])
                for (severity, kind), count in sorted(kinds.items())
            ],
            words=frozenset({0, 1, 3, 4}),
            caption="What the checks found; all of it is in data/packed/findings.json",
        )
        if kinds
        else Note("The checks of the dataset found nothing odd.", "good")
    )
    text = (
        f"The dataset holds {findings['frames']} frames of {findings['subjects']} subjects, "
        f"{findings['frames_with_mask']} of them with a nerve; {findings['frames_used']} are used. Near-identical "
        "frames count once as distinct: a set with few of them is smaller than it looks."
    )
    return Section("Data", text, [table, note, found])


def training(curve: pd.DataFrame, record: Mapping[str, Any]) -> Section:
    """The training's curves.

    Args:
        curve: the content of `curve.csv`.
        record: `params` of `run.json`.
    """
    drawn = [
        charts.lines(charts.of_training(curve, name), title, "epoch", whole=True, unit=name != "loss")
        for name, title in charts.CURVES.items()
    ]
    rate = {"after the last step": (curve["epoch"], curve["learning_rate"])}
    drawn.append(charts.lines(rate, "Learning rate", "epoch", whole=True, unit=False))
    text = (
        f"{len(curve)} epochs on {record['frames.train']} frames, watched on {record['frames.validation']} validation "
        "frames. Scores here are at the size that the network sees and by Kaggle's rule for empty masks, so they are a "
        "little other than those above. Lines that part late in the training mean that it learns its frames by heart."
    )
    return Section("Training", text, [Charts(drawn)])


def published(record: Mapping[str, Any], curve: pd.DataFrame, timings: Mapping[str, float]) -> Section:
    """The training beside the published run that it follows; arguments as for `parity.rows`."""
    text = (
        "The training had the settings of the published run, so that its curve should be like that one's. Another "
        f"seed alone moves IoU by some hundredths. {parity.NOTE}"
    )
    return Section(parity.TITLE, text, [Table(parity.COLUMNS, parity.rows(record, curve, timings))])


def fold_table(folds: pd.DataFrame) -> Section:
    """The figures of each training. `folds` is what `crossval/folds.csv` holds."""
    rows = [
        (
            f"{row.fold + 1} by {row.by}",
            *map(str, (row.frames, row.subjects)),
            *(_number(value) for value in (row.dice, row.iou, row.validation_dice)),
            str(row.run_id),
        )
        for row in folds.itertuples()
    ]
    text = (
        "Each fold is tested by a training on the others, but for the next one, which validates. How far the folds lie "
        "apart is how much a single split can flatter or wrong a model. Validation Dice is that of the last epoch, at "
        "the size that the network sees."
    )
    columns = ("fold", "frames", "subjects", "Dice", "IoU", "validation Dice", "MLflow run")
    return Section("Folds", text, [Table(columns, rows, words=frozenset({0, 6}), code=frozenset({6}))])


def leakage(metrics: Mapping[str, Any]) -> Section:
    """What random folds would have claimed. `metrics` is the content of `crossval/metrics.json`."""
    found = metrics["leakage"]
    optimism = found["optimism"]
    text = (
        "The same configuration trained once more on random folds, in which frames of the tested subjects are trained "
        "on, as nothing but a division by subject prevents. Both score the same frames; the optimism is the "
        "difference, paired by frame, with the interval from drawing subjects anew. It is what a random split would "
        f"have made of this dataset: a Dice of {_number(found['by_frame']['dice'])} where new subjects get "
        f"{_number(found['by_subject']['dice'])}."
    )
    figures = [
        _headline("Optimism in Dice", optimism, "dice", "random folds less folds of subjects"),
        _headline("Optimism in IoU", optimism, "iou"),
    ]
    rows = [
        (words, *_cells(found[part], "dice"), *_cells(found[part], "iou"))
        for words, part in (
            ("folds of subjects", "by_subject"),
            ("random folds", "by_frame"),
            ("optimism", "optimism"),
        )
    ]
    columns = ("", "Dice", "95 % interval", "IoU", "95 % interval")
    return Section("Leakage audit", text, [Figures(figures), Table(columns, rows)])


def subjects(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Section:
    """How the Dice of frames is distributed, by subject and in all.

    Args:
        table: of the scored frames, as `Scores` has it.
        metrics: the content of `metrics.json`.
    """
    test = metrics["test"]
    count = table.dropna(subset="dice")["subject"].nunique()
    cut = f" Only the {charts.SHOWN} subjects with the lowest mean are drawn." if count > charts.SHOWN else ""
    text = (
        "Each dot is a frame, each bar the mean of a subject, the lowest on top; the worst subject with enough frames "
        "is in red. Frames of one person are alike, so a mean over frames hides a person on whom the model fails."
        f"{cut}"
    )
    return Section(
        "Distribution by subject",
        text,
        [
            Charts(
                [
                    charts.by_subject(table, test["worst_subject_name"], "Dice by subject"),
                    charts.histogram(table["dice"].to_numpy(), "Dice of all frames", "Dice"),
                ]
            ),
            _distribution(table, test),
        ],
    )


def _distribution(table: pd.DataFrame, test: Mapping[str, Any]) -> Table:
    """The spread of each figure over frames, and below it what all pixels together give."""
    rows: list[tuple[str, ...]] = []
    for key, (name, digits) in _SPREAD.items():
        places = (f"{key}_p05", f"{key}_p25", f"{key}_median", f"{key}_p75", f"{key}_p95")
        rows.append(
            (
                name,
                _number(test[key], digits),
                _interval(test[f"{key}_ci"], digits),
                *(_number(test[place], digits) for place in places),
                str(table[key].notna().sum()),
            )
        )
    rows += [
        (name, *_cells(test, key), *[""] * 6)
        for name, key in (("Dice, pooled", "pooled_dice"), ("IoU, pooled", "pooled_iou"))
    ]
    return Table(
        ("", "mean", "95 % interval", "5th", "25th", "median", "75th", "95th", "frames"),
        rows,
        caption="Mean, median and percentiles over frames, and of how many. Pooled is no mean over frames: all pixels "
        "are taken as one frame, in which large nerves count more.",
    )


def subject_table(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Section:
    """The figures of each subject; arguments as for `subjects`, the table with all figures of `scores.of_frame`."""
    rows = per_subject(table).sort_values("dice", kind="stable", ignore_index=True)
    worst = metrics["test"]["worst_subject_name"]
    text = (
        "Means over each subject's frames, the lowest Dice first; beside it its median and the share of frames with a "
        "Dice below 0.5. A subject of few frames says little: the worst is "
        "chosen among those with enough of them (evaluate.min_frames), and is in red. Pixels are those of a frame at "
        "its own size."
    )
    shown = Table(
        (
            *("subject", "frames", "Dice", "median", "below 0.5", "IoU", "NSD", "HD95, pixels", "centroid, pixels"),
            "atypicality",
        ),
        [
            (
                str(row.subject),
                str(row.frames),
                _number(row.dice),
                _number(row.dice_median),
                "undefined" if np.isnan(row.dice_below_half) else f"{row.dice_below_half:.0%}",
                _number(row.iou),
                _number(row.nsd),
                *(_number(value, 1) for value in (row.hd95, row.centroid_error)),
                _number(row.atypicality, 2),
            )
            for row in rows.itertuples()
        ],
        marked=frozenset(np.flatnonzero(rows["subject"] == worst).tolist()),
    )
    return Section("Subjects", text, [shown])


def reliability(scored: Scores, metrics: Mapping[str, Any]) -> Section:
    """Whether the probabilities can be believed. `metrics` is the content of `metrics.json`."""
    test = metrics["test"]
    curve = calibration.curve(scored.histograms)
    text = (
        "Of the pixels to which the model gives a probability of 0.8, 8 in 10 should be nerve: then the line lies on "
        "the diagonal. Below it, the model is too sure. Nearly all pixels are plainly background, which keeps both "
        "figures small; the line is what to look at, and where there are few pixels it is noise."
    )
    figures = [
        _headline("Expected calibration error", test, "ece", "mean distance from the diagonal, over pixels"),
        _headline("Brier score", test, "brier", "mean squared error of the probability"),
        Figure(
            "Confidence against Dice",
            _number(test["confidence_dice_correlation"], 2),
            note="rank correlation over frames; 1: the surer, the better",
        ),
    ]
    drawn = [charts.reliability(curve, "Reliability"), charts.pixels(curve, "Pixels at each probability")]
    return Section("Calibration", text, [Figures(figures), Charts(drawn)])


def thresholds(sweep: pd.DataFrame, threshold: float | str, metrics: Mapping[str, Any]) -> Section:
    """What other thresholds would have given on the validation frames.

    Args:
        sweep: as `calibration.sweep` makes it.
        threshold: the model's; "validation" where each fold has chosen its own.
        metrics: the content of `metrics.json`.
    """
    best = metrics["validation"]
    used = "Each fold uses the best of its own" if isinstance(threshold, str) else f"The model uses {threshold:g}"
    marks = {} if isinstance(threshold, str) else {"used": threshold}
    if best["best_threshold"] is not None:
        marks["best here"] = best["best_threshold"]
    rule = metrics["empty_rule"].partition(":")[0]
    text = (
        "Dice and IoU of the validation frames for each probability from which a pixel is called nerve, by the rule "
        f"{rule} for empty masks. "
        f"{used}; the best here is {_number(best['best_threshold'], 2)}, with a Dice of "
        f"{_number(best['dice_at_best_threshold'])}. A threshold is chosen on validation frames only: chosen on test "
        "frames, it would flatter them."
    )
    drawn = charts.lines(
        {name: (sweep["threshold"], sweep[key]) for name, key in (("Dice", "dice"), ("IoU", "iou"))},
        "Validation frames by threshold",
        "threshold",
        marks=marks,
    )
    return Section("Threshold", text, [Charts([drawn])])


def selective_prediction(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Section:
    """What leaving atypical frames to a person would gain.

    Args:
        table: of the scored frames, with the columns dice and atypicality.
        metrics: the content of `metrics.json`.
    """
    test = metrics["test"]
    curve = selective.risk_coverage(table["atypicality"].to_numpy(), table["dice"].to_numpy())
    text = (
        "A mask that is unlike the training masks in size, position or shape is atypical. If only the least atypical "
        "share of the frames is used (the coverage) and the rest is left to a person, the risk is 1 less the mean "
        "Dice of what is used. A line that rises to the right means that atypicality finds the bad masks; a flat "
        "line, that it does not. A mask can look right and lie in the wrong place."
    )
    figures = [
        _headline(f"Dice of the {selective.KEPT:.0%} kept", test, "dice_kept"),
        _headline("Gained by selective prediction", test, "selective_gain", "Dice, against using all frames"),
        Figure(
            "Atypicality against Dice",
            _number(test["atypicality_dice_correlation"], 2),
            note="rank correlation over frames; -1 would be best",
        ),
    ]
    drawn = charts.lines(
        {"1 - mean Dice": (curve["coverage"], curve["risk"])},
        "Risk and coverage",
        "coverage",
        unit=False,
        marks={f"{selective.KEPT:.0%} kept": selective.KEPT},
    )
    return Section("Selective prediction", text, [Figures(figures), Charts([drawn])])


def frames(store: FrameStore, table: pd.DataFrame, chosen: Mapping[str, Sequence[int]]) -> Section:
    """Frames with the outlines of both masks.

    Args:
        table: of the scored frames, as `Scores` has it.
        chosen: rows of the table to show, by the reason, as `overlays.choose` makes them.
    """
    text = (
        "Truth in yellow, prediction in blue; a pointer over a frame hides the outlines. Best and worst are by Dice, "
        "and the ends of a range: the random frames show what is usual. The most atypical are those that the model's "
        "own masks give away, without knowing the truth."
    )
    blocks = [
        Pictures(
            _TITLES[name],
            [_scored_picture(store, table.loc[row]) for row in rows],
        )
        for name, rows in chosen.items()
        if len(rows)
    ]
    return Section("Frames", text, blocks)


def empty_rules(metrics: Mapping[str, Any]) -> Section:
    """The same predictions by each rule for empty masks. `metrics` is the content of `metrics.json`."""
    presence = metrics["test"]["presence"]
    rows = [
        (rule, *(_number(scores[name], 4) for name in ("dice", "iou")))
        for rule, scores in metrics["by_empty_rule"].items()
    ]
    used = metrics["empty_rule"].partition(":")[0]
    counts = [
        ("with a nerve", str(presence["true_positives"]), str(presence["false_negatives"])),
        ("without a nerve", str(presence["false_positives"]), str(presence["true_negatives"])),
    ]
    figures = [
        _headline("Nerves found", presence, "recall", "of the frames with a nerve"),
        _headline("Left empty rightly", presence, "specificity", "of the frames without a nerve"),
        _headline("Right where it found one", presence, "precision", "of the frames on which it found a nerve"),
    ]
    text = (
        "Tools disagree on what a frame without a nerve scores, so that the same predictions get different figures: "
        "compare only those of one rule. Where all frames have a nerve and something is predicted on all of them, the "
        f"rules agree. This report is by {metrics['empty_rule']}."
    )
    return Section(
        "Empty masks",
        text,
        [
            Table(
                ("rule", "Dice", "IoU"),
                rows,
                marked=frozenset(),
                caption=f"The same predictions by four rules; {used} is that of this report",
            ),
            Figures(figures),
            Table(("frames", "something predicted", "nothing predicted"), counts),
        ],
    )


def label_conflicts(store: FrameStore, pairs: pd.DataFrame, metrics: Mapping[str, Any]) -> Section:
    """Near-identical frames whose masks contradict each other, and the ceiling that they imply.

    Args:
        pairs: as `conflicts.find` makes them.
        metrics: the content of `metrics.json`.
    """
    ceiling, test = metrics["ceiling"], metrics["test"]
    text = (
        f"Frames that are near-identical but whose masks have a Dice below {CONFLICT:g} with each other: one of the "
        "two outlines must be off, or the nerve is not to be told. Whoever gives near-identical frames one and the "
        "same mask can at best reach the ceiling on the scored frames, which says how much of the distance to 1 is the "
        "labels' fault. A model that tells such frames apart by their noise could beat it, and would be overfitted; "
        "disagreement between frames that are less alike is not counted."
    )
    figures = [
        _headline("Ceiling of Dice", ceiling, "dice", f"this model: {_number(test['dice'])}"),
        Figure("Conflicting pairs", str(ceiling["conflicting_pairs"]), note="of all frames of the dataset"),
        Figure(
            "Near-identical frames",
            str(ceiling["near_identical_frames"]),
            note=f"of {test['frames']} scored ones that have a like among them",
        ),
    ]
    blocks: list[Block] = [Figures(figures)]
    if not len(pairs):
        blocks.append(Note("No two near-identical frames have masks that contradict each other.", "good"))
        return Section("Label conflicts", text, blocks)
    worst = pairs.head(_EXAMPLES)
    blocks.append(
        Table(
            ("frame", "subject", "split", "area", "other frame", "subject", "split", "area", "bits apart", "Dice"),
            [
                (
                    *(str(row[name]) for name in ("image", "subject", "split", "area")),
                    *(str(row[f"other_{name}"]) for name in ("image", "subject", "split", "area")),
                    str(row["bits"]),
                    _number(row["dice"]),
                )
                for row in worst.to_dict("records")
            ],
            words=frozenset({0, 1, 2, 4, 5, 6}),
            caption=f"The worst {len(worst)} of {len(pairs)} pairs; all of them are in reports/conflicts.csv",
        )
    )
    pictures = [
        page.picture(store.frame(row), store.mask(row), None, str(store.index.loc[row, "image"]), caption)
        for pair in pairs.head(_PAIRS).to_dict("records")
        for row, caption in ((pair["row"], "truth"), (pair["other_row"], f"truth; Dice of the pair {pair['dice']:.3f}"))
    ]
    blocks.append(Pictures("The worst pairs, side by side", pictures, columns=2))
    return Section("Label conflicts", text, blocks)


def durations(timings: Mapping[str, float]) -> Section:
    """Where the training's seconds went. `timings` is the content of `timings.json`."""
    whole = sum(timings.values())
    rows = [
        (part.replace("_", " "), f"{seconds:.1f}", f"{seconds / whole:.0%}" if whole else "")
        for part, seconds in timings.items()
    ]
    text = (
        "Seconds of the process that finished the training; of one that was resumed, only the last. Data is the time "
        "that the training waited for frames."
    )
    table = Table(("part", "seconds", "share"), [*rows, ("in all", f"{whole:.1f}", "100%" if whole else "")])
    return Section("Timings", text, [table])


def provenance(card: Mapping[str, Any]) -> Section:
    """What the figures come from, link by link. `card` is the content of `card.json`."""
    rows = [(each["link"], each["what"], each["sha256"], each["chain"]) for each in card["provenance"]]
    text = (
        "Each link is the SHA-256 of what it names, each chain that of the chain before and the link: whoever changes "
        "one of them changes all chains below it. `nerveseg verify` walks it. It detects accidents and partial "
        "tampering, not someone who can rewrite all of it, and it does not show that the dataset was right."
    )
    table = Table(("link", "what", "SHA-256", "chain"), rows, words=frozenset(range(4)), code=frozenset({2, 3}))
    return Section("Provenance", text, [table])


def _scored_picture(store: FrameStore, score: pd.Series) -> page.Picture:
    row = int(score["row"])
    frame, truth = store.frame(row), store.mask(row)
    caption = f"Dice {_number(score['dice'])}, atypicality {_number(score['atypicality'], 2)}"
    return page.picture(frame, truth, rle.decode(score["rle_mask"], *frame.shape), str(score["image"]), caption)


def _headline(name: str, figures: Mapping[str, Any], key: str, note: str = "") -> Figure:
    size = abs(figures[key] or 0)
    digits = 4 if 0 < size < 0.1 else 1 if size > 1 else 3
    return Figure(name, _number(figures[key], digits), _interval(figures.get(f"{key}_ci"), digits), note)


def _cells(figures: Mapping[str, Any], key: str) -> tuple[str, str]:
    return _number(figures[key]), _interval(figures.get(f"{key}_ci"))


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    return " ".join(filter(None, (_number(figures[key]), _interval(figures.get(f"{key}_ci")))))


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    return "" if bounds is None else f"({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})"
