"""Whether a model may be registered: the criteria and the verdict. Works on metrics only, not on files or servers.

Requirements on a mean apply to the lower bound of its 95 % interval; where two models are compared on the same frames,
to that of their paired difference, resampled by subject. See "The gate" in `docs/explanation.md`.
"""

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from rich.table import Table
from rich.text import Text

from nerveseg import legacy
from nerveseg.errors import NervesegError
from nerveseg.evaluation import figures
from nerveseg.evaluation.bootstrap import Estimate
from nerveseg.evaluation.results import Interval, Metrics
from nerveseg.params import GateMode, RegisterParams

# Tag of a version and its run with the verdict; TAG.NAME: a criterion. MLflow's page sorts tags by their characters'
# codes and shows four, so these are the first ones.
TAG = "Gate"
SET_ASIDE = f"{TAG}.frames_set_aside"  # tag with the frames that were set aside because of errors, `1 of 30`
OVERRIDE = f"{TAG} override"  # tag of a version by which a person delivers it despite the verdict: `NAME: REASON`
OVER_CHAMPION = "gain_over_champion"  # the criterion that compares with the champion
UNKNOWN_SUBJECTS = (
    "The subjects are unknown (data.subject): the scored people may be in the training set, and the lower bounds are "
    "too high, because the intervals resample frames."
)
SCORER_TOLERANCE = 1e-4  # probability; both networks compute in fp32 on the CPU

Relation = Literal[">=", ">", "<="]
_HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le}
_WORDS = {  # if it holds, if it does not
    ">=": ("reaches", "is below"),
    ">": ("is above", "is not above"),
    "<=": ("is within", "exceeds"),
}


@dataclass(frozen=True)
class Criterion:
    """One requirement on a model, and the result.

    Attributes:
        name: as in `registration.json` and, after `gate.`, as a tag.
        value: the measured value; None if undefined.
        relation: required between `value` and `threshold`.
        threshold: what the value is compared with.
        passed: whether the relation holds; False if the value is undefined.
        detail: all of this in a sentence, with what the value is computed from.
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
    """The gate's verdict on a model.

    Attributes:
        mode: `register.gate`.
        criteria: empty if the gate is off.
        note: that the subjects are unknown, that frames were set aside, and why there is no comparison with a champion;
            or empty.
        set_aside: how many frames of the dataset were set aside because of errors, as `FrameStore.set_aside` says it.
    """

    mode: GateMode
    criteria: tuple[Criterion, ...] = ()
    note: str = ""
    set_aside: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether every criterion is met; None if the gate is off."""
        return None if self.mode == "off" else not self._failed

    @property
    def reasons(self) -> list[str]:
        """Why the model is refused, and how many frames were set aside; empty if it is not refused, including when
        failures are only reported.
        """
        refused = self._failed if self.mode == "enforce" else []
        return [*refused, *([f"frames set aside: {self.set_aside}"] if refused and self.set_aside else [])]

    @property
    def line(self) -> str:
        """`passed`, `refused: why`, `failed: why` (registered anyway) or `off`."""
        if self.mode == "off":
            return "off"
        if not self._failed:
            return "passed"
        return f"{'refused' if self.mode == 'enforce' else 'failed'}: {'; '.join(self._failed)}"

    @property
    def headline(self) -> str:
        """`passed`, `failed: ` and the names of the criteria that are not met, or `off`."""
        if self.mode == "off":
            return "off: no criterion was checked"
        return f"failed: {', '.join(one.name for one in self.criteria if not one.passed)}" if self._failed else "passed"

    @property
    def tags(self) -> dict[str, str]:
        """The verdict and every criterion as MLflow tags."""
        aside = {SET_ASIDE: self.set_aside} if self.set_aside else {}
        return {TAG: self.line, **{f"{TAG}.{one.name}": one.line for one in self.criteria}, **aside}

    @property
    def record(self) -> dict[str, Any]:
        """The value of `gate` in `registration.json`."""
        criteria = [asdict(one) for one in self.criteria]
        aside = {"set_aside": self.set_aside} if self.set_aside else {}
        return {"mode": self.mode, "passed": self.passed, "criteria": criteria, "note": self.note, **aside}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """The verdict from its `record`. Raises ValueError if that is invalid."""
        try:
            criteria = tuple(Criterion(**one) for one in record["criteria"])
            found = cls(record["mode"], criteria, record["note"], record.get("set_aside", ""))
            whole = found.record == record
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a verdict of the gate: {error}") from None
        if not whole:
            raise ValueError("it contradicts itself")
        return found

    @property
    def _failed(self) -> list[str]:
        return [one.detail for one in self.criteria if not one.passed]


def table(verdict: Verdict) -> Table:
    """The criteria as a table to print, unless the gate is off."""
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
        result = Text("passed", "green") if one.passed else Text("FAILED", "bold red")
        shown.add_row(one.name, result, one.figure, f"{one.relation} {one.threshold:.4g}", one.detail)
    return shown


def outdated(former: Mapping[str, str], tags: Mapping[str, str]) -> list[str]:
    """The tags in `former` that a new verdict, in `tags`, leaves behind: of other criteria, under older names, and the
    override of another verdict.
    """
    gone = [key for key in former if key not in tags and legacy.gate_tags({key: ""})]
    is_another = legacy.gate_tags(former) != legacy.gate_tags(tags)
    return [*gone, *([OVERRIDE] if is_another and OVERRIDE in former else [])]


def overrider(tags: Mapping[str, str], verdict: Verdict) -> str:
    """Who delivers a version despite the verdict, and why: `NAME: REASON` in its tag OVERRIDE.

    Raises:
        NervesegError: there is no such tag, or its value lacks either.
    """
    name, _, reason = (part.strip() for part in tags.get(OVERRIDE, "").partition(":"))
    if name and reason:
        return f"{name}: {reason}"
    now = f", but is {tags[OVERRIDE]!r} now" if OVERRIDE in tags else ""
    for other in (key for key in tags if key != OVERRIDE and _letters(key) == _letters(OVERRIDE)):
        now = f"; there is a tag `{other}`, which is another name"
    raise NervesegError(
        f"the gate says {verdict.headline}. If it is to be delivered all the same, its tag `{OVERRIDE}` must say who "
        f"decides that, and why, as `NAME: REASON`{now}"
    )


def _letters(name: str) -> str:
    return "".join(filter(str.isalpha, name)).lower()


def set_aside_note(set_aside: str) -> str:
    """Says that frames were set aside; `set_aside` is what `FrameStore.set_aside` returns."""
    return (
        f"Frames set aside because of errors: {set_aside} (data.quarantine). The model was neither trained nor scored "
        "on them."
    )


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
            undefined="no subject has evaluate.min_frames frames"
            if metrics.test.subjects_known
            else "the subjects are unknown (data.subject)",
        ),
    ]


def over_champion(
    candidate: float, champion: float, difference: Estimate, register: RegisterParams, who: str, remark: str = ""
) -> Criterion:
    """Compares the candidate with the champion on the same frames.

    Args:
        candidate: its mean Dice.
        champion: its mean Dice.
        difference: candidate minus champion, paired by subject.
        who: the champion in words.
        remark: a caveat about the comparison.
    """
    bounds = difference.interval
    facts = (
        f"mean Dice {candidate:.4f} against {champion:.4f} for {who}{remark}, "
        f"difference {figures.with_interval(difference.value, bounds)}"
    )
    return _beside(_low(bounds), register, facts)


def nothing_in_common(register: RegisterParams, who: str) -> Criterion:
    """The criterion for a champion without scored frames in common; arguments as for `over_champion`."""
    return _beside(None, register, f"mean Dice against {who}", undefined="no frame has a Dice for both")


def same_probabilities(difference: float | None, frames: int, trouble: str = "") -> Criterion:
    """Compares the logged model with the trained network.

    Args:
        difference: largest absolute difference between their probabilities; None if it could not be run.
        frames: number of frames compared.
        trouble: why it could not be run.
    """
    return _judge(
        "scorer",
        difference,
        "<=",
        SCORER_TOLERANCE,
        f"the logged scorer against the trained network on {frames} frames",
        f"{SCORER_TOLERANCE:g}",
        what="largest difference of a probability",
        undefined=trouble,
    )


def _gain(name: str, metrics: Metrics, baseline: str, relation: Relation, threshold: float, demand: str) -> Criterion:
    dice, its = (metrics.measured(key).value for key in ("test.dice", f"baseline.{baseline}.dice"))
    gain = metrics.measured(f"baseline.{baseline}.gain")
    facts = (
        f"mean Dice {figures.number(dice)} against {figures.number(its)} for {figures.BASELINES[baseline]}, "
        f"gain {figures.with_interval(gain.value, gain.interval)}"
    )
    return _judge(name, _low(gain.interval), relation, threshold, facts, demand)


def _beside(value: float | None, register: RegisterParams, facts: str, **undefined: str) -> Criterion:
    margin = 0 - register.champion_margin
    demand = f"{margin:g} (register.champion_margin)"
    return _judge(OVER_CHAMPION, value, ">=", margin, facts, demand, **undefined)


def _judge(
    name: str,
    value: float | None,
    relation: Relation,
    threshold: float,
    facts: str,
    demand: str,
    what: str = "its lower bound",
    undefined: str = "a single subject has no interval",
) -> Criterion:
    if value is None:
        return Criterion(name, None, relation, threshold, False, f"{facts}: undefined, {undefined}")
    passed = _HOLDS[relation](value, threshold)
    word = _WORDS[relation][0 if passed else 1]
    return Criterion(name, value, relation, threshold, passed, f"{facts}: {what} {value:.4g} {word} {demand}")


def _low(bounds: Interval | None) -> float | None:
    return None if bounds is None else bounds[0]
