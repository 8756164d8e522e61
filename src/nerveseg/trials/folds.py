"""Configurations, trained and scored fold by fold in a clone: what a table and a search share.

A configuration is params.yaml with some parameters of the network or its training changed. Its folds run through the
stages of dvc.yaml, so that DVC's run cache restores what has been trained before, by whichever command.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pandas as pd

from nerveseg import params, paths, profiles, tracking
from nerveseg.errors import NervesegError, TransientError
from nerveseg.evaluation import figures
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json
from nerveseg.params import Params
from nerveseg.settings import settings
from nerveseg.workspace import commands

Scored = Literal["validation", "test"]
FIGURES = ("dice", "iou")
_VARIED = ("model", "train")  # sections that a configuration may change: the frames stay the same
_UNFINISHED = Path(".dvc/tmp/trials")  # checkpoints of interrupted folds, a folder each
_KEPT = "Finished trainings are kept: once this is fixed, the same command continues."


@dataclass(frozen=True)
class Plan:
    """How folds are made and what is scored.

    Attributes:
        folds: their number.
        scored: validation: folds of the subjects that are left when the test subjects of params.yaml are set aside;
            each fold's validation frames. test: folds of all subjects, as `nerveseg crossval` makes them; each fold's
            test frames.
    """

    folds: int
    scored: Scored

    def values(self, fold: int) -> dict[str, Any]:
        """The parameters of a fold, from 0, by dotted names."""
        common = {"split.folds": self.folds, "split.fold": fold, "evaluate.split": self.scored}
        if self.scored == "validation":
            return {**common, "split.folds_of": "development"}
        return {**common, "split.folds_of": "all", "split.by": "subject"}

    @property
    def described(self) -> str:
        """What is scored, as a sentence."""
        if self.scored == "validation":
            return (
                f"Scored are the out-of-fold frames of {self.folds} folds of the subjects for training and validation; "
                "the test subjects of params.yaml are set aside and used for nothing."
            )
        return (
            f"Scored are the out-of-fold frames of {self.folds} folds of all subjects, the test subjects of "
            "params.yaml among them: choose nothing by these scores."
        )


@dataclass(frozen=True)
class Fold:
    """The results of a fold.

    Attributes:
        number: from 0.
        frames: a row per scored frame: row (in the frame store's index), image, subject, dice, iou by `evaluate.empty`.
        run_id: its training, on this tracking server.
        trained: now, rather than restored from DVC's cache.
        seconds: that the train stage took, whenever that was.
        images_per_second: in its epochs, including waiting for data.
    """

    number: int
    frames: pd.DataFrame
    run_id: str
    trained: bool
    seconds: float
    images_per_second: float


class Trainer:
    """Trains and scores folds in a clone, one at a time.

    Attributes:
        base: the parameters of the workspace when the clone was made.
    """

    def __init__(self, here: Path, clone: Path, lock: BinaryIO | None) -> None:
        """
        Args:
            here: the workspace, for which `clones.keep_outside` was called.
            clone: from `clones.beside`.
            lock: a file that the stages hold as well, from `commands.alone_in`.
        """
        self.base = params.load(clone / paths.PARAMS)
        self._unfinished = here / _UNFINISHED
        self._clone, self._lock = clone, lock
        self._params = (clone / paths.PARAMS).read_bytes()

    def run(self, name: str, changes: Mapping[str, Any], plan: Plan, fold: int) -> Fold:
        """Trains and scores a fold of a configuration, or restores it. An interrupted training resumes.

        Args:
            name: of the configuration, for messages.
            changes: parameters by dotted names.
            fold: its number, from 0.

        Raises:
            NervesegError: a stage failed; TransientError if a retry may help.
        """
        given = configured(self.base, {**changes, **plan.values(fold)}, name)
        target = self._clone / paths.PARAMS
        target.write_bytes(self._params)
        profiles.override({**changes, **plan.values(fold)}, target)
        # Others that start meanwhile would delete an interrupted training if they shared a folder of checkpoints.
        unfinished = self._unfinished / params.digest(given)
        os.environ["NERVESEG_CHECKPOINTS"] = str(unfinished)
        settings.cache_clear()
        try:
            said = commands.supervised_dvc(
                self._clone, f"{name}, fold {fold + 1}", ("repro", "evaluate"), self._lock, commands.say
            )
        except commands.StageError as error:
            kind = TransientError if error.transient or error.killed else NervesegError
            raise kind(f"{error}\n{_KEPT}") from None
        with tracking.reachable(_KEPT):
            record = tracking.ensure_run(self._clone / paths.MODELS)
        shutil.rmtree(unfinished, ignore_errors=True)
        frames = Scores.read(self._clone / paths.PREDICTIONS).by_rule(given.evaluate.empty).table
        return Fold(
            number=fold,
            frames=frames[["row", "image", "subject", *FIGURES]],
            run_id=record["run_id"],
            trained=commands.trained(said),
            seconds=read_json(self._clone / paths.TIMINGS_JSON)["total"],
            images_per_second=float(pd.read_csv(self._clone / paths.CURVE_CSV)["images_per_second"].mean()),
        )


def configured(base: Params, changes: Mapping[str, Any], name: str) -> Params:
    """The parameters with changes by dotted names.

    Raises:
        NervesegError: they are invalid, or choose the epoch by the frames that are scored; with `name` in front.
    """
    given = params.parse(params.replaced(base.model_dump(by_alias=True), changes), name)
    if given.evaluate.split == "validation" and (given.train.keep == "best" or given.train.patience is not None):
        raise NervesegError(
            f"{name}: train.keep: best and train.patience choose the epoch by the validation frames, which are scored "
            "here: set train.keep: last and train.patience: null. A table may have scored: test instead."
        )
    return given


def require_varied(names: Sequence[str], where: str) -> None:
    """Raises NervesegError if a dotted name is unknown, or is not one that a configuration may change."""
    known = [name for name in params.schemas() if name.startswith(tuple(f"{section}." for section in _VARIED))]
    for name in names:
        if name in known:
            continue
        if name in params.schemas():
            raise NervesegError(
                f"{where}: {name} cannot be varied, because the frames or their scores would differ; only parameters "
                f"of {' and '.join(_VARIED)} can."
            )
        raise NervesegError(f"{where}: {name}: unknown parameter{params.nearest(name, known)}")


def said(fold: Fold) -> str:
    """A fold in a few words."""
    dice = figures.number(float(fold.frames["dice"].mean()))
    how = f"trained in {fold.seconds:.0f} s" if fold.trained else "restored"
    return f"Dice {dice} on {len(fold.frames)} frames; {how}, run {fold.run_id}"


def pooled(folds: Sequence[Fold]) -> pd.DataFrame:
    """The frames of all folds with their `fold`, in the order of the frame store's index.

    Raises:
        NervesegError: a frame was scored twice, because the folds come from different datasets.
    """
    frames = pd.concat([fold.frames.assign(fold=fold.number) for fold in folds], ignore_index=True)
    if frames["row"].duplicated().any():
        raise NervesegError("A frame was scored in two folds: the dataset has changed in the meantime.")
    return frames.sort_values("row", ignore_index=True)
