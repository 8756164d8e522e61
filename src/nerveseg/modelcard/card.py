"""The model card: the model, its intended use, its metrics and its limits.

One record, `reports/card.json`, and three texts made from it alone: Markdown with the front matter of the Hugging Face
hub, the metadata of a MONAI bundle, and the short description of a registered version.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError, field_validator

from nerveseg import legacy
from nerveseg.errors import NervesegError
from nerveseg.evaluation import figures
from nerveseg.evaluation.results import Metrics
from nerveseg.files import read_json, replacing, write_json
from nerveseg.model.spec import ModelSpec
from nerveseg.modelcard import provenance
from nerveseg.modelcard.provenance import Link, Origins, Record
from nerveseg.params import CardParams

_SCHEMA = (  # https://docs.monai.io/en/stable/mb_specification.html
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_FEW_SUBJECTS = 50  # with fewer, bootstrap intervals are too narrow: docs/explanation.md
_BASELINE = "baseline."  # with it begin the keys of baselines
_NETWORK_PACKAGES = ("opencv-python-headless", "safetensors", "segmentation-models-pytorch")
_MONAI_ABSENT = "not installed"  # neither training nor scoring needs MONAI, but the schema demands a text

OUT_OF_SCOPE = (
    "Diagnosis, guiding a needle without a person, and images other than B-mode ultrasound frames. It is not a medical "
    "device."
)
_STATED = {  # by the owner: field of the card to parameter
    "owner": "card.owner",
    "contact": "card.contact",
    "license": "card.licence",
    "intended_use": "card.intended_use",
    "data_terms": "card.data_terms",
}
_NOT_STATED = "not stated"


class Figure(Record):
    """A figure of metrics.json, as the registry in `figures` describes it.

    Attributes:
        key: its dotted key there.
        name: its title.
        value: None if it is undefined.
        interval: its 95 % interval, low and high; None if it has none.
    """

    key: str
    name: str
    value: float | None
    interval: tuple[float, float] | None

    @field_validator("key")
    @classmethod
    def _current_name(cls, key: str) -> str:
        return legacy.current(key)


class Split(Record):
    """One split of the dataset: frames, subjects, frames with a mask, and frames if near-duplicates count once."""

    name: str
    frames: int
    subjects: int
    with_mask: int
    distinct: int


class Scored(Record):
    """What was scored: which split, how many frames and subjects, by which rule for empty masks.

    Attributes:
        subjects_known: if not, each frame counts as a subject.
        without_outline: frames with an empty mask, on which HD95 is undefined.
    """

    split: str
    frames: int
    subjects: int
    subjects_known: bool = True
    without_outline: int
    empty_rule: str

    @property
    def of_subjects(self) -> str:
        """`of 4 subjects`, or that they are unknown."""
        return f"of {self.subjects} subjects" if self.subjects_known else "of unknown subjects"


class Card(Record):
    """What `card.json` holds.

    Attributes:
        version: of the package nerveseg.
        owner, contact, license, intended_use, data_terms: what the section `card` of params.yaml states of the model,
            `license` the identifier of the Hugging Face hub; None: not stated.
        network: as in `model.json`.
        dataset: the address of the dataset zip; its hash is in `origins`.
        shared_subjects: subjects with frames in more than one split.
        packages: versions of the packages that made it, by name; None: not installed.
        origins: the data that the links of `provenance` hash.
    """

    version: str
    owner: str | None = None  # cards of older versions lack it, the contact and the terms
    contact: str | None = None
    license: str | None
    intended_use: str | None
    data_terms: str | None = None
    out_of_scope: str
    network: ModelSpec
    dataset: str
    splits: list[Split]
    shared_subjects: int
    scored: Scored
    figures: list[Figure]
    baselines: list[Figure]
    limits: list[str]
    packages: dict[str, str | None]
    origins: Origins
    provenance: list[Link]

    @property
    def title(self) -> str:
        return f"nerve-segmentation: {self.network.architecture} on {self.network.encoder}"

    @property
    def unstated(self) -> list[str]:
        """The parameters that its owner left empty."""
        return [parameter for field, parameter in _STATED.items() if getattr(self, field) is None]

    def figure(self, key: str) -> Figure:
        """The figure or baseline of that name in metrics.json."""
        return next(one for one in (*self.figures, *self.baselines) if one.key == key)


def record(
    network: ModelSpec,
    splits: pd.DataFrame,
    shared_subjects: int,
    metrics: Metrics,
    dataset: str,
    origins: Origins,
    stated: CardParams,
    set_aside: str,
) -> Card:
    """The card of an evaluated model.

    Args:
        splits: as `frame_store.counts` returns it.
        shared_subjects: subjects with frames in more than one split.
        dataset: the address of the dataset zip.
        stated: what its owner states.
        set_aside: how many frames were set aside because of errors, as `FrameStore.set_aside` says it.
    """
    sides = sorted(
        (Split(name=str(name), **{key: int(count) for key, count in row.items()}) for name, row in splits.iterrows()),
        key=lambda side: ("train", "validation", "test").index(side.name),
    )
    test = metrics.test
    scored = Scored(
        split=test.split,
        frames=test.frames,
        subjects=test.subjects,
        subjects_known=test.subjects_known,
        without_outline=test.without_outline,
        empty_rule=metrics.empty_rule,
    )
    shown = [_figure(metrics, figure) for figure in metrics.shown("card")]
    measured = [one for one in shown if not one.key.startswith(_BASELINE)]
    return Card(
        version=version("nerveseg"),
        owner=stated.owner,
        contact=stated.contact,
        license=stated.licence,
        intended_use=stated.intended_use,
        data_terms=stated.data_terms,
        out_of_scope=OUT_OF_SCOPE,
        network=network,
        dataset=dataset,
        splits=sides,
        shared_subjects=shared_subjects,
        scored=scored,
        figures=measured,
        baselines=[one for one in shown if one.key.startswith(_BASELINE)],
        limits=_limits(network, sides, shared_subjects, scored, measured, set_aside),
        packages={name: _installed(name) for name in ("monai", "numpy", "torch", *_NETWORK_PACKAGES)},
        origins=origins,
        provenance=provenance.chain(origins),
    )


def read(path: Path) -> Card:
    """Reads `card.json`. Raises NervesegError if it is missing or not a model card."""
    try:
        return Card.model_validate(read_json(path))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) or "all of it" for detail in error.errors()[:5])
        raise NervesegError(f"{path.name} is not a model card ({wrong} does not fit).") from None


def write(card: Card, record: Path, text: Path, metadata: Path) -> None:
    """Writes the card as JSON, as Markdown and as the metadata of a MONAI bundle."""
    write_json(record, card.model_dump(mode="json"))
    with replacing(text) as beside:
        beside.write_text(markdown(card), encoding="utf-8")
    write_json(metadata, bundle_metadata(card))


def markdown(card: Card) -> str:
    """The card as Markdown, with the front matter that the Hugging Face hub reads."""
    scored, network = card.scored, card.network
    lines = [
        "---",
        _front_matter(card),
        "---",
        "",
        f"# {card.title}",
        "",
        "## Intended use",
        "",
        card.intended_use or f"{_NOT_STATED.capitalize()}.",
        "",
        f"Out of scope: {card.out_of_scope[0].lower()}{card.out_of_scope[1:]}",
        "",
        "## Owner and licence",
        "",
        f"- Owner: {card.owner or _NOT_STATED}",
        f"- Contact: {card.contact or _NOT_STATED}",
        f"- Licence of the weights: {card.license or _NOT_STATED}",
        f"- Terms of the data: {card.data_terms or _NOT_STATED}",
        "",
        "## Data",
        "",
        f"{card.dataset}, SHA-256 `{card.origins.dataset}`.",
        "",
        "| split | frames | distinct | subjects | without a nerve |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {one.name} | {one.frames} | {one.distinct} | {one.subjects if scored.subjects_known else 'unknown'} | "
            f"{one.frames - one.with_mask} |"
            for one in card.splits
        ),
        "",
        f"{_shared(card)} Near-duplicate frames count as one distinct frame.",
        "",
        "## Metrics",
        "",
        f"On {scored.frames} {scored.split} frames {scored.of_subjects}, at the frames' own size. "
        f"Empty masks: {scored.empty_rule}.",
        "",
        "| | value | 95 % interval |",
        "|---|---:|---:|",
        *map(_row, card.figures),
        "",
        "Baselines, which need no network:",
        "",
        "| | value | 95 % interval |",
        "|---|---:|---:|",
        *map(_row, card.baselines),
        "",
        f"{figures.intervals(scored.subjects_known)}. HD95 is undefined on a frame where either mask is empty, NSD "
        "where both are; NSD is 0 where one is.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card.limits),
        "",
        "## Input and output",
        "",
        f"A grey 8-bit frame, resized to height {network.height} and width {network.width} (area interpolation to "
        "shrink, linear to enlarge). `model.onnx` takes `frames`, uint8 (N, height, width), and gives `probability`, "
        "float32 of that shape. Once resized linearly to the frame's size, a probability of at least "
        f"{network.threshold:g} counts as nerve.{_averages(network)}",
        "",
        "## Provenance",
        "",
        "| link | what | SHA-256 |",
        "|---|---|---|",
        *(f"| {link.link} | {link.what} | `{link.sha256}` |" for link in card.provenance),
        "",
        f"The last chain value is `{card.provenance[-1].chain}`; `card.json` holds the data that the links hash. The "
        "chain is not signed: it detects accidents and partial tampering, not someone who can rewrite all of it.",
    ]
    return "\n".join(lines) + "\n"


def bundle_metadata(card: Card) -> dict[str, Any]:
    """The metadata.json of a MONAI bundle, for the network as `model.onnx` holds it: without a channel axis.

    https://docs.monai.io/en/stable/mb_specification.html
    """
    network = card.network
    shape = [network.height, network.width]
    packages = {name: found or _MONAI_ABSENT for name, found in card.packages.items()}
    return {
        "schema": _SCHEMA,
        "version": card.version,
        "changelog": {card.version: description(card)},
        "monai_version": packages["monai"],
        "pytorch_version": packages["torch"],
        "numpy_version": packages["numpy"],
        "required_packages_version": {name: packages[name] for name in _NETWORK_PACKAGES},
        "name": card.title,
        "task": "Segmentation of a nerve in an ultrasound frame",
        "description": f"A {network.architecture} with the encoder {network.encoder}. {' '.join(card.limits)}",
        "authors": card.owner or _NOT_STATED,
        "copyright": f"{card.owner or _NOT_STATED}; licence: {card.license or _NOT_STATED}",
        "intended_use": f"{(card.intended_use or _NOT_STATED).rstrip('.')}. Out of scope: {card.out_of_scope}",
        "data_source": f"{card.dataset}, SHA-256 {card.origins.dataset}",
        "data_type": "zip of 8-bit grey frames and masks",
        "image_classes": "grey levels of a B-mode ultrasound frame, 0 to 255",
        "label_classes": "1 is nerve, 0 is everything else",
        "pred_classes": f"probability of nerve; nerve from {network.threshold:g} on",
        "eval_metrics": {
            key: found for one in (*card.figures, *card.baselines) for key, found in _with_interval(one).items()
        },
        "references": ["Ronneberger, Fischer, Brox. U-Net. MICCAI 2015. https://arxiv.org/abs/1505.04597"]
        if network.architecture.lower().startswith("unet")
        else [],
        "network_data_format": {
            "inputs": {
                "frames": {
                    **_tensor("image", "magnitude", shape, "uint8", [0, 255]),
                    "channel_def": {"0": "grey level"},
                }
            },
            "outputs": {
                "probability": {
                    **_tensor("probabilities", "segmentation", shape, "float32", [0, 1]),
                    "channel_def": {"0": "nerve"},
                }
            },
        },
    }


def description(card: Card) -> str:
    """The card in a few lines of Markdown: metrics with intervals, worst subject, baselines, the main limit."""
    scored = card.scored
    dice, iou = card.figure("test.dice"), card.figure("test.iou")
    by_subject, worst = card.figure("test.dice_by_subject"), card.figure("test.worst_subject")
    return "\n".join(
        [
            f"Dice {_short(dice)}, IoU {_short(iou)} on {scored.frames} {scored.split} frames {scored.of_subjects}; "
            f"in brackets {figures.intervals(scored.subjects_known)}.",
            "",
            f"- {card.title}",
            f"- {by_subject.name}: {_short(by_subject)}; {worst.name}: {_short(worst)}",
            f"- {'; '.join(f'{one.name}: {_short(one)}' for one in card.baselines)}",
            f"- {card.limits[0]}",
        ]
    )


def _shared(card: Card) -> str:
    if not card.scored.subjects_known:
        return "The subjects are unknown, and so is whether one is in more than one of them."
    number = card.shared_subjects
    return f"{number or 'No'} {'subject is' if number < 2 else 'subjects are'} in more than one of them."


def _row(one: Figure) -> str:
    return f"| {one.name} | {figures.number(one.value)} | {figures.interval(one.interval)} |"


def _short(one: Figure) -> str:
    return figures.with_interval(one.value, one.interval, 3)


def _with_interval(one: Figure) -> dict[str, Any]:
    return {one.key: one.value, **({f"{one.key}_ci": list(one.interval)} if one.interval else {})}


def _figure(metrics: Metrics, figure: figures.Figure) -> Figure:
    found = metrics.measured(figure.key)
    return Figure(key=figure.key, name=metrics.title(figure), value=found.value, interval=found.interval)


def _limits(
    network: ModelSpec,
    sides: list[Split],
    shared_subjects: int,
    scored: Scored,
    measured: list[Figure],
    set_aside: str,
) -> list[str]:
    """The limits of the model and its metrics, the most serious first."""
    training = next(one for one in sides if one.name == "train")
    worst = next(one for one in measured if one.key == "test.worst_subject")
    limits = []
    if network.members > 1:
        limits.append(
            f"An ensemble of {network.members} networks of a cross-validation, without unseen frames of its own: some "
            "of them were trained on each frame. The metrics are those of its members, each on subjects that were not "
            "in its training; those of the ensemble, which may be better, are unknown."
        )
    if not scored.subjects_known:
        limits.append(
            "The subjects of the frames are unknown: a person may have frames both in training and among the scored "
            "ones, which makes the metrics too good, and intervals that resample frames are too narrow."
        )
    if training.with_mask == training.frames:
        limits.append("Trained on frames with a nerve only: it always predicts one, even if there is none.")
    if shared_subjects:
        limits.append(f"{shared_subjects} subjects are in more than one split: the metrics overestimate the model.")
    if scored.split == "validation":
        kept = (
            "test frames exist and were not scored"
            if "test" in {one.name for one in sides}
            else "none were held out for testing"
        )
        limits.append(f"Scored on validation frames; {kept}.")
    if set_aside:
        limits.append(
            f"Frames set aside because of errors in the dataset: {set_aside}. How the model does on frames like them "
            "is unknown."
        )
    few = ", too few: the intervals are too narrow" if scored.subjects < _FEW_SUBJECTS else ""
    limits.append(
        f"Scored on {f'{scored.subjects} subjects{few}' if scored.subjects_known else 'frames of unknown subjects'}. "
        "The metrics say little about other scanners, settings and body parts."
    )
    if not scored.subjects_known:
        limits.append("The worst subject is unknown, since the subjects are.")
    elif worst.value is None:
        limits.append("No subject has enough frames to be ranked as the worst.")
    else:
        limits.append(f"{worst.name}: {figures.number(worst.value)}. A new subject may score no better.")
    limits.append(
        f"Frames are resized to {network.height}x{network.width} pixels for the network, so fine borders are "
        "interpolated."
    )
    return limits


def _front_matter(card: Card) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # half a second

    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Nerve segmentation",
            dataset_type="custom",  # not on the hub
            dataset_name=card.dataset.rpartition("/")[2],
            dataset_split=card.scored.split,
            metric_type=one.key.removeprefix("test.").replace(".", "_"),
            metric_name=one.name,
            metric_value=one.value,
            metric_args={"interval_95": list(one.interval)} if one.interval else None,
        )
        for one in card.figures
        if one.value is not None
    ]
    data = ModelCardData(
        license=card.license,
        library_name="segmentation-models-pytorch",
        pipeline_tag="image-segmentation",
        tags=["ultrasound", "nerve", "medical", "semantic-segmentation"],
        metrics=[result.metric_type for result in results],
        model_name=card.title,
        eval_results=results,
    )
    return data.to_yaml()


def _averages(network: ModelSpec) -> str:
    over = [f"{network.members} networks"] * (network.members > 1)
    if network.flips:
        flips = "flips" if len(network.flips) > 1 else f"{network.flips[0]} flip"
        over.append(f"the frame and its {flips}")
    return f" It is the mean over {' and over '.join(over)}." if over else ""


def _tensor(kind: str, form: str, shape: list[int], dtype: str, values: list[int]) -> dict[str, Any]:
    return {
        "type": kind,
        "format": form,
        "modality": "US",
        "num_channels": 1,
        "spatial_shape": shape,
        "dtype": dtype,
        "value_range": values,
        "is_patch_data": False,
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
