"""What `metrics.json` holds, as models: facts are fields, figures are what the registry in `figures` lists.

In the file, the figure X stands as a number X, null where it is undefined, beside its 95 % interval `X_ci`,
`[low, high]`. Fields with a default may be missing from files of older versions, and so may figures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nerveseg import legacy
from nerveseg.errors import NervesegError
from nerveseg.evaluation import figures
from nerveseg.evaluation.figures import Figure, Place
from nerveseg.files import read_json, write_json

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """The value of a figure, None where it is undefined or was not measured, and its 95 % interval, if it has one."""

    value: float | None
    interval: Interval | None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(BaseModel):
    """An object of metrics.json that holds figures, under the current names whatever the file calls them."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, int | float | Interval | None] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, content: Any) -> Any:
        return legacy.renamed(content) if isinstance(content, dict) else content

    def measured(self, name: str) -> Measured:
        """A figure by its key in this object."""
        figures: dict[str, Any] = self.__pydantic_extra__
        return Measured(figures.get(name), figures.get(f"{name}_ci"))


class Presence(Section):
    """Nerve presence, frame by frame."""

    true_positives: Annotated[int, Field(description="frames with a nerve on which one is predicted")] = 0
    false_positives: Annotated[int, Field(description="frames without a nerve on which one is predicted")] = 0
    false_negatives: Annotated[int, Field(description="frames with a nerve on which nothing is predicted")] = 0
    true_negatives: Annotated[int, Field(description="frames without a nerve on which nothing is predicted")] = 0


class Test(Section):
    """The scored frames."""

    __test__ = False  # it is none of pytest's

    split: Annotated[str, Field(description="what was scored: test, validation, or out-of-fold for an ensemble")]
    frames: Annotated[int, Field(description="scored frames")]
    subjects: Annotated[int, Field(description="subjects of the scored frames; if unknown, the number of frames")]
    subjects_known: Annotated[
        bool,
        Field(
            description="whether the subject of every frame is known; if not, leaks cannot be seen, and intervals "
            "resample frames and are too narrow"
        ),
    ] = True
    left_out: Annotated[int, Field(description="frames without a Dice by the rule evaluate.empty")] = 0
    without_outline: Annotated[
        int, Field(description="frames with an empty mask, which have no HD95 and no centroid error")
    ] = 0
    with_spacing: Annotated[
        int | None,
        Field(
            description="frames whose pixel spacing is known, those of the metrics in mm and mm²; not there if it is "
            "known of no frame of the dataset"
        ),
    ] = None
    worst_subject_name: Annotated[
        str | None, Field(description="the worst subject; null if no subject has evaluate.min_frames frames")
    ] = None
    subjects_ranked: Annotated[int, Field(description="subjects with at least evaluate.min_frames frames")] = 0
    presence: Presence = Presence()
    subjects_in_training: Annotated[
        int,
        Field(
            description="scored subjects with frames in training: 0 unless split.by is frame; if it is not 0, register "
            "refuses the model"
        ),
    ] = 0

    @property
    def of_subjects(self) -> str:
        """`of 4 subjects`, or that they are unknown."""
        return f"of {self.subjects} subjects" if self.subjects_known else "of unknown subjects"


class Validation(_Part):
    """The validation frames at other thresholds than the model's."""

    best_threshold: Annotated[
        float | None,
        Field(
            description="threshold with the best Dice by evaluate.empty in thresholds.csv; 0.5 if all are equal, null "
            "without validation frames"
        ),
    ]
    dice_at_best_threshold: Annotated[float | None, Field(description="mean Dice of the validation frames there")]


class Overlap(_Part):
    """Means over frames; None where the rule leaves all frames out."""

    dice: float | None
    iou: float | None


class Ceiling(Section):
    """What the labels allow."""

    near_identical_frames: Annotated[
        int, Field(description="scored frames with a near-duplicate among the scored frames")
    ] = 0
    conflicting_pairs: Annotated[int, Field(description="rows of conflicts.csv, which covers all frames")] = 0


class Leakage(_Part):
    """The same frames scored by folds of subjects and by random folds, and by how much the latter are better."""

    by_subject: Section
    by_frame: Section
    optimism: Section


class Metrics(_Part):
    """What `metrics.json` holds."""

    folds: Annotated[int | None, Field(description="folds of a cross-validation; only in crossval/metrics.json")] = None
    test: Test
    baseline: dict[str, Section] = {}
    validation: Validation
    empty_rule: Annotated[str, Field(description="evaluate.empty in words")]
    by_empty_rule: Annotated[
        dict[str, Overlap], Field(description="mean dice and iou of the same predictions by each rule for empty masks")
    ] = {}
    ceiling: Ceiling = Ceiling()
    leakage: Leakage | None = None

    def measured(self, key: str) -> Measured:
        """A figure by its dotted key.

        Raises:
            AttributeError, KeyError: these metrics have no such section.
        """
        first, *between, name = key.split(".")
        section: Any = getattr(self, first)
        for part in between:
            section = section[part] if isinstance(section, dict) else getattr(section, part)
        measured: Measured = section.measured(name)
        return measured

    def shown(self, place: Place) -> list[Figure]:
        """The figures that stand in a place, those in mm only if the dataset has a pixel spacing."""
        return figures.shown(place, self.test.with_spacing is not None)

    def title(self, figure: Figure) -> str:
        """The title of a figure with its detail, as `Dice of the worst subject, 12`."""
        return ", ".join(filter(None, (figure.title, figure.detail(self))))

    @property
    def record(self) -> dict[str, Any]:
        """What the file holds."""
        return self.model_dump(exclude_unset=True)

    @property
    def summary(self) -> dict[str, float | None]:
        """What DVC's tables show: a few figures by the last part of their keys, rounded: narrow columns."""
        values = {figure.column: self.measured(figure.key).value for figure in self.shown("dvc")}
        return {name: None if value is None else round(value, figures.EXACT) for name, value in values.items()}

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_json(path, self.record)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file of this or an older version.

        Raises:
            NervesegError: it is missing or holds no metrics.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, detail["loc"])) or "all of it" for detail in error.errors()[:5])
            raise NervesegError(
                f"{path} holds no metrics ({wrong} does not fit): `dvc repro -f -s evaluate` recreates it."
            ) from None
