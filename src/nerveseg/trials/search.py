"""`nerveseg search`: tries values of parameters on folds of subjects, and says how much of the gain is selection.

The command starts processes that each train one trial after the other (`worker`), and concludes from what the study
holds. Several commands, also on several machines, may work at one study: they share the address of its storage.
"""

import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from nerveseg import params, paths, tracking
from nerveseg.console import console
from nerveseg.errors import NervesegError, TransientError
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.evaluation.figures import number, with_interval
from nerveseg.files import replacing_folder, write_json
from nerveseg.params import EvaluateParams
from nerveseg.trials import markup, selection, space, study
from nerveseg.trials.folds import FIGURES
from nerveseg.trials.selection import Selection
from nerveseg.trials.space import Search
from nerveseg.workspace import clones, commands

STORAGE = Path("search.db")  # if none is given
_TMP = Path(".dvc/tmp/searches")
_KEPT = "The search is kept: once the server is back, the same command logs it."


def search(file: Path, jobs: int, storage: str | None) -> None:
    """Runs what is left of a search and writes `searches/NAME/`.

    Args:
        file: its stem is the name of the study.
        jobs: number of processes.
        storage: address of a database; None: a file in the workspace.

    Raises:
        NervesegError: the file or a value in it is invalid, or a process failed; what is finished is kept.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that runs and processes end
    here = Path.cwd()
    given = space.read(file)
    base = params.load()
    space.check(given, base, file)
    clones.require_repository(here)
    clones.keep_outside(here)
    url = storage or study.sqlite(STORAGE)
    with study.available(url):
        (here / _TMP).mkdir(parents=True, exist_ok=True)
        with FileLock(here / _TMP / f"{file.stem}.lock"):
            found = study.opened(url, file.stem, given, base)
            with tracking.reachable("Nothing was started."):
                parent = _open_run(found, given)
        console.print(given.plan.described, soft_wrap=True)
        status, target = "KILLED", paths.SEARCHES / file.stem
        try:
            failures = _work(file, url, jobs)
            record = conclude(found, given, base.evaluate, target)
            with tracking.reachable(_KEPT):
                tracking.log_values(parent, record)
                tracking.log_files(parent, sorted(target.iterdir()) if record else [])
            status = "FAILED" if failures else "FINISHED"
        finally:
            with tracking.reachable(_KEPT):
                tracking.close_run(parent, status)
    if failures:
        kind = TransientError if all(each.transient for each in failures) else NervesegError
        raise kind("\n".join(dict.fromkeys(map(str, failures))))


def _open_run(found: optuna.Study, given: Search) -> str:
    run_id = tracking.open_run(
        found.user_attrs.get(study.RUN),
        f"search {found.study_name}",
        parent=None,
        params=params.flatten(given.model_dump(mode="json")),
        tags={"search": found.study_name},
    )
    found.set_user_attr(study.RUN, run_id)
    return run_id


def _work(file: Path, url: str, jobs: int) -> list[commands.StageError]:
    """Runs the processes until all have ended; returns the failures."""
    failures: list[commands.StageError] = []

    def follow(process: Any, name: str, prefix: str) -> None:
        try:
            commands.follow(process, name, lambda line: console.print(f"{prefix}{line}", soft_wrap=True))
        except commands.StageError as error:
            failures.append(error)

    command = (sys.executable, "-m", "nerveseg.trials.worker", str(file), url)
    here = Path.cwd()
    with ExitStack() as stack:  # an interruption closes it, and with it the processes end
        threads = []
        for job in range(1, jobs + 1):
            process = stack.enter_context(commands.supervised(command, here, dict(os.environ)))
            prefix = f"[{job}] " if jobs > 1 else ""
            thread = Thread(target=follow, args=(process, f"process {job}", prefix), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    return failures


def conclude(found: optuna.Study, given: Search, evaluate: EvaluateParams, target: Path) -> dict[str, Any]:
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
    chosen = selection.select(totals["dice"], frames, evaluate)
    rows = _rows(found, trials, totals, frames, evaluate)
    text = explained(chosen, trials, int(frames[:, 0].sum()), len(frames), found)
    record = _record(chosen, trials)
    best = None if chosen.best == 0 else _overlay(trials[chosen.best])
    with FileLock(_TMP / f"{found.study_name}.lock"), replacing_folder(target) as folder:
        shown = _for_people(rows, list(given.space))
        parts = (f"# Search {found.study_name}", text, given.plan.described, markup.markdown(shown))
        (folder / "trials.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        rows.to_csv(folder / "trials.csv", index=False, float_format="%.6f")
        write_json(folder / "selection.json", record)
        if best:
            _write_overlay(best, folder / "best.yaml", found.study_name, study.label(trials[chosen.best]))
    console.print(text, soft_wrap=True)
    if best:
        console.print(f"Apply it:   nerveseg profile apply {target}/best.yaml", soft_wrap=True)
    return record


def explained(chosen: Selection, trials: list[FrozenTrial], frames: int, subjects: int, found: optuna.Study) -> str:
    """What the search has found and how much of the gain is selection, in sentences."""
    states = [trial.state for trial in study.finished(found)]
    others = [f"{states.count(state)} {name}" for state, name in _ENDS if states.count(state)]
    counted = f"{len(trials)} trials are complete" + (f", {', '.join(others)}" if others else "")
    where = f"{frames} frames of {subjects} subjects"
    if chosen.best == 0:
        return f"{counted}. On {where}, none scores a better mean Dice than params.yaml as it is: keep it."
    best = trials[chosen.best]
    apparent = with_interval(chosen.apparent.value, chosen.apparent.interval)
    lines = [
        f"{counted}. Trial {study.label(best)} is the best: mean Dice {number(best.value)} on {where}, "
        f"{apparent} more than params.yaml as it is ({number(trials[0].value)}). These frames chose it, so that is too "
        "much."
    ]
    if not np.isnan(chosen.unseen.value):
        unseen = with_interval(chosen.unseen.value, chosen.unseen.interval)
        lines += [
            f"Chosen by some of the subjects and scored on the others, the gain is {unseen}: of the gain of "
            f"{number(chosen.apparent.value)}, {number(chosen.selected)} is selection.",
            f"If no trial differed from params.yaml, the best of {len(trials)} would still seem "
            f"{number(chosen.chance)} better, and a gain as large as this one would have a probability of "
            f"{chosen.p_value:.2g}.",
        ]
        if (chosen.unseen.interval or (0, 0))[0] <= 0:
            lines.append("The interval includes no gain: another search may well choose another trial.")
    commits = {trial.user_attrs.get(study.COMMIT) for trial in trials}
    if len(commits) > 1:
        lines.append(f"The trials ran at {len(commits)} commits, so differences of the code are among the differences.")
    lines.append("Test subjects were not used; `dvc repro` with the best parameters scores them once.")
    return "\n".join(lines)


_ENDS = ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed"))


def _rows(
    found: optuna.Study,
    trials: list[FrozenTrial],
    totals: dict[str, np.ndarray],
    frames: np.ndarray,
    evaluate: EvaluateParams,
) -> pd.DataFrame:
    """A row per trial, the best first, then the pruned ones and the failed ones.

    trial, outcome, the parameters; for complete ones dice, dice_by_subject, iou, and dice_difference to params.yaml as
    it is, each with bounds as X_low and X_high; seconds, run_id, error.
    """
    bootstrap = SubjectBootstrap([str(place) for place in range(len(frames))], evaluate.resamples, evaluate.seed)
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
            for name, found_ in estimates.items()
            for bound, value in (("", found_.value), ("_low", found_.low), ("_high", found_.high))
        }
        records.append({**_named(trial, "complete"), **bounds})
    records.sort(key=lambda record: -record["dice"])
    for state, outcome in _ENDS:
        records += [_named(trial, outcome) for trial in study.finished(found) if trial.state == state]
    return pd.DataFrame(records)


def _difference(sums: np.ndarray) -> np.ndarray:
    difference: np.ndarray = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return difference


def _named(trial: FrozenTrial, outcome: str) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "trial": study.label(trial),
        "outcome": "params.yaml" if study.BASELINE in attributes else outcome,
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


def _overlay(trial: FrozenTrial) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = {}
    for name, value in trial.params.items():
        section, _, key = name.partition(".")
        content.setdefault(section, {})[key] = value
    return content


def _write_overlay(content: dict[str, dict[str, Any]], path: Path, name: str, label: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# Trial {label} of the search {name}: `nerveseg profile apply` merges it into params.yaml.\n")
        YAML().dump(json.loads(json.dumps(content)), file)
