"""The report: one page with a model's metrics, what they mean, and their limits.

Each section is a function of the data that it shows; the report of a model and that of a cross-validation share them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nerveseg import legacy
from nerveseg.data import frame_store as store
from nerveseg.data import rle
from nerveseg.data.frame_store import SITE, FrameStore
from nerveseg.evaluation import calibration, figures, paired, selective
from nerveseg.evaluation.conflicts import CONFLICT
from nerveseg.evaluation.figures import BASELINES, interval, number, with_interval
from nerveseg.evaluation.paired import Pair
from nerveseg.evaluation.results import Measured, Metrics
from nerveseg.evaluation.scores import Sample, Scores, is_spaced, outcomes, per_subject
from nerveseg.files import read_json
from nerveseg.params import EvaluateParams, Params
from nerveseg.report import beside, browser, charts, overlays, page, parity
from nerveseg.report.browser import Field, Scored, filter_link, frame_link
from nerveseg.report.page import Block, Charts, Link, Note, Page, Pictures, Section, Table, Tile, Tiles

_EXAMPLES = 10  # rows of a table that could be long
_PAIRS = 4  # of conflicting frames that are shown
_ASIDE, _ASIDE_SHOWN = "set-aside", 100  # address and longest list of the frames that were set aside
_ASIDE_LINK = Link("Which ones, and why", f"#{_ASIDE}")
_SPLITS = ("train", "validation", "test")
_OUTCOME = "outcome"  # of nerve presence, as a field of the browser
_OUTCOMES = {  # by their names in `scores.outcomes`
    "true_positives": "true positive",
    "false_positives": "false positive",
    "false_negatives": "false negative",
    "true_negatives": "true negative",
}


def render(
    receipt: Mapping[str, Any], evaluate: EvaluateParams, store: FrameStore, scores: Scores, models: Path, reports: Path
) -> Page:
    """The report of a model that the gate has judged.

    Args:
        receipt: the future content of `registration.json`.
        store: the dataset.
        scores: by Kaggle's rule.
        models, reports: folders that the stages before have written.

    Raises:
        NervesegError: one of their files is missing or damaged.
    """
    metrics, spec = Metrics.read(reports / "metrics.json"), read_json(models / "model.json")
    record, timings = read_json(models / "run.json")["params"], read_json(models / "timings.json")
    curve = pd.read_csv(models / "curve.csv")
    scored = scores.by_rule(evaluate.empty)
    pairs = pd.read_csv(reports / "conflicts.csv", dtype={"subject": str, "other_subject": str})
    champion = paired.read(reports / "champion.parquet")
    pair = _with_champion(store, champion, scores, evaluate)
    sections = [
        summary(metrics, evaluate, store.set_aside()),
        verdict(receipt),
        *([beside.champion(pair, receipt, len(scored.table))] if pair else []),
        frames(store, scored.table, evaluate, pair),
        dataset(store.index, store.findings(), evaluate.split),
        *set_aside(store),
        training(curve, record),
    ]
    if parity.applies(record):
        source = read_json(models / "run.json")["dataset"]["uri"]
        sections.append(published(record, curve, timings, parity.conditions(record, source, store.index)))
    sections += [
        subjects(scored.table, metrics),
        *groups(scored, metrics, evaluate),
        reliability(scored, metrics),
        thresholds(pd.read_csv(reports / "curves" / "thresholds.csv"), spec["threshold"], metrics),
        selective_prediction(scored.table, metrics),
        empty_rules(metrics),
        label_conflicts(store, scored.table, pairs, metrics),
        durations(timings),
        provenance(read_json(reports / "card.json")),
    ]
    test = metrics.test
    lead = (
        f"{spec['architecture']} on {spec['encoder']}, {spec['height']}x{spec['width']} pixels, threshold "
        f"{spec['threshold']:g}. Scored on {test.frames} {test.split} frames {test.of_subjects}, at "
        f"the frames' own size. MLflow run {receipt['run_id']}."
    )
    return page.render(f"How well {receipt['name']} finds nerves", lead, sections)


def render_crossval(
    metrics: Metrics,
    params: Params,
    store: FrameStore,
    pooled: Scores,
    sweep: pd.DataFrame,
    folds: pd.DataFrame,
    pairs: pd.DataFrame,
    receipt: Mapping[str, Any] | None,
    champion: pd.DataFrame | None = None,
) -> Page:
    """The report of a cross-validation.

    Args:
        metrics: of all frames out of fold.
        store: the dataset.
        pooled: the out-of-fold scores, by Kaggle's rule.
        sweep: of the validation frames of all folds.
        folds: what `crossval/folds.csv` holds.
        pairs: as `conflicts.find` returns them.
        receipt: what `crossval/registration.json` is about to hold of the ensemble; None: none was asked for.
        champion: what the gate's champion scores, as `paired.score` makes it; None without a receipt.
    """
    scored, model = pooled.by_rule(params.evaluate.empty), params.model
    pair = None if champion is None else _with_champion(store, champion, pooled, params.evaluate)
    sections = [
        summary(metrics, params.evaluate, store.set_aside()),
        *([verdict(receipt)] if receipt else []),
        *([beside.champion(pair, receipt, len(scored.table))] if pair and receipt else []),
        frames(store, scored.table, params.evaluate, pair),
        fold_table(folds),
        *set_aside(store),
        *([leakage(metrics)] if metrics.leakage else []),
        subjects(scored.table, metrics),
        *groups(scored, metrics, params.evaluate),
        reliability(scored, metrics),
        thresholds(sweep, model.threshold, metrics),
        selective_prediction(scored.table, metrics),
        empty_rules(metrics),
        label_conflicts(store, scored.table, pairs, metrics),
    ]
    test = metrics.test
    lead = (
        f"{metrics.folds} trainings of {model.architecture} on {model.encoder}, {model.height}x{model.width} "
        f"pixels: each of {test.frames} frames {test.of_subjects} is scored by the one that was not trained on its "
        f"{'subject' if test.subjects_known else 'fold'}, at the frame's own size. The metrics describe the "
        "configuration, not a single model."
    )
    if receipt:
        lead += f" The gate judged the ensemble of the networks by them, MLflow run {receipt['run_id']}."
    return page.render("How well the configuration finds nerves, by cross-validation", lead, sections)


def summary(metrics: Metrics, evaluate: EvaluateParams, aside: str) -> Section:
    """The headline metrics with their intervals, and the Dice of the baselines for comparison.

    Args:
        aside: as `FrameStore.set_aside` returns it.
    """
    test = metrics.test
    rows = [
        ("this model", *_cells(metrics.measured("test.dice")), ""),
        *(
            (name, *_cells(metrics.measured(f"baseline.{key}.dice")), with_interval(gain.value, gain.interval, 3))
            for key, name in BASELINES.items()
            for gain in (metrics.measured(f"baseline.{key}.gain"),)
        ),
        ("best that the labels allow", *_cells(metrics.measured("ceiling.dice")), ""),
    ]
    validation = (
        " They are validation frames: the network was not trained on them, but they were used to monitor its training."
        if test.split == "validation"
        else ""
    )
    cover = (
        "The intervals cover other subjects from the same source."
        if test.subjects_known
        else "A person may be in the training set and among the scored frames, and then the metrics are too good."
    )
    text = (
        f"Metrics on {test.frames} {test.split} frames {test.of_subjects}.{validation} Brackets hold "
        f"{figures.intervals(test.subjects_known)}. {cover} The intervals do not cover other "
        f"scanners, hospitals or body parts, nor another training run.{_tolerance(metrics, evaluate)} A model has to "
        "beat the baselines, which need no network; the ellipse of a prediction shows how far its area, position and "
        "orientation alone explain its score."
    )
    return Section(
        "Summary",
        text,
        [
            *([Note(f"Frames set aside because of errors: {aside}.", "bad", _ASIDE_LINK)] if aside else []),
            Tiles([_tile(metrics, figure) for figure in metrics.shown("report")]),
            Table(("Dice of", "value", "95 % interval", "this model's gain"), rows, words=frozenset({0})),
        ],
    )


def _tolerance(metrics: Metrics, evaluate: EvaluateParams) -> str:
    """Sentences that say what NSD tolerates, and on how many frames the metrics in mm are defined."""
    if metrics.test.with_spacing is None:
        return f" NSD has a tolerance of {evaluate.nsd_tolerance:g} pixels."
    return (
        f" NSD has a tolerance of {evaluate.nsd_tolerance:g} pixels, or of {evaluate.nsd_tolerance_mm:g} mm. The pixel "
        f"spacing of {metrics.test.with_spacing} of the {metrics.test.frames} frames is known; the metrics in mm and "
        "mm² are those of these frames."
    )


def verdict(receipt: Mapping[str, Any]) -> Section:
    """What the gate decided, and by which criteria. `receipt` is the content of `registration.json`."""
    gate = receipt["gate"]
    if receipt["registered"] and gate["passed"] is False:
        failed = "; ".join(each["detail"] for each in gate["criteria"] if not each["passed"])
        outcome = Note(
            f"Failed: {failed}. Registered all the same as {receipt['name']} version {receipt['version']}.", "bad"
        )
    elif receipt["registered"]:
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
                        number(each["value"]),
                        f"{each['relation']} {number(each['threshold'], 4)}",
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
        "off": "The gate is off (register.gate: off): no criterion was checked.",
        "report": "The gate only reports (register.gate: report): a model that fails a criterion is registered anyway.",
        "enforce": "The gate is enforced: a model that fails a criterion is not registered.",
    }[gate["mode"]]
    text = f"{meaning} A model that passes is good enough to be reviewed; it is not cleared for use on patients."
    return Section("Verdict of the gate", text, blocks)


def dataset(index: pd.DataFrame, findings: Mapping[str, Any], split: str) -> Section:
    """How the frames are split, and what the checks of the dataset found.

    Args:
        index: of the frame store.
        findings: the content of `findings.json`.
        split: which frames are scored.
    """
    known = findings.get("subjects_known", True)  # findings of older versions do not say
    counts = store.counts(index).reindex(_SPLITS, fill_value=0).astype(str)
    if not known:
        counts["subjects"] = "unknown"
    table = Table(
        ("split", "frames", "subjects", "with a nerve", "distinct frames"),
        [(str(name), *row) for name, row in zip(counts.index, counts.to_numpy().tolist(), strict=True)],
    )
    subjects = {name: set(part["subject"]) for name, part in index.groupby("split")}
    shared = len(subjects.get(split, set()) & subjects.get("train", set()))
    if shared:
        leak = f"{shared} of the scored subjects have frames in the training set too: the metrics are too good."
    elif not known:
        leak = "Subjects are unknown: whether a scored person is in the training set cannot be told."
    else:
        leak = "No scored subject has a frame in the training set."
    scored = set(index.loc[index["split"] == split, "image"])
    note = Note(leak, "bad" if shared or not known else "good")
    kinds = Counter((each["severity"], each["kind"]) for each in findings["findings"])
    examples = {(each["severity"], each["kind"]): each for each in reversed(findings["findings"])}
    found: Block = (
        Table(
            ("severity", "kind", "count", "first", "detail"),
            [
                (
                    severity,
                    kind,
                    str(count),
                    _frame_cell(examples[severity, kind]["image"], scored),
                    examples[severity, kind]["detail"],
                )
                for (severity, kind), count in sorted(kinds.items())
            ],
            words=frozenset({0, 1, 3, 4}),
            caption="Findings of the dataset checks; data/packed/findings.json lists them all",
        )
        if kinds
        else Note("The dataset checks found no problems.", "good")
    )
    text = (
        f"The dataset holds {findings['frames']} frames of {findings['subjects'] if known else 'unknown'} subjects, "
        f"{findings['frames_with_mask']} of them with a nerve; {findings['frames_used']} are used. "
        f"{findings.get('subjects_read', '')} Near-duplicate "
        "frames count as one distinct frame: a split with few distinct frames holds less than its size suggests."
    )
    return Section("Data", text, [table, note, found])


def set_aside(store: FrameStore) -> list[Section]:
    """The frames that were set aside because of errors; none if there are none."""
    if not store.set_aside():
        return []
    frames = store.findings()["set_aside"]
    text = (
        f"Frames of the dataset with errors: {store.set_aside()}. data.quarantine sets them aside instead of rejecting "
        "the dataset, so that the model was neither trained nor scored on them. If they have something in common, such "
        "as a scanner or a disease, how the model does on frames like them is unknown."
    )
    listed = frames[:_ASIDE_SHOWN]
    more = f" of {len(frames)}; data/packed/findings.json lists them all" if len(frames) > len(listed) else ""
    table = Table(
        ("frame", "errors"),
        [(each["image"], "; ".join(each["reasons"])) for each in listed],
        words=frozenset({0, 1}),
        caption=f"The frames set aside, and why: {len(listed)}{more}",
        anchor=_ASIDE,
    )
    return [Section("Frames set aside", text, [table])]


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
    validation = record.get("frames.validation", 0)
    monitored = f"monitored on {validation} validation frames" if validation else "without validation frames"
    overfits = (
        "If the validation line gets worse while the training line still improves, the network overfits."
        if validation
        else "They are of the training frames alone, so they cannot show whether the network overfits."
    )
    recipe = ""
    if "train.recipe" in record:  # a training of an older version has none
        recipe = f" The recipe is {record['train.recipe']}, the loss {record['train.loss']}."
    text = (
        f"{len(curve)} epochs on {record['frames.train']} frames, {monitored}; the network after epoch "
        f"{legacy.kept(curve)['epoch']:.0f} is kept.{recipe} Scores here are computed at the network's input size and "
        f"by Kaggle's rule for empty masks, so they differ a little from those above. {overfits}"
    )
    return Section("Training", text, [Charts(drawn)])


def published(record: Mapping[str, Any], curve: pd.DataFrame, timings: Mapping[str, float], conditions: str) -> Section:
    """The training compared with the published run whose settings it has; arguments as for `parity.rows`.

    Args:
        conditions: as `parity.conditions` says them.
    """
    text = (
        "This training used the settings of the published run, so with its data and split the curve should be similar. "
        f"{conditions} A different seed alone changes IoU by a few hundredths. {parity.NOTE}"
    )
    return Section(parity.TITLE, text, [Table(parity.COLUMNS, parity.rows(record, curve, timings))])


def fold_table(folds: pd.DataFrame) -> Section:
    """The metrics of each training. `folds` is the content of `crossval/folds.csv`."""
    rows = [
        (
            f"{row.fold + 1} by {row.by}",
            *map(str, (row.frames, row.subjects)),
            *(number(value, 3) for value in (row.dice, row.iou, row.validation_dice)),
            str(row.run_id),
        )
        for row in folds.itertuples()
    ]
    text = (
        "For each fold, a network is trained on the other folds except the next one, which serves for validation, and "
        "tested on this fold. The differences between folds show how much a single split can over- or underestimate "
        "a model. Validation Dice is that of the last epoch, at the network's input size."
    )
    columns = ("fold", "frames", "subjects", "Dice", "IoU", "validation Dice", "MLflow run")
    return Section("Folds", text, [Table(columns, rows, words=frozenset({0, 6}), code=frozenset({6}))])


def leakage(metrics: Metrics) -> Section:
    """What random folds would have claimed; `metrics` are those of a cross-validation with a leakage audit."""
    by_frame, by_subject = (metrics.measured(f"leakage.{part}.dice") for part in ("by_frame", "by_subject"))
    text = (
        "The same configuration was trained once more on random folds, where frames of the tested subjects are in the "
        "training set too. Both score the same frames; the optimism is the difference, paired by frame, with an "
        "interval by resampling subjects. It is the error of a random split on this dataset: a Dice of "
        f"{number(by_frame.value, 3)}, where the Dice on unseen subjects is {number(by_subject.value, 3)}."
    )
    tiles = [_tile(metrics, figure) for figure in figures.in_section("leakage.optimism")]
    rows = [
        (words, *(cell for key in ("dice", "iou") for cell in _cells(metrics.measured(f"leakage.{part}.{key}"))))
        for words, part in (
            ("folds of subjects", "by_subject"),
            ("random folds", "by_frame"),
            ("optimism", "optimism"),
        )
    ]
    columns = ("trained on", "Dice", "95 % interval", "IoU", "95 % interval")
    return Section("Leakage audit", text, [Tiles(tiles), Table(columns, rows)])


def subjects(table: pd.DataFrame, metrics: Metrics) -> Section:
    """How the Dice of frames is distributed, by subject and overall.

    Args:
        table: the scored frames, as `Scores` has them.
    """
    overall = charts.histogram(table["dice"].to_numpy(), "dice", "Dice of all frames", "Dice")
    if not metrics.test.subjects_known:
        text = "The subjects are unknown, so that a subject on whom the model fails would go unnoticed."
        return Section("Distribution", text, [Charts([overall]), _distribution(table, metrics)])
    count = table.dropna(subset="dice")["subject"].nunique()
    cut = f" Only the {charts.SHOWN} subjects with the lowest mean are drawn." if count > charts.SHOWN else ""
    text = (
        "Each dot is a frame, each bar the mean of a subject, the lowest on top; a click opens them. The worst subject "
        "with enough frames is in red. Frames of one subject resemble each other, so a mean over frames can hide a "
        f"subject on whom the model fails.{cut}"
    )
    return Section(
        "Distribution by subject",
        text,
        [
            Charts(
                [
                    charts.by_subject(table, metrics.test.worst_subject_name, "Dice by subject"),
                    overall,
                ]
            ),
            _distribution(table, metrics),
        ],
    )


def _distribution(table: pd.DataFrame, metrics: Metrics) -> Table:
    """The spread over frames of the figures that each frame has, and below it the pooled Dice and IoU."""
    rows: list[tuple[str, ...]] = [
        (
            figure.label,
            *_cells(metrics.measured(figure.key), figure.digits),
            *(
                number(metrics.measured(f"{figure.key}_{place}").value, figure.digits)
                for place in ("p05", "p25", "median", "p75", "p95")
            ),
            str(table[figure.column].notna().sum()),
        )
        for figure in figures.of_frames(is_spaced(table))
    ]
    rows += [
        (figure.title, *_cells(metrics.measured(figure.key), figure.digits), *[""] * 6)
        for figure in map(figures.get, ("test.pooled_dice", "test.pooled_iou"))
    ]
    return Table(
        ("metric", "mean", "95 % interval", "5th", "25th", "median", "75th", "95th", "frames"),
        rows,
        caption="Mean, median and percentiles over the frames on which the metric is defined, and their number. For "
        "the pooled metrics, the pixels of all frames are taken as one frame, in which large nerves count more.",
    )


def groups(scored: Scores, metrics: Metrics, evaluate: EvaluateParams) -> list[Section]:
    """The metrics by subject and by site, each where any is known."""
    return [
        *([subject_table(scored.table, metrics)] if metrics.test.subjects_known else []),
        *([site_table(scored, metrics, evaluate)] if SITE in scored.table else []),
    ]


def subject_table(table: pd.DataFrame, metrics: Metrics) -> Section:
    """The metrics of each subject.

    Args:
        table: the scored frames, as `Scores` has them.
    """
    rows = per_subject(table).sort_values("dice", kind="stable", ignore_index=True)
    others = [figure for figure in figures.of_frames(is_spaced(table)) if figure.column != "dice"]
    text = (
        "Means over each subject's frames, sorted by mean Dice; next to it, the median Dice and the share of frames "
        "with a Dice below 0.5. The mean of a few frames is unreliable: the worst subject, in red, is the lowest of "
        "those with at least evaluate.min_frames frames. Pixels are those of a frame at its own size."
    )
    shown = Table(
        ("subject", "frames", "Dice", "median", "below 0.5", *(figure.label for figure in others), "atypicality"),
        [
            (
                Link(str(row["subject"]), filter_link(subject=str(row["subject"]))),
                str(row["frames"]),
                *(number(row[name], 3) for name in ("dice", "dice_median")),
                "undefined" if np.isnan(row["dice_below_half"]) else f"{row['dice_below_half']:.0%}",
                *(number(row[figure.column], figure.digits) for figure in others),
                number(row["atypicality"], 2),
            )
            for row in rows.to_dict("records")
        ],
        marked=frozenset(np.flatnonzero(rows["subject"] == metrics.test.worst_subject_name).tolist()),
    )
    return Section("Subjects", text, [shown])


def site_table(scored: Scores, metrics: Metrics, evaluate: EvaluateParams) -> Section:
    """The metrics of each site.

    Args:
        scored: with the column site; empty there: unknown.
    """
    known = metrics.test.subjects_known
    others = [figure for figure in figures.of_frames(is_spaced(scored.table)) if figure.column != "dice"]
    rows: list[tuple[str | Link, ...]] = []
    for row in per_subject(scored.table, by=SITE).sort_values("dice", kind="stable").to_dict("records"):
        own = (scored.table[SITE] == row[SITE]).to_numpy()
        part = Scores(scored.table[own], scored.histograms[own])
        dice = Sample.of(part, evaluate, subjects_known=known).mean("dice")
        rows.append(
            (
                Link(row[SITE] or "unknown", filter_link(**{SITE: row[SITE]})),
                str(row["frames"]),
                str(part.table["subject"].nunique()) if known else "unknown",
                *_cells(Measured(dice.value, dice.interval)),
                *(number(row[figure.column], figure.digits) for figure in others),
                number(row["atypicality"], 2),
            )
        )
    text = (
        "Means over each site's scored frames, sorted by mean Dice, which has "
        f"{figures.intervals(known).partition(';')[0]}. Sites with few subjects differ by chance."
    )
    columns = ("site", "frames", "subjects", "Dice", "95 % interval", *(each.label for each in others), "atypicality")
    return Section("Sites", text, [Table(columns, rows)])


def reliability(scored: Scores, metrics: Metrics) -> Section:
    """Whether the predicted probabilities are calibrated."""
    curve = calibration.curve(scored.histograms)
    text = (
        "Of the pixels with a predicted probability of 0.8, 8 in 10 should be nerve: then the line lies on the "
        "diagonal. Below it, the model is overconfident. Nearly all pixels are clearly background, which keeps both "
        "errors small, so look at the line first; where there are few pixels, it is noise."
    )
    tiles = [_tile(metrics, figures.get(f"test.{name}")) for name in ("ece", "brier", "confidence_dice_correlation")]
    drawn = [charts.reliability(curve, "Reliability"), charts.pixels(curve, "Pixels at each probability")]
    return Section("Calibration", text, [Tiles(tiles), Charts(drawn)])


def thresholds(sweep: pd.DataFrame, threshold: float | str, metrics: Metrics) -> Section:
    """The scores of the validation frames at other thresholds.

    Args:
        sweep: as `calibration.sweep` returns it.
        threshold: the model's; "validation" if each fold has chosen its own.
    """
    best, rule = metrics.validation.best_threshold, metrics.empty_rule.partition(":")[0]
    used = "Each fold uses the best of its own" if isinstance(threshold, str) else f"The model uses {threshold:g}"
    if best is None:
        none = f"There are no validation frames with a Dice by the rule {rule}, on which thresholds could be compared."
        return Section("Threshold", f"{none} {used}.", [])
    marks = {"best here": best} if isinstance(threshold, str) else {"used": threshold, "best here": best}
    text = (
        "Dice and IoU of the validation frames for each threshold, the probability from which on a pixel counts as "
        f"nerve, by the rule {rule} for empty masks. {used}; the best here is {number(best, 2)}, with a Dice of "
        f"{number(metrics.validation.dice_at_best_threshold, 3)}. A threshold is only ever chosen on validation "
        "frames: chosen on test frames, it would overestimate the model."
    )
    drawn = charts.lines(
        {name: (sweep["threshold"], sweep[key]) for name, key in (("Dice", "dice"), ("IoU", "iou"))},
        "Validation frames by threshold",
        "threshold",
        marks=marks,
    )
    return Section("Threshold", text, [Charts([drawn])])


def selective_prediction(table: pd.DataFrame, metrics: Metrics) -> Section:
    """What leaving atypical frames to a person would gain.

    Args:
        table: the scored frames, with the columns dice and atypicality.
    """
    curve = selective.risk_coverage(table["atypicality"].to_numpy(), table["dice"].to_numpy())
    text = (
        "A mask that differs from the training masks in size, position or shape is atypical. If only the least "
        "atypical share of the frames (the coverage) is used and the rest is left to a person, the risk is 1 minus "
        "the mean Dice of the frames used. If the line rises to the right, atypicality identifies the bad masks; if "
        "it is flat, it does not. A mask can be typical and still be in the wrong place."
    )
    tiles = [
        _tile(metrics, figures.get(f"test.{name}"))
        for name in ("dice_kept", "selective_gain", "atypicality_dice_correlation")
    ]
    drawn = charts.lines(
        {"1 - mean Dice": (curve["coverage"], curve["risk"])},
        "Risk and coverage",
        "coverage",
        unit=False,
        marks={"kept": selective.KEPT},
    )
    dots = charts.scatter(table, "atypicality", "atypicality", "Dice and atypicality of each frame")
    return Section("Selective prediction", text, [Tiles(tiles), Charts([drawn, dots])])


def frames(store: FrameStore, table: pd.DataFrame, evaluate: EvaluateParams, pair: Pair | None = None) -> Section:
    """The browser of all scored frames, and panels of some that stand without it.

    Args:
        table: the scored frames, as `Scores` has them.
        evaluate: how many frames a panel has.
        pair: the champion and this model, where they were compared: the browser has the champion's masks too.
    """
    champion = ", the champion dashed in pink" if pair else ""
    text = (
        f"Truth in yellow, prediction in blue{champion}. The browser opens each scored frame, the lowest Dice first; "
        "links and dots of charts all over this page lead there. The panels below show at most one frame of each "
        "subject and of near-duplicates while there are others. Best and worst, by Dice, are of frames with a nerve, "
        "and extremes: the random frames show what is usual. The most atypical frames are found from the predicted "
        "masks alone, without the truth."
    )
    panels = [
        Pictures(overlays.TITLES[name], [_scored_picture(store, table.loc[row]) for row in rows])
        for name, rows in overlays.choose(table, evaluate.overlays, evaluate.seed).items()
        if len(rows)
    ]
    return Section("Frames", text, [browser.build(_scored(store, table, pair), _fields(table, pair)), *panels])


def _fields(table: pd.DataFrame, pair: Pair | None) -> list[Field]:
    """What the browser shows of the scored frames."""
    compared = [Field("dice_a", "Dice of the champion", 3), Field("agreement", "Agreement of both models", 3)]
    return [
        Field("subject", "Subject"),
        *([Field(SITE, "Site")] if SITE in table else []),
        Field(_OUTCOME, "Outcome"),
        *(Field(figure.column, figure.label, figure.digits) for figure in figures.of_frames(is_spaced(table))),
        *(compared if pair else []),
        Field("atypicality", "Atypicality", 2),
        Field("confidence", "Confidence", 2),
        Field("true_area", "True area, pixels", 0),
        Field("predicted_area", "Predicted area, pixels", 0),
    ]


def _scored(store: FrameStore, table: pd.DataFrame, pair: Pair | None) -> Iterator[Scored]:
    presence = pd.DataFrame(outcomes(table)).idxmax(axis=1)
    compared = (
        {} if pair is None else pair.frames.set_index("row")[["rle_mask_a", "dice_a", "agreement"]].to_dict("index")
    )
    for row, outcome in zip(table.to_dict("records"), presence, strict=True):
        frame, truth = store.frame(row["row"]), store.mask(row["row"])
        masks, facts = {"prediction": rle.decode(row["rle_mask"], *frame.shape)}, {_OUTCOME: _OUTCOMES[outcome]}
        if pair is not None:
            champion = compared.get(row["row"], {"rle_mask_a": ""})  # of an ensemble, not all frames are compared
            masks, facts = masks | {"champion": rle.decode(champion["rle_mask_a"], *frame.shape)}, facts | champion
        yield Scored(str(row["image"]), frame, truth, masks, row | facts)


def empty_rules(metrics: Metrics) -> Section:
    """The same predictions by each rule for empty masks, and nerve presence."""
    presence = metrics.test.presence
    rows = [(rule, number(means.dice), number(means.iou)) for rule, means in metrics.by_empty_rule.items()]
    used = metrics.empty_rule.partition(":")[0]
    counted = {name: _of_outcome(getattr(presence, name), name) for name in _OUTCOMES}
    counts = [
        ("with a nerve", counted["true_positives"], counted["false_negatives"]),
        ("without a nerve", counted["false_positives"], counted["true_negatives"]),
    ]
    text = (
        "Tools disagree on the score of a frame without a nerve, so the same predictions get different scores: "
        "compare only scores by the same rule. If all frames have a nerve and a mask is predicted on each, the rules "
        f"agree. This report uses {metrics.empty_rule}."
    )
    return Section(
        "Empty masks",
        text,
        [
            Table(
                ("rule", "Dice", "IoU"),
                rows,
                marked=frozenset(),
                caption=f"The same predictions by four rules; this report uses {used}",
            ),
            Tiles([_tile(metrics, figure) for figure in figures.in_section("test.presence")]),
            Table(("frames", "something predicted", "nothing predicted"), counts),
        ],
    )


def _of_outcome(frames: int, outcome: str) -> str | Link:
    """A number of frames, with a link to them if there are any."""
    return Link(str(frames), filter_link(**{_OUTCOME: _OUTCOMES[outcome]})) if frames else "0"


def label_conflicts(store: FrameStore, table: pd.DataFrame, pairs: pd.DataFrame, metrics: Metrics) -> Section:
    """Near-duplicate frames with contradictory masks, and the ceiling that they imply.

    Args:
        table: the scored frames, as `Scores` has them.
        pairs: as `conflicts.find` returns them.
    """
    scored = set(table["image"])
    ceiling = metrics.ceiling
    text = (
        f"Near-duplicate frames whose masks have a Dice below {CONFLICT:g} with each other: one of the two outlines "
        "must be wrong, or the nerve cannot be identified. A model that gives near-duplicate frames the same mask can "
        "at best reach the ceiling on the scored frames; the rest of the distance to 1 is due to the labels. A model "
        "that distinguishes such frames by their noise could exceed the ceiling, by overfitting. Disagreement between "
        "less similar frames is not counted."
    )
    tiles = [
        _tile(metrics, figures.get("ceiling.dice")),
        Tile("Conflicting pairs", str(ceiling.conflicting_pairs), note="of all frames of the dataset"),
        Tile(
            "Near-duplicate frames",
            str(ceiling.near_identical_frames),
            note=f"of {metrics.test.frames} scored frames have a near-duplicate among them",
        ),
    ]
    blocks: list[Block] = [Tiles(tiles)]
    if not len(pairs):
        blocks.append(Note("No two near-duplicate frames have contradictory masks.", "good"))
        return Section("Label conflicts", text, blocks)
    worst = pairs.head(_EXAMPLES)
    blocks.append(
        Table(
            ("frame", "subject", "split", "area", "other frame", "subject", "split", "area", "bits apart", "Dice"),
            [
                (
                    *_pair_cells(row, "", scored),
                    *_pair_cells(row, "other_", scored),
                    str(row["bits"]),
                    number(row["dice"], 3),
                )
                for row in worst.to_dict("records")
            ],
            words=frozenset({0, 1, 2, 4, 5, 6}),
            caption=f"The worst {len(worst)} of {len(pairs)} pairs; reports/conflicts.csv lists them all",
        )
    )
    pictures = [
        _labelled_picture(store, row, caption, scored)
        for pair in pairs.head(_PAIRS).to_dict("records")
        for row, caption in ((pair["row"], "truth"), (pair["other_row"], f"truth; Dice of the pair {pair['dice']:.3f}"))
    ]
    blocks.append(Pictures("The worst pairs, side by side", pictures, columns=2))
    return Section("Label conflicts", text, blocks)


def durations(timings: Mapping[str, float]) -> Section:
    """How long each part of the training took. `timings` is the content of `timings.json`."""
    whole = parity.total(timings)
    parts = {part: seconds for part, seconds in timings.items() if part != "total"}
    parts["other"] = whole - sum(parts.values())
    rows = [
        (part.replace("_", " "), f"{seconds:.1f}", f"{seconds / whole:.0%}" if whole else "")
        for part, seconds in parts.items()
    ]
    text = (
        "Seconds of the training; if it was interrupted, of all its processes together, without the time between them. "
        "Data is the time that it waited for frames."
    )
    table = Table(("part", "seconds", "share"), [*rows, ("in all", f"{whole:.1f}", "100%" if whole else "")])
    return Section("Timings", text, [table])


def provenance(card: Mapping[str, Any]) -> Section:
    """What the metrics were computed from, link by link. `card` is the content of `card.json`."""
    rows = [(each["link"], each["what"], each["sha256"], each["chain"]) for each in card["provenance"]]
    text = (
        "Each link is the SHA-256 of what it names, each chain value the SHA-256 of the previous chain value and the "
        "link: a change to one link changes all chain values below it. `nerveseg verify` checks the chain. It detects "
        "accidents and partial tampering, not someone who can rewrite all of it, and it does not show whether the "
        "dataset was correct."
    )
    table = Table(("link", "what", "SHA-256", "chain"), rows, words=frozenset(range(4)), code=frozenset({2, 3}))
    return Section("Provenance", text, [table])


def _with_champion(store: FrameStore, champion: pd.DataFrame, scores: Scores, evaluate: EvaluateParams) -> Pair | None:
    """The champion and the candidate on the same frames; None where the gate did not compare them.

    Args:
        champion: what the champion scores, as `paired.score` makes it; possibly without rows.
        scores: the candidate's, by Kaggle's rule.
    """
    return None if champion.empty else Pair.of(store, ("the champion", "this model"), champion, scores.table, evaluate)


def _scored_picture(store: FrameStore, score: pd.Series) -> page.Picture:
    row = int(score["row"])
    frame, truth = store.frame(row), store.mask(row)
    caption = f"Dice {number(score['dice'], 3)}, atypicality {number(score['atypicality'], 2)}"
    name = str(score["image"])
    return page.picture(frame, truth, rle.decode(score["rle_mask"], *frame.shape), name, caption, frame_link(name))


def _labelled_picture(store: FrameStore, row: int, caption: str, scored: Set[str]) -> page.Picture:
    name = str(store.index.loc[row, "image"])
    href = frame_link(name) if name in scored else ""
    return page.picture(store.frame(row), store.mask(row), None, name, caption, href)


def _pair_cells(pair: Mapping[Any, Any], side: str, scored: Set[str]) -> tuple[str | Link, ...]:
    """One frame of a pair of `conflicts.find`; `side` is the prefix of its columns."""
    image, *others = (str(pair[f"{side}{name}"]) for name in ("image", "subject", "split", "area"))
    return (_frame_cell(image, scored), *others)


def _frame_cell(name: str, scored: Set[str]) -> str | Link:
    """The name of a frame, with a link if the browser has it."""
    return Link(name, frame_link(name)) if name in scored else name


def _tile(metrics: Metrics, figure: figures.Figure) -> Tile:
    """A figure of the registry with its interval, its sentence and its direction."""
    value, between = _cells(metrics.measured(figure.key), figure.digits)
    better = f"; {figure.better} is better" if figure.better else ""
    return Tile(metrics.title(figure), value, between, f"{figure.meaning}{better}")


def _cells(found: Measured, digits: int = 3) -> tuple[str, str]:
    between = interval(found.interval, digits)
    return number(found.value, digits), f"({between})" if between else ""
