"""Whether a model may be registered: criteria, and the verdict that they make. Figures in, no files and no servers.

What is demanded of a mean is demanded of the lower bound of its 95 % interval, and where two masks of the same frames
are compared, of their difference paired by subject: `docs/explanation.md`, The gate.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from rich.markup import escape
from rich.table import Table

from nerveseg.evaluation import figures
from nerveseg.evaluation.bootstrap import Estimate
from nerveseg.evaluation.results import Interval, Metrics
from nerveseg.params import GateMode, RegisterParams

TAG = "gate"  # on a version and its run: the verdict; TAG.NAME: a criterion
SCORER_TOLERANCE = 1e-4  # of a probability; both networks compute in fp32 on the CPU

Relation = Literal[">=", ">", "<="]
_HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le}
_WORDS = {  # where it holds and where it does not
    ">=": ("reaches", "is below"),
    ">": ("is above", "is not above"),
    "<=": ("is within", "exceeds"),
}


@dataclass(frozen=True)
class Criterion:
    """One thing that is asked of a model, and what was found.

    Attributes:
        name: as in `registration.json` and, after `gate.`, as a tag.
        value: the figure; None where it is undefined.
        relation: in which `value` has to stand to `threshold`.
        threshold: what the figure is held against.
        passed: whether it does; never where the figure is undefined.
        detail: all of that in a sentence, with what the figure comes from.
    """

    name: str
    value: float | None
    relation: Relation
    threshold: float
    passed: bool
    detail: str

    @property
    def line(self) -> str:
        """`0.8912 >= 0.6 passed`, for a tag."""
        return f"{self.figure} {self.relation} {self.threshold:.4g} {'passed' if self.passed else 'failed'}"

    @property
    def figure(self) -> str:
        """The value as text."""
        return "undefined" if self.value is None else f"{self.value:.4g}"


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a model.

    Attributes:
        mode: `register.gate`.
        criteria: none where the gate is off.
        note: why there is no champion among them, where there is none.
    """

    mode: GateMode
    criteria: tuple[Criterion, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether every criterion is met; None where the gate is off."""
        return None if self.mode == "off" else not self._failed

    @property
    def reasons(self) -> list[str]:
        """Why the model is refused; none where it is not, also where failures are only reported."""
        return self._failed if self.mode == "enforce" else []

    @property
    def line(self) -> str:
        """`passed`, `refused: why`, `reported: why` or `off`."""
        if self.mode == "off":
            return "off"
        if not self._failed:
            return "passed"
        return f"{'refused' if self.mode == 'enforce' else 'reported'}: {'; '.join(self._failed)}"

    @property
    def tags(self) -> dict[str, str]:
        """The verdict and every criterion, as MLflow shows them."""
        return {TAG: self.line, **{f"{TAG}.{one.name}": one.line for one in self.criteria}}

    @property
    def record(self) -> dict[str, Any]:
        """What `registration.json` holds as `gate`."""
        criteria = [asdict(one) for one in self.criteria]
        return {"mode": self.mode, "passed": self.passed, "criteria": criteria, "note": self.note}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """The verdict whose `record` this is. Raises ValueError where it is none."""
        try:
            found = cls(record["mode"], tuple(Criterion(**one) for one in record["criteria"]), record["note"])
            whole = found.record == record
        except (KeyError, TypeError) as error:
            raise ValueError(f"no verdict of the gate: {error}") from None
        if not whole:
            raise ValueError("it contradicts itself")
        return found

    @property
    def _failed(self) -> list[str]:
        return [one.detail for one in self.criteria if not one.passed]


def table(verdict: Verdict) -> Table:
    """The criteria of a gate that is not off, for the terminal."""
    shown = Table(
        title=f"gate, register.gate: {verdict.mode}",
        caption=verdict.note or None,
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("criterion", no_wrap=True)
    shown.add_column("")
    shown.add_column("value", justify="right")
    shown.add_column("threshold", no_wrap=True)
    shown.add_column("found")
    for one in verdict.criteria:
        result = "[green]passed[/]" if one.passed else "[bold red]FAILED[/]"
        shown.add_row(one.name, result, one.figure, f"{one.relation} {one.threshold:.4g}", escape(one.detail))
    return shown


def outdated(former: Iterable[str], tags: Mapping[str, str]) -> list[str]:
    """The tags of criteria among `former` that are not among the new `tags`."""
    return [key for key in former if key.startswith(f"{TAG}.") and key not in tags]


def absolute(metrics: Metrics, register: RegisterParams) -> list[Criterion]:
    """What is asked of every model, whatever else is registered."""
    dice, worst = metrics.measured("test.dice"), metrics.measured("test.worst_subject")
    return [
        _judge(
            "dice_lower_bound",
            _low(dice.interval),
            ">=",
            register.min_dice,
            f"mean Dice {figures.with_interval(dice.value, dice.interval)}",
            f"register.min_dice {register.min_dice:g}",
        ),
        _gain("gain_over_nothing", metrics, "empty", ">", 0.0, "0"),
        _gain(
            "gain_over_prior",
            metrics,
            "prior",
            ">=",
            register.prior_margin,
            f"register.prior_margin {register.prior_margin:g}",
        ),
        _judge(
            "worst_subject",
            worst.value,
            ">=",
            register.min_worst_subject,
            f"worst subject {metrics.test.worst_subject_name or ''}".rstrip(),
            f"register.min_worst_subject {register.min_worst_subject:g}",
            what="mean Dice",
            undefined="no subject has evaluate.min_frames frames",
        ),
    ]


def over_champion(
    candidate: float, champion: float, difference: Estimate, register: RegisterParams, who: str, remark: str = ""
) -> Criterion:
    """The candidate beside the champion on the same frames.

    Args:
        candidate: its mean Dice.
        champion: its mean Dice.
        difference: candidate less champion, paired by subject.
        who: the champion in words.
        remark: what to keep in mind of the comparison.
    """
    bounds = difference.interval
    facts = (
        f"mean Dice {candidate:.4f} against {champion:.4f} of {who}{remark}, "
        f"difference {figures.with_interval(difference.value, bounds)}"
    )
    return _beside(_low(bounds), register, facts)


def nothing_in_common(register: RegisterParams, who: str) -> Criterion:
    """The candidate beside a champion with which it has no scored frame in common; arguments as of `over_champion`."""
    return _beside(None, register, f"mean Dice against that of {who}", undefined="no frame has a Dice of both")


def same_probabilities(difference: float | None, frames: int, trouble: str = "") -> Criterion:
    """The model as MLflow serves it beside the trained network.

    Args:
        difference: largest absolute difference of their probabilities; None where it could not be run.
        frames: how many were compared.
        trouble: why it could not be run.
    """
    return _judge(
        "scorer",
        difference,
        "<=",
        SCORER_TOLERANCE,
        f"the logged scorer beside the trained network on {frames} frames",
        f"{SCORER_TOLERANCE:g}",
        what="largest difference of a probability",
        undefined=trouble,
    )


def _gain(name: str, metrics: Metrics, baseline: str, relation: Relation, threshold: float, demand: str) -> Criterion:
    dice, its = (metrics.measured(key).value for key in ("test.dice", f"baseline.{baseline}.dice"))
    gain = metrics.measured(f"baseline.{baseline}.gain")
    facts = (
        f"mean Dice {figures.number(dice)} against {figures.number(its)} of {figures.BASELINES[baseline]}, "
        f"gain {figures.with_interval(gain.value, gain.interval)}"
    )
    return _judge(name, _low(gain.interval), relation, threshold, facts, demand)


def _beside(value: float | None, register: RegisterParams, facts: str, **undefined: str) -> Criterion:
    margin = 0 - register.champion_margin
    demand = f"{margin:g} (register.champion_margin)"
    return _judge("gain_over_champion", value, ">=", margin, facts, demand, **undefined)


def _judge(
    name: str,
    value: float | None,
    relation: Relation,
    threshold: float,
    facts: str,
    demand: str,
    what: str = "its lower bound",
    undefined: str = "one subject alone has no interval",
) -> Criterion:
    if value is None:
        return Criterion(name, None, relation, threshold, False, f"{facts}: undefined, {undefined}")
    passed = _HOLDS[relation](value, threshold)
    word = _WORDS[relation][0 if passed else 1]
    return Criterion(name, value, relation, threshold, passed, f"{facts}: {what} {value:.4g} {word} {demand}")


def _low(bounds: Interval | None) -> float | None:
    return None if bounds is None else bounds[0]
