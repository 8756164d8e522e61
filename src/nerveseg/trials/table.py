"""`nerveseg table`: configurations, seeds and folds as one table, with paired differences to the first configuration.

A figure of a configuration is that of each frame, averaged over the seeds, and then over frames or subjects. Its
interval resamples subjects. It covers other subjects from the same source, not other seeds, whose spread has a column
of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator
from rich.text import Text

from nerveseg import params, paths
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.files import replacing_folder
from nerveseg.params import EvaluateParams, Params, Section, Seed
from nerveseg.trials import markup
from nerveseg.trials.folds import FIGURES, Fold, Plan, Scored, Trainer, configured, pooled, require_varied, said
from nerveseg.workspace import clones, commands

_TMP = Path(".dvc/tmp/tables")
_SHOWN = {"dice": "Dice", "iou": "IoU"}
_PRINTED = ("configuration", "Dice by frame", "Dice by subject", "Dice difference by frame")  # the terminal is narrow


class Matrix(Section):
    """A matrix file: what is trained and how it is scored."""

    folds: int = Field(ge=3, le=1000, description="number of folds of subjects")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(description="values of train.seed")
    scored: Scored = Field(
        default="validation",
        description="validation: out-of-fold frames without the test subjects of params.yaml; test: of all subjects",
    )
    configurations: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = Field(
        description="changes to params.yaml by dotted names; the others are compared with the first"
    )

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("name each seed once")
        return seeds

    @model_validator(mode="after")
    def _seeds_in_one_place(self) -> "Matrix":
        if any("train.seed" in changes for changes in self.configurations.values()):
            raise ValueError("train.seed is set by seeds; take it out of the configurations")
        return self

    @property
    def plan(self) -> Plan:
        return Plan(self.folds, self.scored)

    @property
    def trainings(self) -> int:
        """How many trainings the table needs at most."""
        return len(self.configurations) * len(self.seeds) * self.folds


@dataclass(frozen=True)
class Result:
    """What one configuration scored with one seed."""

    configuration: str
    seed: int
    folds: list[Fold]


def table(file: Path, out: Path | None) -> None:
    """Trains what is missing of a matrix, writes the table to `out` or `tables/NAME/`, and prints it.

    Raises:
        NervesegError: the matrix or a configuration is invalid, or a training failed; what is finished is kept.
    """
    here = Path.cwd()
    matrix = read(file)
    check(matrix, params.load(), file)
    clones.require_repository(here)
    clones.keep_outside(here)
    target = out or paths.TABLES / file.stem
    with (
        commands.alone_in(here / _TMP / f"{file.stem}.lock", "another table of this name", console.print) as lock,
        clones.beside(here, here / _TMP / "clones") as clone,
    ):
        trainer = Trainer(here, clone, lock)
        check(matrix, trainer.base, file)  # params.yaml may have changed while waiting for the lock
        console.print(matrix.plan.described, soft_wrap=True)
        results = _run(matrix, trainer)
        commit = commands.run(clone, "git", "rev-parse", "HEAD")
    frames = _frames(results)
    rows = summarise(frames, _trainings(results), trainer.base.evaluate)
    _write(target, matrix, rows, frames, _trainings(results), commit)
    shown = _for_people(rows)
    console.print(markup.terminal(shown[[name for name in shown if name in _PRINTED]]))
    console.print(f"The table is in {target}/ as Markdown, CSV and LaTeX.", soft_wrap=True)


def read(file: Path) -> Matrix:
    """Reads a matrix file; nested sections become dotted names. Raises NervesegError if it is invalid."""
    content = params.read_yaml(file)
    given = content.get("configurations")
    if isinstance(given, dict):
        content["configurations"] = {
            str(name): params.flatten(changes or {}) if isinstance(changes, dict | None) else changes
            for name, changes in given.items()
        }
    return params.validate(Matrix, content, str(file), Matrix.model_fields)


def check(matrix: Matrix, base: Params, file: Path) -> None:
    """Raises NervesegError if a configuration is invalid in any fold, before anything is trained."""
    for name, changes in matrix.configurations.items():
        require_varied(list(changes), f"{file}: configuration {name}")
        configured(base, {**changes, **matrix.plan.values(0)}, f"{file}: configuration {name}")


def _run(matrix: Matrix, trainer: Trainer) -> list[Result]:
    results, done = [], 0
    for name, changes in matrix.configurations.items():
        for seed in matrix.seeds:
            folds: list[Fold] = []
            for number in range(matrix.folds):
                done += 1
                where = f"{name}, seed {seed}, fold {number + 1} of {matrix.folds}"
                console.rule(f"{done} of {matrix.trainings}: {where}", align="left")
                fold = trainer.run(f"{name}, seed {seed}", {**changes, "train.seed": seed}, matrix.plan, number)
                folds.append(fold)
                console.print(Text.assemble((where, "bold"), f": {said(fold)}"), soft_wrap=True)
            results.append(Result(name, seed, folds))
    return results


def _frames(results: list[Result]) -> pd.DataFrame:
    """Every score: configuration, seed, fold, row, image, subject, dice, iou.

    Raises:
        NervesegError: not all results are of the same frames.
    """
    tables = [pooled(result.folds) for result in results]
    if any(not each["image"].equals(tables[0]["image"]) for each in tables):
        raise NervesegError("The dataset changed while the table was made: run the same command again.")
    return pd.concat(
        [
            frames.assign(configuration=result.configuration, seed=result.seed)
            for frames, result in zip(tables, results, strict=True)
        ],
        ignore_index=True,
    )


def _trainings(results: list[Result]) -> pd.DataFrame:
    """A row per training."""
    return pd.DataFrame(
        {
            "configuration": result.configuration,
            "seed": result.seed,
            "fold": fold.number,
            "frames": len(fold.frames),
            **{name: fold.frames[name].mean() for name in FIGURES},
            "seconds": fold.seconds,
            "images_per_second": fold.images_per_second,
            "run_id": fold.run_id,
        }
        for result in results
        for fold in result.folds
    )


def summarise(frames: pd.DataFrame, trainings: pd.DataFrame, evaluate: EvaluateParams) -> pd.DataFrame:
    """The table, a row per configuration, in their order.

    Args:
        frames: configuration, seed, row, subject, dice and iou; each configuration with each seed on the same frames.
        trainings: configuration, seconds, images_per_second.
        evaluate: resamples and seed of the bootstrap.

    Returns:
        configuration, frames, subjects, seeds; dice, iou (means over frames), dice_by_subject, iou_by_subject (means of
        the subjects' means), each X with X_low and X_high and, paired with the first configuration, X_difference with
        its bounds, NaN for the first; dice_sd, the standard deviation of dice over seeds, NaN for one; seconds and
        images_per_second, means over trainings.
    """
    order = frames["configuration"].drop_duplicates().tolist()
    by_seed = frames.pivot(index=["row", "subject"], columns=["configuration", "seed"], values=list(FIGURES))
    subjects = by_seed.index.get_level_values("subject").astype(str)
    bootstrap = SubjectBootstrap(subjects, evaluate.resamples, evaluate.seed)
    rows = []
    for name in order:
        record: dict[str, Any] = {
            "configuration": name,
            "frames": len(by_seed),
            "subjects": subjects.nunique(),
            "seeds": by_seed["dice"][name].shape[1],
        }
        for figure in FIGURES:
            values, first = (by_seed[figure][each].mean(axis=1).to_numpy(np.float64) for each in (name, order[0]))
            for column, compute in ((figure, bootstrap.mean), (f"{figure}_by_subject", bootstrap.mean_of_subjects)):
                record |= _estimate(column, compute(values))
                record |= _estimate(f"{column}_difference", compute(values - first) if name != order[0] else None)
        record["dice_sd"] = by_seed["dice"][name].mean().std()
        own = trainings[trainings["configuration"] == name]
        rows.append(record | own[["seconds", "images_per_second"]].mean().to_dict())
    return pd.DataFrame(rows)


def _estimate(name: str, found: Any) -> dict[str, float]:
    bounds = ("", "_low", "_high")
    if found is None:
        return {f"{name}{bound}": float("nan") for bound in bounds}
    return {f"{name}{bound}": value for bound, value in zip(bounds, (found.value, found.low, found.high), strict=True)}


def _for_people(rows: pd.DataFrame) -> pd.DataFrame:
    """The table as text, with intervals in brackets."""
    shown: dict[str, list[str]] = {"configuration": rows["configuration"].tolist()}
    for figure, name in _SHOWN.items():
        for column, kind in ((figure, "by frame"), (f"{figure}_by_subject", "by subject")):
            shown[f"{name} {kind}"] = [markup.with_interval(row, column) for _, row in rows.iterrows()]
    if len(rows) > 1:
        for column, kind in (("dice_difference", "by frame"), ("dice_by_subject_difference", "by subject")):
            texts = [markup.with_interval(row, column, sign=True) for _, row in rows.iterrows()]
            shown[f"Dice difference {kind}"] = texts
    if rows["seeds"].max() > 1:
        shown["SD of seeds"] = [f"{value:.4f}" for value in rows["dice_sd"]]
    shown["s"] = [f"{value:.0f}" for value in rows["seconds"]]
    shown["images/s"] = [f"{value:.1f}" for value in rows["images_per_second"]]
    return pd.DataFrame(shown)


def _write(
    target: Path,
    matrix: Matrix,
    rows: pd.DataFrame,
    frames: pd.DataFrame,
    trainings: pd.DataFrame,
    commit: str,
) -> None:
    shown, caption = _for_people(rows), _caption(matrix, rows)
    changes = [f"- {name}: {_changes(each)}" for name, each in matrix.configurations.items()]
    parts = [markup.markdown(shown), caption, "\n".join(changes), f"Code of commit {commit}."]
    with replacing_folder(target) as folder:
        (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        (folder / "table.tex").write_text(markup.latex(shown, caption), encoding="utf-8")
        rows.to_csv(folder / "table.csv", index=False, float_format="%.6f")
        trainings.to_csv(folder / "trainings.csv", index=False, float_format="%.6f")
        frames.to_parquet(folder / "frames.parquet", index=False)


def _changes(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in changes.items()) or "`params.yaml` as it is"


def _caption(matrix: Matrix, rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    seeds = f", each frame's score averaged over {len(matrix.seeds)} seeds" if len(matrix.seeds) > 1 else ""
    compared = f"; differences are to {first['configuration']}, paired by subject" if len(rows) > 1 else ""
    return (
        f"{matrix.plan.described} {first['frames']} frames of {first['subjects']} subjects{seeds}; 95 % intervals by "
        f"resampling subjects{compared}. Seconds and images/s are means over trainings, as measured when each was "
        "trained."
    )
