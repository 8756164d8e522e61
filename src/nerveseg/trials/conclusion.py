"""What a search has found: the table of its trials, the best as an overlay, and what its choice is worth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from nerveseg import params
from nerveseg.arrays import Floats
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.evaluation.figures import number, with_interval
from nerveseg.files import replacing_folder, write_json
from nerveseg.params import EvaluateParams, Params
from nerveseg.trials import markup, selection, study
from nerveseg.trials.folds import FIGURES
from nerveseg.trials.selection import Selection
from nerveseg.trials.space import Search

_ENDS = ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed"))


def conclude(found: optuna.Study, given: Search, base: Params, target: Path) -> dict[str, Any]:
    """Writes the table of all trials, the best as an overlay, and what its choice is worth, which is printed.

    Returns:
        The figures to log.

    Raises:
        NervesegError: the trials did not score the same frames.
    """
    trials = study.complete(found)
    left = given.trials - len(study.finished(found))
    if left > 0:
        console.print(f"{left} of {given.trials} trials are not finished: the same command continues them.")
    if len(trials) < 2 or study.BASELINE not in trials[0].user_attrs:
        console.print("Fewer than two trials are complete, so there is nothing to compare yet.")
        return {}
    scores = [study.scores(trial) for trial in trials]
    if any(not each.index.equals(scores[0].index) for each in scores):
        raise NervesegError(
            f"The trials of {found.study_name} did not score the same subjects: the dataset changed meanwhile. Give "
            "the search file another name."
        )
    totals = {figure: np.stack([each[figure] for each in scores], axis=1).astype(np.float64) for figure in FIGURES}
    frames = np.stack([each["frames"] for each in scores], axis=1).astype(np.float64)
    chosen = selection.select(totals["dice"], frames, base.evaluate)
    rows = _rows(found, trials, totals, frames, base)
    where = f"{frames[:, 0].sum():.0f} frames of {len(frames)} subjects"
    text = _explained(chosen, trials, where, found, base.evaluate)
    record = _record(chosen, trials)
    best = None if chosen.best == 0 else params.replaced({}, trials[chosen.best].params)
    with study.turn(Path.cwd(), found.study_name), replacing_folder(target) as folder:
        shown = _for_people(rows, list(given.space))
        parts = (f"# Search: {found.study_name}", text, given.plan.described, markup.markdown(shown))
        (folder / "trials.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        rows.to_csv(folder / "trials.csv", index=False, float_format="%.6f")
        write_json(folder / "selection.json", record)
        if best:
            _write_overlay(best, folder / "best.yaml", found.study_name, study.label(trials[chosen.best]))
    console.print(text, soft_wrap=True)
    if best:
        console.print(f"Apply it:   nerveseg profile apply {target}/best.yaml", soft_wrap=True)
    return record


def _explained(
    chosen: Selection, trials: list[FrozenTrial], where: str, found: optuna.Study, evaluate: EvaluateParams
) -> str:
    """What the search has found and how much of the gain is selection, in sentences."""
    states = [trial.state for trial in study.finished(found)]
    others = [f"{states.count(state)} {name}" for state, name in _ENDS if states.count(state)]
    counted = f"{len(trials)} trials are complete" + (f", {', '.join(others)}" if others else "")
    if chosen.best == 0:
        return f"{counted}. On {where}, none scores a better mean Dice than params.yaml as it is: keep it."
    best = trials[chosen.best]
    apparent = with_interval(chosen.apparent.value, chosen.apparent.interval)
    lines = [
        f"{counted}. Trial {study.label(best)} is the best: mean Dice {number(best.value)} on {where}, "
        f"{apparent} more than params.yaml as it is ({number(trials[0].value)}). These frames chose it, so the "
        "gain is overestimated."
    ]
    if not np.isnan(chosen.unseen.value):
        unseen = with_interval(chosen.unseen.value, chosen.unseen.interval)
        if chosen.selected <= 0:
            part = "none of it is seen to be selection"
        elif chosen.selected >= chosen.apparent.value:
            part = "all of it is selection"
        else:
            part = f"{number(chosen.selected)} of the {number(chosen.apparent.value)} is selection"
        probability = f"{chosen.p_value:.2g}" if chosen.p_value else f"less than 1 in {evaluate.resamples}"
        lines += [
            f"Chosen by some of the subjects and scored on the others, the gain is {unseen}: {part}.",
            f"If no trial differed from params.yaml, the best of {len(trials)} would still seem "
            f"{number(chosen.chance)} better, and a gain as large as this one would have a probability of "
            f"{probability}.",
        ]
        if (chosen.unseen.interval or (0, 0))[0] <= 0:
            lines.append("The interval includes no gain: another search may well choose another trial.")
    commits = {trial.user_attrs.get(study.COMMIT) for trial in trials}
    if len(commits) > 1:
        lines.append(f"The trials ran at {len(commits)} commits, so differences of the code are among the differences.")
    lines.append("Test subjects were not used; `dvc repro` with the best parameters scores them once.")
    return "\n".join(lines)


def _rows(
    found: optuna.Study,
    trials: list[FrozenTrial],
    totals: dict[str, Floats],
    frames: Floats,
    base: Params,
) -> pd.DataFrame:
    """A row per trial, the best first, then the pruned ones and the failed ones.

    trial, outcome, the parameters; for complete ones dice, dice_by_subject, iou, and dice_difference to params.yaml as
    it is, each with bounds as X_low and X_high; seconds, run_id, error.
    """
    bootstrap = SubjectBootstrap(list(map(str, range(len(frames)))), base.evaluate.resamples, base.evaluate.seed)
    records = []
    for place, trial in enumerate(trials):
        estimates = {
            "dice": bootstrap.ratio(totals["dice"][:, place], frames[:, place]),
            "dice_by_subject": bootstrap.mean(totals["dice"][:, place] / frames[:, place]),
            "iou": bootstrap.ratio(totals["iou"][:, place], frames[:, place]),
        }
        if place:
            columns = [each for one in (place, 0) for each in (totals["dice"][:, one], frames[:, one])]
            estimates["dice_difference"] = bootstrap.of_sums(np.stack(columns, axis=1), _difference)
        bounds = {
            f"{name}{bound}": value
            for name, estimate in estimates.items()
            for bound, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high))
        }
        outcome = "complete" if place else "params.yaml"
        records.append({**_named(trial, outcome), **bounds})
    known = params.flatten(base.model_dump(by_alias=True))
    records[0] |= {name: known[name] for trial in trials for name in trial.params}
    records.sort(key=lambda record: -record["dice"])
    for state, outcome in _ENDS:
        records += [_named(trial, outcome) for trial in study.finished(found) if trial.state == state]
    return pd.DataFrame(records)


def _difference(sums: Floats) -> Floats:
    difference: Floats = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return difference


def _named(trial: FrozenTrial, outcome: str) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "trial": study.label(trial),
        "outcome": outcome,
        **trial.params,
        "seconds": attributes.get(study.SECONDS),
        "run_id": attributes.get(study.RUN),
        "error": attributes.get(study.ERROR),
    }


def _for_people(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    columns = {"dice": "Dice", "dice_by_subject": "Dice by subject", "iou": "IoU", "dice_difference": "Dice difference"}
    shown = {"trial": rows["trial"].astype(str).tolist(), "outcome": rows["outcome"].tolist()}
    for name in names:
        shown[name] = [_cell(value) for value in rows[name]] if name in rows else [""] * len(rows)
    for column, title in columns.items():
        if column in rows:
            sign = column == "dice_difference"
            shown[title] = [markup.with_interval(row, column, sign=sign) for _, row in rows.iterrows()]
    shown["s"] = ["" if pd.isna(value) else f"{value:.0f}" for value in rows["seconds"]]
    return pd.DataFrame(shown)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _record(chosen: Selection, trials: list[FrozenTrial]) -> dict[str, Any]:
    """The selection as JSON has it; None where undefined."""

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else value

    return {
        "trials": len(trials),
        "best": study.label(trials[chosen.best]),
        "gain": plain(chosen.apparent.value),
        "gain_ci": chosen.apparent.interval,
        "gain_unseen": plain(chosen.unseen.value),
        "gain_unseen_ci": chosen.unseen.interval,
        "selection": plain(chosen.selected),
        "gain_by_chance": plain(chosen.chance),
        "p_value": plain(chosen.p_value),
    }


def _write_overlay(content: dict[str, dict[str, Any]], path: Path, name: str, label: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# Trial {label} of {name}: `nerveseg profile apply` merges it into params.yaml.\n")
        YAML().dump(json.loads(json.dumps(content)), file)
