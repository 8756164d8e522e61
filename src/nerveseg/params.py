"""`params.yaml` as frozen, typed objects: everything that changes a result, and nothing else.

All values are in `params.yaml`; there are no defaults here, so that each value is defined in one place.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nerveseg import paths
from nerveseg.errors import NervesegError

Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(pattern=r"\S")]
InputSide = Annotated[int, Field(ge=32, le=2048, multiple_of=32)]  # the encoder halves it five times
EmptyRule = Literal["kaggle", "nnunet", "monai", "smp"]
GateMode = Literal["off", "report", "enforce"]
Checked = TypeVar("Checked", bound=BaseModel)
# What a recipe sets, in `train` and in `training/recipes.py`.
Optimizer = Literal["adamw", "sgd"]
LearningRate = Annotated[float, Field(gt=0, le=1)]
EncoderFactor = Annotated[float, Field(gt=0, le=10)]
Schedule = Literal["cosine", "constant"]
Decay = Annotated[float, Field(ge=0, le=1)]
GradientNorm = Annotated[float, Field(ge=0)]
Loss = Literal["bce_dice", "image_dice", "focal", "tversky", "lovasz"]
Mixing = Literal["none", "mixup", "cutmix"]
SamplerName = Literal["frames", "subjects", "clusters"]
LEVELS = ("none", "card", "soft", "medium", "strong")  # of augmentation

_UNQUOTED = "unquoted"  # type of the errors that must not quote the value


def _require_no_secrets(uri: str) -> None:
    """Refuses an address with credentials or a query: addresses are recorded in dvc.lock, in MLflow and in logs."""
    scheme, separator, rest = uri.partition("://")
    if separator and "@" in rest.partition("/")[0]:
        raise PydanticCustomError(
            _UNQUOTED,
            "the address contains credentials, but dvc.lock, MLflow and logs record it; put them into ~/.netrc, or the "
            "file that NETRC names, for https, or into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of "
            "~/.aws/credentials (AWS_PROFILE), for S3",
        )
    if separator and scheme != "s3" and "?" in rest:
        raise PydanticCustomError(
            _UNQUOTED,
            "the address has a query (?...), which may be a signature or a token, but dvc.lock, MLflow and logs record "
            "it; leave it out and put credentials into ~/.netrc, or use s3://bucket/key with AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or download the file and use its path",
        )


def _s3_or_folder(uri: str | None) -> str | None:
    if uri is None:
        return None
    _require_no_secrets(uri)
    if "://" in uri and not uri.startswith("s3://"):
        raise ValueError("use s3://bucket/prefix or a path")
    return uri


def whole_name(pattern: str) -> str:
    """A pattern that matches a text if `pattern` matches all of it."""
    return f"^(?s:{pattern})$"


def _part_of_a_name(suffix: str) -> str:
    if "/" in suffix or "\\" in suffix or not suffix.strip("_-. "):
        raise ValueError("use what ends the name of a mask's file before its type, such as _mask, without slashes")
    return suffix


MaskSuffix = Annotated[str, AfterValidator(_part_of_a_name)]


def subject_rule(subject: str) -> str:
    """`subject`, if it can be `data.subject`: "column", "none" or a pattern. Raises ValueError if not."""
    if subject in ("column", "none"):
        return subject
    import pyarrow as pa  # a tenth of a second, which no command needs that reads no parameters
    from pyarrow.compute import extract_regex

    try:  # RE2 takes linear time whatever the pattern, so no pattern can hang the stage
        for pattern in (subject, whole_name(subject)):  # alone, it may not close a group that it did not open
            groups = [field.name for field in extract_regex(pa.array([], pa.string()), pattern).type]
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"not a pattern in the syntax of RE2 ({str(error).removeprefix('Invalid regular expression: ')}); use "
            "column, none or a pattern such as (?P<subject>[^_]+)_.+, with (?:...) for groups without a name"
        ) from None
    if groups.count("subject") != 1 or not set(groups) <= {"subject", "site"} or groups.count("site") > 1:
        raise ValueError(
            f"a pattern has one group (?P<subject>...), may have one group (?P<site>...), and has no others, but "
            f"this one has {', '.join(groups) or 'none'}; use such a pattern, column or none"
        )
    return subject


class Section(BaseModel):
    """A section of params.yaml: frozen, strictly typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PhantomParams(Section):
    subjects: int = Field(ge=3, le=1000, description="subjects in the phantom dataset")
    frames_per_subject: int = Field(ge=1, le=1000, description="frames of one slow sweep")
    empty_share: Share = Field(description="share of frames without a nerve")
    height: int = Field(ge=64, le=2048, description="frame height in pixels")
    width: int = Field(ge=64, le=2048, description="frame width in pixels")
    layout: Literal["hydrogen-torch", "kaggle"] = Field(description="layout of the dataset zip")
    seed: Seed


class DataParams(Section):
    uri: str = Field(
        min_length=1,
        description="s3://bucket/key, https://host/path or a path of a dataset zip; s3://bucket/prefix/ or a folder",
    )
    version_id: str | None = Field(description="pins one version of an S3 object")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(description="rejects any other content")
    layout: Literal["auto", "dicom", "hydrogen-torch", "pairs", "nnunet", "coco", "label-studio"] = Field(
        description="how the dataset is laid out; auto: detected"
    )
    mask_suffixes: Annotated[list[MaskSuffix], Field(min_length=1)] = Field(
        description="what ends the name of a mask's file, after that of its frame, in the layouts pairs and dicom"
    )
    frames: Literal["nonempty", "all"] = Field(description="only frames with a mask, or all frames")
    subject: Annotated[str, AfterValidator(subject_rule)] = Field(
        description="a pattern of file names with the group subject and optionally site; column: only from the table; "
        "none: unknown, each frame is its own"
    )
    classes: Annotated[list[int | str], Field(min_length=1)] | None = Field(
        description="what is nerve, where a dataset has several classes: values of class_id, names or values of masks"
    )

    quarantine: bool = Field(description="whether frames with errors are set aside instead of rejecting the dataset")
    quarantine_cap: Share = Field(description="largest share of the frames that may be set aside")

    @field_validator("classes", mode="wrap")
    @classmethod
    def _names_or_numbers(cls, classes: Any, check: ValidatorFunctionWrapHandler) -> list[int | str] | None:
        try:
            checked: list[int | str] | None = check(classes)
            return checked
        except ValidationError:  # it has a line for each alternative of each value
            raise ValueError("use null, or a list of names or numbers of classes, such as [0]") from None

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str) -> str:
        _require_no_secrets(uri)
        scheme, separator, rest = uri.partition("://")
        if separator and scheme not in ("s3", "https", "http"):
            raise ValueError(f"cannot read {scheme}://; use s3://bucket/key, https://host/path or a path")
        bucket, slash, _ = rest.partition("/")
        if scheme == "s3" and separator and not (bucket and slash):
            raise ValueError("an S3 URI needs a bucket and a key or prefix: s3://bucket/key, s3://bucket/prefix/")
        return uri

    @model_validator(mode="after")
    def _version_needs_s3(self) -> Self:
        if self.version_id is not None and not self.uri.startswith("s3://"):
            raise ValueError("version_id pins a version of an S3 object, but uri is not s3://; set it to null")
        if self.version_id is not None and self.uri.endswith("/"):
            raise ValueError(
                "version_id pins a version of one S3 object, but uri is a prefix; set it to null, and pin the zip of "
                "its objects by sha256"
            )
        return self


class SplitParams(Section):
    by: Literal["subject", "fold", "frame"] = Field(
        description="whole subjects, the dataset's fold column, or single frames (leaks, for the leakage audit only)"
    )
    seed: Seed
    validation: Share = Field(description="share of subjects (or frames) for validation; 0: none")
    test: Share = Field(description="share of subjects (or frames) for testing")
    validation_fold: int | None = Field(description="by fold: the validation fold; null: none")
    test_fold: int | None = Field(description="by fold: the test fold; null: none")
    folds: int | None = Field(
        ge=3, le=1000, description="number of folds of subjects (or frames), instead of the shares"
    )
    fold: int | None = Field(ge=0, description="the test fold, from 0; the next one is for validation")
    folds_of: Literal["all", "development"] = Field(
        description="folds of all subjects, or only of those that are left when the test subjects are set aside as "
        "without folds; then `fold` is the validation fold"
    )
    near_duplicate: int = Field(
        ge=0, le=64, description="largest distance, in bits of 256, between the hashes of near-duplicate frames"
    )

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be below 1, or nothing is left to train on")
        if self.by == "fold" and self.validation_fold is not None and self.validation_fold == self.test_fold:
            raise ValueError(
                "validation_fold and test_fold must differ; without a test fold, set evaluate.split: validation"
            )
        if (self.folds is None) != (self.fold is None):
            raise ValueError("set both folds and fold, or neither")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"there is no fold {self.fold}: the {self.folds} folds are 0 to {self.folds - 1}")
        if self.folds_of == "development" and self.by == "frame":
            raise ValueError("folds_of: development divides whole subjects, but by is frame; set by: subject")
        if self.folds is not None and self.folds_of == "all" and self.by == "fold":
            raise ValueError(
                "folds divides subjects or frames, but by: fold uses the dataset's own folds; set only one of them"
            )
        return self

    @property
    def has_test(self) -> bool:
        """Whether there are test frames."""
        if self.by == "fold":
            return self.test_fold is not None
        return (self.folds is not None and self.folds_of == "all") or self.test > 0

    @property
    def has_validation(self) -> bool:
        """Whether there are validation frames."""
        if self.folds is not None:
            return True
        return self.validation_fold is not None if self.by == "fold" else self.validation > 0


class ModelParams(Section):
    architecture: str = Field(min_length=1, description="architecture of segmentation_models_pytorch, such as Unet")
    encoder: str = Field(min_length=1, description="encoder of segmentation_models_pytorch, such as resnet34")
    encoder_weights: str = Field(description="none, imagenet, or a .safetensors or .pth file under weights/")
    height: InputSide = Field(description="network input height in pixels")
    width: InputSide = Field(description="network input width in pixels")
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["validation"] = Field(
        description="a pixel is nerve from this probability up; validation: chosen on the validation frames"
    )
    flips: bool = Field(
        description="average over the frame and the flips of its training when scoring; two or four times the compute"
    )

    @field_validator("threshold", mode="wrap")
    @classmethod
    def _number_or_validation(cls, threshold: Any, check: ValidatorFunctionWrapHandler) -> float | str:
        try:
            checked: float | str = check(threshold)
            return checked
        except ValidationError:  # it has one line for each alternative
            raise ValueError("use a number between 0 and 1, exclusive, or validation") from None

    @field_validator("encoder_weights")
    @classmethod
    def _known_weights(cls, weights: str) -> str:
        path = PurePosixPath(weights)
        if weights in ("none", "imagenet"):
            return weights
        if path.suffix not in (".safetensors", ".pth") or path.parts[:1] != (paths.WEIGHTS.name,) or ".." in path.parts:
            raise ValueError(
                "use none, imagenet, or a .safetensors or .pth file under weights/, the folder that DVC watches"
            )
        return weights


def _level_or_file(augmentation: str) -> str:
    path = PurePosixPath(augmentation)
    is_inside = path.parts[:1] == (paths.AUGMENTATION.name,) and ".." not in path.parts
    if augmentation not in LEVELS and not (is_inside and path.suffix in (".yaml", ".json")):
        raise ValueError(
            f"use {', '.join(LEVELS)}, or a .yaml or .json file under {paths.AUGMENTATION}/, which DVC watches"
        )
    return augmentation


AugmentationName = Annotated[str, AfterValidator(_level_or_file)]


class TrainParams(Section):
    """The recipe by name, what it sets (null: the recipe's value), and what no recipe sets."""

    recipe: Literal["nerveseg", "card"] = Field(
        description="sets what is null here; nerveseg: our own; card: the published model card's"
    )
    optimizer: Optimizer | None = Field(description="sgd: with Nesterov momentum of 0.9")
    learning_rate: LearningRate | None = Field(description="initial learning rate, after the warm-up")
    encoder_learning_rate: EncoderFactor | None = Field(
        description="the encoder's learning rate, as a factor on learning_rate; 1.0: the same"
    )
    schedule: Schedule | None = Field(
        description="after the warm-up; cosine: the learning rate decays to zero, step by step"
    )
    warmup: Share | None = Field(description="share of all steps in which the learning rate rises linearly")
    weight_decay: Decay | None = Field(description="decoupled from the gradient with adamw; an L2 penalty with sgd")
    gradient_clip: GradientNorm | None = Field(description="maximum gradient norm; 0: no clipping")
    loss: Loss | None = Field(description="a term for pixels plus one for regions; image_dice: Dice of each frame")
    augmentation: AugmentationName | None = Field(
        description="none, card, soft, medium, strong, or a .yaml or .json file under augmentation/"
    )
    mixing: Mixing | None = Field(description="mixes the frames of a batch in pairs")
    ema: Share | None = Field(description="decay by step of the weights' moving average, which is kept; 0: none")
    sampler: SamplerName | None = Field(
        description="which frames an epoch draws; subjects, clusters: each subject or near-duplicate cluster as often"
    )
    batch_size: int = Field(
        ge=2, le=4096, description="frames per step; the last batch of an epoch is dropped if smaller"
    )
    accumulate: int = Field(ge=1, le=1024, description="batches whose gradients are averaged for one optimiser step")
    epochs: int = Field(ge=1, le=10_000, description="passes over the training frames")
    keep: Literal["last", "best"] = Field(
        description="the network after the last epoch, or after the one with the best validation Dice"
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        description="epochs without a better validation Dice after which training ends; null: all epochs"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(description="auto: what suits the device best")
    seed: Seed = Field(description="seed for initial weights, order of the frames, augmentation")


class EvaluateParams(Section):
    split: Literal["test", "validation"] = Field(description="which frames are scored")
    empty: EmptyRule = Field(description="rule for scoring empty masks")
    nsd_tolerance: float = Field(ge=0, le=100, description="NSD tolerance: pixels by which an outline may be off")
    nsd_tolerance_mm: float = Field(
        ge=0, le=100, description="NSD tolerance in mm, for the frames whose pixel spacing is known"
    )
    min_frames: int = Field(
        ge=1, description="frames a subject needs to be the worst, and for the means over subjects with enough frames"
    )
    resamples: int = Field(ge=100, le=100_000, description="bootstrap resamples of subjects, for the 95 % intervals")
    overlays: int = Field(ge=1, le=24, description="frames in each panel, such as best, worst and random")
    seed: Seed


class CardParams(Section):
    """What only the owner of a model can say; null: not stated."""

    owner: Text | None = Field(description="who answers for the model: a person or an organisation")
    contact: Text | None = Field(description="where to ask about it, such as an e-mail address")
    licence: Text | None = Field(
        description="licence of the weights: an identifier of the Hugging Face hub, such as cc-by-nc-4.0, or other"
    )
    intended_use: Text | None = Field(description="what the model is for, and for whom")
    data_terms: Text | None = Field(description="terms under which the data were given and may be used")


class RegisterParams(Section):
    gate: GateMode = Field(description="off: no criteria; report: they are only recorded; enforce: all must pass")
    min_dice: float = Field(ge=0, le=1, description="minimum lower bound of the mean Dice")
    prior_margin: float = Field(
        ge=0, le=1, description="minimum lower bound of the Dice gain over the mean training mask"
    )
    min_worst_subject: float = Field(ge=0, le=1, description="minimum mean Dice of the worst subject")
    champion_margin: float = Field(
        ge=0, le=1, description="non-inferiority margin: how far below the champion's Dice the lower bound may lie"
    )


class DeliveryParams(Section):
    uri: str = Field(
        min_length=1, description="s3://bucket/prefix or a folder for bundles and the pointer current.json"
    )

    _no_other_scheme = field_validator("uri")(_s3_or_folder)


class PredictParams(Section):
    input: str | None = Field(description="s3://bucket/prefix, a folder or a zip of frames to predict; null: none")
    output: str = Field(min_length=1, description="s3://bucket/prefix or a folder for masks and tables")
    drift: float = Field(
        gt=0, description="PSI above which intensity has drifted; with few subjects the other limits are higher"
    )

    _no_other_scheme = field_validator("input", "output")(_s3_or_folder)


class Params(Section):
    """All of `params.yaml`."""

    phantom: PhantomParams
    data: DataParams
    split: SplitParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    card: CardParams
    registration: RegisterParams = Field(alias="register")  # `register` is a method of pydantic's base class
    delivery: DeliveryParams
    predict: PredictParams

    @model_validator(mode="after")
    def _test_frames_exist(self) -> Self:
        if self.evaluate.split == "test" and not self.split.has_test:
            raise ValueError("evaluate.split is test, but split leaves no frames for testing")
        return self

    @model_validator(mode="after")
    def _validation_frames_exist(self) -> Self:
        if self.split.has_validation:
            return self
        needs = {
            "evaluate.split: validation scores them": self.evaluate.split == "validation",
            "model.threshold: validation chooses the threshold on them": self.model.threshold == "validation",
            "train.keep: best chooses the epoch by them": self.train.keep == "best",
            f"train.patience: {self.train.patience} waits for them to get better": self.train.patience is not None,
        }
        if wanted := [what for what, does in needs.items() if does]:
            raise ValueError(
                f"split leaves no frames for validation, but {', and '.join(wanted)}; set split.validation (by fold: "
                "split.validation_fold), or change that"
            )
        return self

    @model_validator(mode="after")
    def _threshold_not_of_the_scored(self) -> Self:
        if self.evaluate.split == "validation" and self.model.threshold == "validation":
            raise ValueError(
                "model.threshold: validation would choose the threshold on the same frames that evaluate.split: "
                "validation scores; set evaluate.split: test, or set the threshold to a number"
            )
        return self


def load(path: Path = paths.PARAMS) -> Params:
    """Reads and checks a params file.

    Raises:
        NervesegError: the file is missing, not YAML, or invalid; lists every wrong key.
    """
    return parse(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        NervesegError: it is missing, not YAML, or not a mapping.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))  # YAML 1.2, as DVC reads it
    except FileNotFoundError:
        if path == paths.PARAMS:
            paths.require_root()
        raise NervesegError(f"{path} is missing: run from the root of the repository.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise NervesegError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise NervesegError(
            f"{path} must contain sections (phantom, data, ...), but is of type {type(content).__name__}."
        )
    return content


def parse(content: dict[str, Any], name: str) -> Params:
    """Checks the content of a params file called `name`.

    Raises:
        NervesegError: lists every wrong key, with the most similar known name for an unknown one.
    """
    return validate(Params, content, name, known_names())


def validate(kind: type[Checked], content: Any, name: str, known: Iterable[str]) -> Checked:
    """Checks the content of a file called `name`, as `parse` does. `known`: the names that it may have."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"  {line}" for line in _lines(error, known)]
        if kind is Params and any(detail["type"] == "missing" for detail in error.errors()):
            lines.append("The params.yaml of this version has every key, and docs/reference.md says what each means.")
        raise NervesegError("\n".join([f"{name} is invalid:", *lines])) from None


def faults(content: dict[str, Any]) -> list[str]:
    """What is wrong with the content of a params file, a line for each wrong key; empty: nothing."""
    try:
        Params.model_validate(content)
    except ValidationError as error:
        return _lines(error, known_names())
    return []


def digest(given: Params) -> str:
    """Eight hexadecimal digits that tell apart what is trained and how it is scored."""
    content = given.model_dump(by_alias=True, include={"phantom", "data", "split", "model", "train", "evaluate"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested sections to `{"train.epochs": 5, ...}`, in order."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def replaced(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested sections with some values replaced or added, by dotted names such as `train.epochs`."""
    changed = {name: dict(section) for name, section in content.items()}
    for name, value in values.items():
        section, _, key = name.partition(".")
        changed.setdefault(section, {})[key] = value
    return changed


def known_names() -> list[str]:
    """All known names, dotted: the sections and their keys."""
    names = schemas()
    return [*dict.fromkeys(name.partition(".")[0] for name in names), *names]


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema of each parameter by its dotted name: type, bounds and description."""
    schema = Params.model_json_schema()
    sections = {name: schema["$defs"][part["$ref"].rpartition("/")[2]] for name, part in schema["properties"].items()}
    return {
        f"{name}.{key}": value for name, section in sections.items() for key, value in section["properties"].items()
    }


def _lines(error: ValidationError, known: Iterable[str]) -> list[str]:
    return [_explain(detail, known) for detail in error.errors()]


def _explain(detail: ErrorDetails, known: Iterable[str]) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{name}: unknown key{nearest(name, known)}"
    if detail["type"] == "missing":
        return f"{name}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):  # a check across keys: its message names them
        return f"{name}: {message}" if name else message
    if detail["type"] == _UNQUOTED:
        return f"{name}: {message}"
    return f"{name}: {message}, not {detail['input']!r}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean a.b?` for the known name most similar to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""
