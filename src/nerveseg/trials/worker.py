"""A process of `nerveseg search`: trains one trial after the other, in a clone of its own, until none is left.

Usage: python -m nerveseg.trials.worker SEARCH_FILE STORAGE, in the workspace.
"""

import signal
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.text import Text

from nerveseg import tracking
from nerveseg.console import console, readable_errors
from nerveseg.errors import NervesegError, TransientError
from nerveseg.trials import selection, space, study
from nerveseg.trials.folds import FIGURES, Fold, Trainer, pooled, said
from nerveseg.trials.space import Search
from nerveseg.workspace import clones, commands

_SERVER = "Finished trainings are kept: once the server is back, the same command continues."


class _FailedError(Exception):
    """A trial failed in a way that repeating it does not help."""


class Worker:
    """Runs trials of a study."""

    def __init__(
        self, here: Path, name: str, found: optuna.Study, search: Search, trainer: Trainer, commit: str
    ) -> None:
        """
        Args:
            here: the workspace.
            name: from `study.alive`.
            commit: whose code runs.
        """
        self._here, self._name, self._study, self._search = here, name, found, search
        self._trainer, self._commit = trainer, commit
        # Held from the look at what is left until the trial exists, so that processes here do not start too many.
        self._turn = study.turn(here, found.study_name)

    def run(self) -> None:
        """Runs trials until none is left to start.

        Raises:
            NervesegError: params.yaml as it is cannot be trained, or a server failed.
        """
        while self._run_one():
            pass

    def _run_one(self) -> bool:
        self._turn.acquire()
        try:
            for label in study.prepare(self._here, self._study):
                console.print(f"trial {label} was interrupted: it is repeated")
            if not study.to_start(self._study, self._search):
                return False
            self._study.sampler = study.sampler(self._search, self._study)
            self._study.optimize(self._objective, n_trials=1, catch=(_FailedError,))
        finally:
            self._turn.release(force=True)
        return True

    def _objective(self, trial: optuna.Trial) -> float:
        """The mean Dice over all frames, each scored out of fold."""
        trial.set_user_attr(study.WORKER, self._name)
        trial.set_user_attr(study.COMMIT, self._commit)
        baseline = study.BASELINE in trial.user_attrs
        changes = {} if baseline else self._search.suggest(trial)
        self._turn.release(force=True)
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        name = f"trial {study.label(frozen)}"
        shown = ", ".join(f"{key}={value}" for key, value in changes.items()) or "params.yaml as it is"
        console.print(Text.assemble((name, "bold"), f": {shown}"), soft_wrap=True)
        with tracking.reachable(_SERVER):
            run_id = self._open_run(frozen, name, changes)
        trial.set_user_attr(study.RUN, run_id)
        status, outcome = "KILLED", "interrupted"
        try:
            value = self._score(trial, name, changes, run_id)
            status, outcome = "FINISHED", "complete"
            return value
        except optuna.TrialPruned:
            status, outcome = "FINISHED", "pruned"
            raise
        except TransientError:
            raise
        except NervesegError as error:
            status, outcome = "FAILED", "failed"
            trial.set_user_attr(study.ERROR, str(error))
            console.print(Text.assemble((f"{name} failed:", "yellow"), f" {error}"), soft_wrap=True)
            raise _FailedError from error
        finally:
            with tracking.reachable(_SERVER):
                tracking.close_run(run_id, status, {"outcome": outcome})

    def _open_run(self, trial: FrozenTrial, name: str, changes: dict[str, Any]) -> str:
        return tracking.open_run(
            trial.user_attrs.get(study.RUN),
            f"{self._study.study_name} {name}",
            parent=self._study.user_attrs[study.RUN],
            params=changes,
            tags={"search": self._study.study_name, "trial": str(study.label(trial)), "git_commit": self._commit},
        )

    def _score(self, trial: optuna.Trial, name: str, changes: dict[str, Any], run_id: str) -> float:
        plan, folds = self._search.plan, list[Fold]()
        for number in range(plan.folds):
            fold = self._trainer.run(name, changes, plan, number)
            folds.append(fold)
            where = f"{name}, fold {number + 1} of {plan.folds}"
            console.print(Text.assemble((where, "bold"), f": {said(fold)}"), soft_wrap=True)
            with tracking.reachable(_SERVER):
                tracking.nest(fold.run_id, run_id)
                means = {f"fold.{figure}": fold.frames[figure].mean() for figure in FIGURES}
                tracking.log_values(run_id, means, number)
            # The sum over the frames so far, not their mean: Optuna's median pruner compares the best of a trial's
            # reports, and folds are not equally hard. A sum never falls, so its best is its last.
            trial.report(sum(each.frames["dice"].sum() for each in folds), number)
            baseline = study.BASELINE in trial.user_attrs
            if number + 1 < plan.folds and not baseline and trial.should_prune():
                console.print(f"{name} is pruned: below the median after fold {number + 1}")
                raise optuna.TrialPruned
        frames = pooled(folds)
        scores = selection.sums(frames, FIGURES)
        value = float(scores["dice"].sum() / scores["frames"].sum())
        iou = float(scores["iou"].sum() / scores["frames"].sum())
        trial.set_user_attr(study.SUBJECTS, scores.reset_index().to_dict("list"))
        trial.set_user_attr(study.SECONDS, sum(fold.seconds for fold in folds))
        with tracking.reachable(_SERVER):
            tracking.log_values(run_id, {"validation.dice": value, "validation.iou": iou})
        console.print(Text.assemble((name, "bold"), f": Dice {value:.4f} on {len(frames)} frames"), soft_wrap=True)
        return value


def main(file: Path, url: str) -> None:
    """Works at the search of `file`, whose study `nerveseg search` has opened in the storage `url`."""
    signal.signal(signal.SIGTERM, _interrupt)
    here = Path.cwd()
    search = space.read(file)
    clones.keep_outside(here)
    with study.available(url), study.alive(here) as name, clones.beside(here, here / study.FOLDER / "clones") as clone:
        trainer = Trainer(here, clone, None)
        space.check(search, trainer.base, file)
        found = study.opened(url, file.stem, search, trainer.base)
        Worker(here, name, found, search, trainer, commands.run(clone, "git", "rev-parse", "HEAD")).run()


def _interrupt(*_: Any) -> None:
    """Ends the trial as an interruption from the keyboard does: Optuna is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    with readable_errors():
        try:
            main(Path(sys.argv[1]), sys.argv[2])
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGTERM)
