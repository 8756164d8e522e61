"""`search.yaml`: what `nerveseg search` varies, and between which values."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from optuna import Trial
from pydantic import Field, model_validator

from nerveseg import params
from nerveseg.params import Params, Section, Seed
from nerveseg.trials.folds import Plan, configured, require_varied

_Scalar = float | int | str | bool | None


class Float(Section):
    """Numbers from `low` to `high`; log: drawn evenly over orders of magnitude."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high and, with log, above 0")
        return self

    @property
    def extremes(self) -> list[Any]:
        """Values that are valid only if all are."""
        return [float(self.low), float(self.high)]

    def suggest(self, trial: Trial, name: str) -> float:
        """The value of a trial."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class Int(Section):
    """Whole numbers from `low` to `high`, `step` apart."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(default=1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high or (self.log and (self.low <= 0 or self.step > 1)):
            raise ValueError("low must be below high and, with log, above 0 and without step")
        if (self.high - self.low) % self.step:
            raise ValueError("high must be a number of steps above low")
        return self

    @property
    def extremes(self) -> list[Any]:
        """Values that are valid only if all are."""
        return [self.low, self.low + self.step, self.high]

    def suggest(self, trial: Trial, name: str) -> int:
        """The value of a trial."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)


class Choice(Section):
    """One of a list of values, without an order."""

    type: Literal["categorical"]
    values: Annotated[list[_Scalar], Field(min_length=2)]

    @property
    def extremes(self) -> list[Any]:
        """Values that are valid only if all are."""
        return self.values

    def suggest(self, trial: Trial, name: str) -> _Scalar:
        """The value of a trial."""
        return trial.suggest_categorical(name, self.values)


class Search(Section):
    """A search file."""

    trials: int = Field(ge=2, le=100_000, description="number of trials, params.yaml as it is among them")
    folds: int = Field(ge=3, le=1000, description="folds of the subjects for training and validation")
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="tpe: near what has been good so far, after ten random trials"
    )
    pruner: Literal["median", "none"] = Field(
        default="median",
        description="median: after each fold, end a trial that is below the median of the others after as many folds; "
        "from the sixth trial on",
    )
    seed: Seed = Field(description="for the sampler")
    space: Annotated[dict[str, Annotated[Float | Int | Choice, Field(discriminator="type")]], Field(min_length=1)] = (
        Field(description="by dotted names of parameters")
    )

    @property
    def plan(self) -> Plan:
        """Folds without the test subjects of params.yaml."""
        return Plan(self.folds, "validation")

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The parameters of a trial, by dotted names."""
        return {name: dimension.suggest(trial, name) for name, dimension in self.space.items()}


def read(file: Path) -> Search:
    """Reads a search file. Raises NervesegError if it is invalid."""
    return params.validate(Search, params.read_yaml(file), str(file), Search.model_fields)


def check(search: Search, base: Params, file: Path) -> None:
    """Raises NervesegError if a parameter is unknown or a value invalid, before anything is trained.

    Each value is tried alone. Values that are only invalid together fail in their trial.
    """
    require_varied(list(search.space), str(file))
    configured(base, search.plan.values(0), str(file))
    for name, dimension in search.space.items():
        for value in dimension.extremes:
            configured(base, {**search.plan.values(0), name: value}, f"{file}: {name}: {json.dumps(value)}")
