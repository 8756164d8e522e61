"""Cross-validation: every subject is tested once, by a network trained without it.

Each fold is a DVC experiment in a clone of the repository, which shares DVC's cache, MLflow's store and the
checkpoints: finished trainings are restored, interrupted ones resume, and the checkout is not touched.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
from rich.text import Text

from nerveseg import legacy, params, paths, tracking
from nerveseg.console import console
from nerveseg.crossval import outoffold
from nerveseg.crossval.ensemble import Member, register
from nerveseg.data.frame_store import FrameStore
from nerveseg.data.subjects import NONE
from nerveseg.errors import NervesegError, TransientError
from nerveseg.evaluation import conflicts, figures, scores
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.files import replacing_folder
from nerveseg.params import Params
from nerveseg.report import headline
from nerveseg.report import sections as report
from nerveseg.report.page import Page
from nerveseg.workspace import clones, commands

By = Literal["subject", "frame"]
_FOLDS = 5  # if neither the command nor split.folds gives a number
_TMP = Path(".dvc/tmp")
_CLONES = _TMP / "crossval"
_MEMBERS = _TMP / "members"  # in the clone: the networks of finished folds


@dataclass(frozen=True)
class Fold:
    """The results of a fold.

    Attributes:
        by: whether it is a fold of subjects or of frames.
        number: from 0.
        experiment: its name in DVC.
        run_id: its training run on this tracking server.
        scores: scores of its test frames, by Kaggle's rule.
        metrics: of its test frames.
        sweep: threshold sweep on its validation frames.
        validation_dice: Dice of the epoch whose network is kept, at the network's input size.
        member: its network, if an ensemble is wanted.
    """

    by: By
    number: int
    experiment: str
    run_id: str
    scores: Scores
    metrics: Metrics
    sweep: pd.DataFrame
    validation_dice: float
    member: Member | None


def crossval(folds: int | None, *, leakage: bool, ensemble: bool) -> None:
    """Runs all folds, pools their scores, writes `crossval/` and logs it as an MLflow run.

    Args:
        folds: number of folds; None: split.folds of params.yaml, or else 5.
        leakage: run random folds as well, and report by how much their scores are too good.
        ensemble: register the networks of the folds of subjects as one model.

    Raises:
        NervesegError: this is not the root of a git repository, params.yaml is invalid, or a fold failed.
    """
    here = Path.cwd()
    _refuse_audit(_params(Path(), folds), leakage)  # report invalid params immediately
    _require_repository(here)
    clones.keep_outside(here)
    with (
        commands.alone_in(here / commands.FOLDS_LOCK, "another cross-validation", console.print) as lock,
        _clone(here) as root,
    ):
        given = _params(root, folds)  # params.yaml may have changed while waiting for the lock
        _refuse_audit(given, leakage)
        by_subject = _run_folds(root, "subject", given, lock, root / _MEMBERS if ensemble else None)
        by_frame = _run_folds(root, "frame", given, lock) if leakage else []
        store = FrameStore.open(root / paths.PACKED)  # the frames are the same in every fold
        render = _conclude(given, store, by_subject, by_frame, commands.run(root, "git", "rev-parse", "HEAD"))
        if ensemble:
            register([fold.member for fold in by_subject if fold.member], root, given, render)


def _params(root: Path, folds: int | None) -> Params:
    """The params of fold 0: those of a workspace, except for the split."""
    given = params.load(root / paths.PARAMS)
    number = folds or given.split.folds or _FOLDS
    if given.evaluate.split != "test":
        raise NervesegError("evaluate.split is validation, but a cross-validation scores test frames: set it to test.")
    content = given.model_dump(by_alias=True)
    content["split"] |= {"by": "subject", "folds": number, "fold": 0}
    return params.parse(content, f"{paths.PARAMS} with {number} folds of subjects")


def _refuse_audit(given: Params, leakage: bool) -> None:
    if leakage and given.data.subject == NONE:
        raise NervesegError(
            "data.subject is none, but a leakage audit compares folds of subjects with random folds. Leave out "
            "--leakage, or set data.subject to column or a pattern."
        )


def _require_repository(here: Path) -> None:
    paths.require_root()
    clones.require_commit(here)
    if tracking.git_tags()["git_changed"] == "true":
        said = Text.assemble(("Uncommitted code is not used:", "yellow"), " the folds run the code of the last commit.")
        console.print(said, soft_wrap=True)


@contextmanager
def _clone(here: Path) -> Iterator[Path]:
    with clones.scratch(here / _CLONES) as root:
        clones.clone(here, root)
        clones.bring_state(here, root)
        clones.link_dataset(here, root)
        for name, value in (("name", "nerveseg"), ("email", "nerveseg@localhost")):
            commands.run(root, "git", "config", f"user.{name}", value)  # an experiment is a commit
        yield root


def _run_folds(root: Path, by: By, given: Params, lock: BinaryIO, keep: Path | None = None) -> list[Fold]:
    assert given.split.folds is not None
    return [_run_fold(root, by, number, given, lock, keep) for number in range(given.split.folds)]


def _run_fold(root: Path, by: By, number: int, given: Params, lock: BinaryIO, keep: Path | None) -> Fold:
    folds = given.split.folds
    name = f"fold {number + 1} of {folds} by {by}"
    experiment = f"crossval-{_digest(given)}-{by}-{number}"
    values = {"split.by": by, "split.folds": folds, "split.fold": number}
    options = [part for key, value in values.items() for part in ("--set-param", f"{key}={value}")]
    console.rule(name, align="left")
    try:
        said = commands.supervised_dvc(
            root, name, ("exp", "run", "--name", experiment, *options, "evaluate"), lock, _say
        )
    except commands.StageError as error:
        kind = TransientError if error.transient else NervesegError
        raise kind(f"{error}\nFinished trainings are kept: once this is fixed, the same command continues.") from None
    commands.dvc(root, "exp", "push", "--quiet", "--force", "--no-cache", "origin", experiment)
    fold = _read_fold(root, by, number, experiment, keep)
    test, dice, iou = fold.metrics.test, *(fold.metrics.measured(key) for key in ("test.dice", "test.iou"))
    found = (
        f": Dice {figures.number(dice.value)} ({figures.interval(dice.interval) or 'no interval'}), "
        f"IoU {figures.number(iou.value)} on {test.frames} frames {test.of_subjects}; "
        f"{'trained' if _trained(said) else 'restored'}, run {fold.run_id}"
    )
    console.print(Text.assemble((name, "bold"), found), soft_wrap=True)
    return fold


def _trained(said: Sequence[str]) -> bool:
    return any(line.startswith("Running stage 'train'") for line in said)


def _say(line: str) -> None:
    if "No file hash info found" in line:  # printed by DVC for each output that a fresh clone lacks
        return
    console.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def _digest(given: Params) -> str:
    """A digest of the configuration, for the names of its experiments."""
    content = given.model_dump(by_alias=True, include={"phantom", "data", "split", "model", "train", "evaluate"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _read_fold(root: Path, by: By, number: int, experiment: str, keep: Path | None) -> Fold:
    with tracking.reachable("The fold is trained and kept: once the server is back, the same command continues."):
        record = tracking.ensure_run(root / paths.MODELS)
    return Fold(
        by=by,
        number=number,
        experiment=experiment,
        run_id=record["run_id"],
        scores=Scores.read(root / paths.PREDICTIONS),
        metrics=Metrics.read(root / paths.METRICS_JSON),
        sweep=pd.read_csv(root / paths.CURVES / "thresholds.csv"),
        validation_dice=float(legacy.kept(pd.read_csv(root / paths.CURVE_CSV))["validation_dice"]),
        member=None if keep is None else Member.keep(root, keep / str(number), record["run_id"]),
    )


def _conclude(
    given: Params, store: FrameStore, by_subject: list[Fold], by_frame: list[Fold], commit: str
) -> Callable[[Mapping[str, Any], pd.DataFrame], Page]:
    """Writes and logs `crossval/`; returns a function that renders its page again, with the receipt of an ensemble and
    what the champion scores.
    """
    pooled = outoffold.pool([fold.scores for fold in by_subject], len(store))
    sweep = outoffold.sweep([fold.sweep for fold in by_subject])
    bits = given.split.near_duplicate
    pairs = conflicts.find(store, bits)
    content: dict[str, Any] = {
        "folds": len(by_subject),
        **scores.summary(pooled, sweep, given.evaluate, store.subjects_known()),
        "ceiling": conflicts.summary(store, np.arange(len(store)), pairs, given.evaluate, bits),
    }
    leaking = outoffold.pool([fold.scores for fold in by_frame], len(store)) if by_frame else None
    if leaking:
        content["leakage"] = outoffold.leakage(pooled, leaking, given.evaluate)
    metrics = Metrics.model_validate(content)
    with replacing_folder(paths.CROSSVAL) as folder:
        _write(folder, pooled, sweep, given, metrics)
        if leaking:
            leaking.write(folder / "predictions_by_frame.parquet")
        folds = _table([*by_subject, *by_frame])
        folds.to_csv(folder / "folds.csv", index=False, float_format="%.6f")
        pairs.to_csv(folder / "conflicts.csv", index=False, float_format="%.6f")
        render = partial(report.render_crossval, metrics, given, store, pooled, sweep, folds, pairs)
        render(None).write(folder / "index.html")
    _print(metrics)
    with tracking.reachable("crossval/ is written: once the server is back, the same command logs it."):
        run_id = tracking.log_crossval(
            f"crossval {given.model.architecture} {given.model.encoder}",
            params.flatten(given.model_dump(include={"data", "split", "model", "train", "evaluate"})),
            {
                "git_commit": commit,
                "mlflow.source.git.commit": commit,
                "configuration": _digest(given),
                **{f"{fold.by}_fold_{fold.number}": fold.run_id for fold in [*by_subject, *by_frame]},
            },
            params.flatten(metrics.record),
            paths.CROSSVAL,
        )
    console.print(
        f"Everything is in {paths.CROSSVAL}/ and in the MLflow run {run_id}; start with index.html", soft_wrap=True
    )
    return render


def _write(folder: Path, pooled: Scores, sweep: pd.DataFrame, given: Params, metrics: Metrics) -> None:
    ruled = pooled.by_rule(given.evaluate.empty)
    tables = {
        "per_image": scores.per_image(ruled.table).assign(fold=ruled.table["fold"]),
        "per_subject": scores.per_subject(ruled.table),
        **{f"curves/{name}": curve for name, curve in scores.curves(ruled, sweep).items()},
    }
    (folder / "curves").mkdir()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")
    pooled.write(folder / "predictions.parquet")
    metrics.write(folder / "metrics.json")


def _table(folds: list[Fold]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "by": fold.by,
            "fold": fold.number,
            "frames": fold.metrics.test.frames,
            "subjects": fold.metrics.test.subjects,
            **{name: fold.metrics.measured(f"test.{name}").value for name in ("dice", "iou")},
            "validation_dice": fold.validation_dice,
            "run_id": fold.run_id,
            "experiment": fold.experiment,
        }
        for fold in folds
    )


def _print(metrics: Metrics) -> None:
    test = metrics.test
    console.print(headline.table(metrics, f"out of {metrics.folds} folds: all {test.frames} frames {test.of_subjects}"))
    if leakage := metrics.leakage:
        dice, iou = (
            f"{figures.number(leakage.by_frame.measured(name).value)}, too high by "
            f"{figures.with_interval(optimism.value, optimism.interval)}"
            for name in ("dice", "iou")
            for optimism in (leakage.optimism.measured(name),)
        )
        said = f": the same training on random folds scores a Dice of {dice}, and an IoU of {iou}."
        console.print(Text.assemble(("leakage", "bold"), said), soft_wrap=True)
