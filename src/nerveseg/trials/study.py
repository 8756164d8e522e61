"""A search's study in Optuna's storage: which trials there are, which are to be repeated, and what they scored.

The storage is all that processes and machines share. A trial whose process died is repeated with the same parameters:
at once where its workspace can see that the process is gone, by the lock that it held; after ten minutes without a
heartbeat where it ran on another machine.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pandas as pd
from filelock import FileLock, lock_descriptor
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from nerveseg.errors import NervesegError, TransientError
from nerveseg.params import Params
from nerveseg.trials.space import Search

FOLDER = Path(".dvc/tmp/searches")
LOCKS = FOLDER / "workers"  # a file for each process, locked while it lives
_HEARTBEAT, _SILENCE = 60, 600  # seconds
_RETRIES = 3  # of a trial whose process dies; then it counts as failed

warnings.filterwarnings("ignore", category=ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)


# What a trial records, as its attributes in Optuna.
BASELINE = "baseline"  # params.yaml as it is, without parameters
WORKER = "worker"  # the name of a lock in LOCKS
RUN = "run_id"  # its run in MLflow
ERROR = "error"  # why it failed, if repeating it does not help
SUBJECTS = "subjects"  # columns of `selection.sums`, by column, once all folds are scored
COMMIT = "git_commit"
SECONDS = "seconds"  # of its trainings

SETUP = "setup"  # attribute of the study: what all its trials have in common


def sqlite(file: Path) -> str:
    """The address of a storage in a file."""
    return f"sqlite:///{file.absolute()}"


def turn(here: Path, name: str) -> FileLock:
    """Held by the process of a workspace that looks what is left of a study, or writes what was found."""
    (here / FOLDER).mkdir(parents=True, exist_ok=True)
    return FileLock(here / FOLDER / f"{name}.lock")


@contextmanager
def available(url: str) -> Iterator[None]:
    """Turns a failure of the storage into a TransientError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        kind = url.partition("://")[0]  # without a password
        reason = str(error.__cause__ or error).splitlines()[0]
        raise TransientError(
            f"The search's storage ({kind}) failed: {reason}\n"
            "Finished trials are kept: once it is back, the same command continues."
        ) from None


def opened(url: str, name: str, search: Search, base: Params) -> optuna.Study:
    """The study called `name`, made if the storage has none.

    Raises:
        NervesegError: it was begun with another space, or other parameters.
    """
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        storage = RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=_HEARTBEAT,
            grace_period=_SILENCE,
            heartbeat_stale_trial_callback=_retry,
        )
    except (ValueError, ImportError) as error:
        raise NervesegError(f"--storage is no address of a database: {error}") from None
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=_pruner(search)
    )
    setup = _setup(search, base)
    known = study.user_attrs.get(SETUP)
    if known is None:
        study.set_user_attr(SETUP, setup)
    elif known != setup:
        changed = " and ".join(key for key in setup if known.get(key) != setup[key])
        raise NervesegError(
            f"The search {name} was begun with another {changed}: its trials cannot be compared with new ones. Change "
            "it back, or give the search file another name."
        )
    return study


def _setup(search: Search, base: Params) -> dict[str, Any]:
    given = base.model_dump(by_alias=True, include={"phantom", "data", "split", "model", "train", "evaluate"})
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    return {"folds": search.folds, "space": search.model_dump(mode="json")["space"], "params.yaml": digest}


def _pruner(search: Search) -> BasePruner:
    return MedianPruner(n_startup_trials=5) if search.pruner == "median" else NopPruner()


def sampler(search: Search, study: optuna.Study) -> BaseSampler:
    """The sampler of the next trial. Its seed depends on the trial's number, so a search that was killed goes on as it
    would have."""
    number = sum(label(trial) == trial.number for trial in study.get_trials(deepcopy=False))
    if search.sampler == "random":
        return RandomSampler(seed=search.seed + number)
    return TPESampler(seed=search.seed + number, constant_liar=True)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have an outcome: complete, pruned, or failed for good."""
    trials = study.get_trials(deepcopy=False)
    again = _repeated(trials)
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in again]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, params.yaml as it is first."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    return sorted(found, key=lambda trial: (BASELINE not in trial.user_attrs, trial.number))


def running(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that a process works at, here or elsewhere."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]


def to_start(study: optuna.Study, search: Search) -> bool:
    """Whether a trial is left to start.

    Raises:
        NervesegError: params.yaml as it is could not be trained, so nothing can be compared with it.
    """
    for trial in finished(study):
        if BASELINE in trial.user_attrs and trial.state == TrialState.FAIL:
            why = trial.user_attrs.get(ERROR, "its process died")
            raise NervesegError(f"params.yaml as it is cannot be scored, so there is nothing to compare with: {why}")
    trials = study.get_trials(deepcopy=False)  # once: meanwhile, others end theirs
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    return waiting or len(trials) - len(_repeated(trials)) < search.trials


def prepare(here: Path, study: optuna.Study) -> list[int]:
    """Adds params.yaml as it is, as the first trial, and what has to be repeated; returns the labels of the latter.

    Call it while no other process of this workspace does, or asks for a trial.
    """
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial({}, user_attrs={BASELINE: True})
        return []
    for trial in running(study):
        if _died(here, trial):
            study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials()
    again = _repeated(trials)
    repeated = []
    for trial in trials:
        lost = ERROR not in trial.user_attrs or BASELINE in trial.user_attrs
        if trial.state == TrialState.FAIL and lost and trial.number not in again and not _given_up(trial):
            _retry(study, trial)
            repeated.append(label(trial))
    return repeated


def _given_up(trial: FrozenTrial) -> bool:
    """Whether it died so often that it counts as failed. Without params.yaml as it is, there is no search."""
    return BASELINE not in trial.user_attrs and len(RetryHeartbeatStaleTrialCallback.retry_history(trial)) >= _RETRIES


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Adds a trial with the same parameters, unless it is given up."""
    if _given_up(trial):
        return
    trial.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in (ERROR, WORKER)}
    RetryHeartbeatStaleTrialCallback()(study, trial)


def label(trial: FrozenTrial) -> int:
    """The number of the trial, or of the one that it repeats."""
    first: int | None = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if first is None else first


def _repeated(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of trials that another one repeats."""
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


@contextmanager
def alive(here: Path) -> Iterator[str]:
    """A name by which others in this workspace see that this process is alive."""
    folder = here / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid4().hex
    path = folder / name
    try:
        with path.open("wb") as file:
            lock_descriptor(file.fileno())
            yield name
    finally:
        path.unlink()


def _died(here: Path, trial: FrozenTrial) -> bool:
    path = here / LOCKS / trial.user_attrs.get(WORKER, "none")
    try:
        with path.open("rb+") as file:
            return lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:  # a process of another workspace
        return False


def scores(trial: FrozenTrial) -> pd.DataFrame:
    """What a complete trial scored: `selection.sums`, by subject."""
    return pd.DataFrame(trial.user_attrs[SUBJECTS]).set_index("subject")
