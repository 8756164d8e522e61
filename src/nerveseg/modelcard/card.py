"""The model card: what the model is, what it is for, how it was measured, and where it ends.

One record, `reports/card.json`, and what is made of nothing but it: Markdown with the front matter of the Hugging Face
hub, the metadata of a MONAI bundle, and the few lines that describe a version.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from nerveseg import paths
from nerveseg.errors import NervesegError
from nerveseg.evaluation import selective
from nerveseg.files import read_json, replacing, write_json
from nerveseg.model.spec import ModelSpec
from nerveseg.modelcard import provenance
from nerveseg.modelcard.provenance import Link, Origins, Record

_SCHEMA = (  # https://docs.monai.io/en/stable/mb_specification.html
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_FIGURES = {  # by their names in metrics.json
    "test.dice": "Dice, mean over frames",
    "test.dice_by_subject": "Dice, mean over subjects",
    "test.worst_subject": "Dice of the worst subject",
    "test.dice_below_half": "share of frames with a Dice below 0.5",
    "test.iou": "IoU, mean over frames",
    "test.nsd": "NSD",
    "test.hd95": "HD95, pixels",
    "test.presence.recall": "frames with a nerve, found",
    "test.presence.specificity": "frames without a nerve, left empty",
    "test.ece": "expected calibration error",
    "test.selective_gain": f"Dice gained by leaving the most atypical {1 - selective.KEPT:.0%} out",
}
_BASELINES = {
    "baseline.empty.dice": "Dice of nothing predicted",
    "baseline.prior.dice": "Dice of the mean training mask",
    "baseline.prior_half.dice": "Dice of the mean training mask, cut at 0.5",
    "baseline.ellipse.dice": "Dice of the prediction's ellipse",
}
_FEW_SUBJECTS = 50  # below, a bootstrap's intervals are too narrow: docs/explanation.md
_NETWORK_PACKAGES = ("opencv-python-headless", "safetensors", "segmentation-models-pytorch")
_MONAI_ABSENT = "not installed"  # it is needed neither to train nor to score; the schema wants a text

OF_THE_WORST = "that of the worst subject is of its own mean, by resampling its clusters of frames, not of who is worst"
INTENDED_USE = (
    "Outlines a nerve in an ultrasound frame, for research and for building software that is validated on its own. It "
    "is no medical device."
)
OUT_OF_SCOPE = "Diagnosis, guiding a needle without a person, and images that are no B-mode ultrasound frames."


class Figure(Record):
    """A figure of metrics.json.

    Attributes:
        key: its name there, dotted.
        name: what people call it.
        value: None where it is undefined.
        interval: that of 95 %, low and high; None where there is none.
    """

    key: str
    name: str
    value: float | None
    interval: tuple[float, float] | None


class Split(Record):
    """One side of the dataset: numbers of frames, subjects, and frames with a mask; distinct: near-identical once."""

    name: str
    frames: int
    subjects: int
    with_mask: int
    distinct: int


class Scored(Record):
    """What was scored: which split, how many frames and subjects, by whose rule for empty masks.

    Attributes:
        without_outline: frames with an empty mask, which HD95 leaves out.
    """

    split: str
    frames: int
    subjects: int
    without_outline: int
    empty_rule: str


class Card(Record):
    """What `card.json` holds.

    Attributes:
        version: of the package nerveseg.
        license: an identifier of the Hugging Face hub, "other" for what it has none for.
        network: as in `model.json`.
        dataset: where the dataset zip came from; its hash is in `origins`.
        shared_subjects: people who are on more than one side of the split.
        packages: versions of the packages that it was made with, by name; None: not installed.
        origins: what the links of `provenance` are hashes of.
    """

    version: str
    license: str
    intended_use: str
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

    def figure(self, key: str) -> Figure:
        """The figure or baseline of that name in metrics.json."""
        return next(one for one in (*self.figures, *self.baselines) if one.key == key)


def record(
    network: ModelSpec,
    splits: pd.DataFrame,
    shared_subjects: int,
    metrics: dict[str, Any],
    dataset: str,
    origins: Origins,
) -> Card:
    """The record of an evaluated model.

    Args:
        splits: as `frame_store.counts` makes it.
        shared_subjects: people who are on more than one side of the split.
        metrics: the content of `reports/metrics.json`.
        dataset: the address that the dataset zip came from.

    Raises:
        NervesegError: the repository's LICENSE is missing.
    """
    sides = sorted(
        (Split(name=str(name), **{key: int(count) for key, count in row.items()}) for name, row in splits.iterrows()),
        key=lambda side: ("train", "validation", "test").index(side.name),
    )
    test = metrics["test"]
    scored = Scored(empty_rule=metrics["empty_rule"], **{key: test[key] for key in Scored.model_fields if key in test})
    figures = _figures(metrics, _FIGURES)
    return Card(
        version=version("nerveseg"),
        license=_license(paths.LICENSE),
        intended_use=INTENDED_USE,
        out_of_scope=OUT_OF_SCOPE,
        network=network,
        dataset=dataset,
        splits=sides,
        shared_subjects=shared_subjects,
        scored=scored,
        figures=figures,
        baselines=_figures(metrics, _BASELINES),
        limits=_limits(network, sides, shared_subjects, scored, figures),
        packages={name: _installed(name) for name in ("monai", "numpy", "torch", *_NETWORK_PACKAGES)},
        origins=origins,
        provenance=provenance.chain(origins),
    )


def read(path: Path) -> Card:
    """Reads `card.json`. Raises NervesegError where it is missing or is no such record."""
    try:
        return Card.model_validate(read_json(path))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, detail["loc"])) or "all of it" for detail in error.errors()[:5])
        raise NervesegError(f"{path.name} is no model card ({wrong} does not fit).") from None


def write(card: Card, record: Path, text: Path, metadata: Path) -> None:
    """Writes the record as JSON, and what is made of it: Markdown, and the metadata of a MONAI bundle."""
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
        card.intended_use,
        "",
        f"Out of scope: {card.out_of_scope[0].lower()}{card.out_of_scope[1:]}",
        "",
        "## Data",
        "",
        f"{card.dataset}, SHA-256 `{card.origins.dataset}`.",
        "",
        "| split | frames | distinct | subjects | without a nerve |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {one.name} | {one.frames} | {one.distinct} | {one.subjects} | {one.frames - one.with_mask} |"
            for one in card.splits
        ),
        "",
        f"{card.shared_subjects or 'No'} {'person is' if card.shared_subjects < 2 else 'people are'} in more than one "
        "of them. Near-identical frames count once as distinct.",
        "",
        "## Figures",
        "",
        f"On {scored.frames} {scored.split} frames of {scored.subjects} subjects, at the frames' own size. "
        f"Empty masks: {scored.empty_rule}.",
        "",
        "| | value | 95 % interval |",
        "|---|---:|---:|",
        *(_row(one.name, one.value, one.interval) for one in card.figures),
        "",
        "Beside it, what the task gives away:",
        "",
        "| | value | 95 % interval |",
        "|---|---:|---:|",
        *(_row(one.name, one.value, one.interval) for one in card.baselines),
        "",
        f"Intervals by resampling subjects; {OF_THE_WORST}. HD95 is a mean over the frames on which both masks have an "
        f"outline, {scored.frames - scored.without_outline} of {scored.frames}; NSD is 0 where one has, and leaves out "
        "where none has.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card.limits),
        "",
        "## Input and output",
        "",
        f"A grey 8-bit frame, resized to height {network.height} and width {network.width} (by areas where it shrinks, "
        "linearly where it grows). `model.onnx` takes `frames`, uint8 (N, height, width), and gives `probability`, "
        f"float32 of that shape; a pixel is nerve from {network.threshold:g} on, after resizing back "
        f"linearly.{_averages(network)}",
        "",
        "## Provenance",
        "",
        "| link | what | SHA-256 |",
        "|---|---|---|",
        *(f"| {link.link} | {link.what} | `{link.sha256}` |" for link in card.provenance),
        "",
        f"The chain ends with `{card.provenance[-1].chain}`; `card.json` holds what the hashes are of. It is not "
        "signed: it detects accidents and partial tampering, not someone who can rewrite all of it.",
    ]
    return "\n".join(lines) + "\n"


def bundle_metadata(card: Card) -> dict[str, Any]:
    """The metadata.json of a MONAI bundle; the network as `model.onnx` has it, which has no axis of channels.

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
        "authors": "the authors of nerveseg",
        "copyright": f"the authors of nerveseg; licence: {card.license}",
        "intended_use": f"{card.intended_use} Out of scope: {card.out_of_scope}",
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
    """The card in a few lines of Markdown: figures with intervals, worst subject, baselines, the main limit."""
    scored = card.scored
    dice, iou = card.figure("test.dice"), card.figure("test.iou")
    by_subject, worst = card.figure("test.dice_by_subject"), card.figure("test.worst_subject")
    return "\n".join(
        [
            f"Dice {_short(dice)}, IoU {_short(iou)} on {scored.frames} {scored.split} frames of {scored.subjects} "
            f"subjects; in brackets 95 % by resampling subjects; {OF_THE_WORST}.",
            "",
            f"- {card.title}",
            f"- {by_subject.name}: {_short(by_subject)}; {worst.name}: {_short(worst)}",
            f"- {'; '.join(f'{one.name}: {_short(one)}' for one in card.baselines)}",
            f"- {card.limits[0]}",
        ]
    )


def markdown_row(name: str, figures: dict[str, Any], key: str) -> str:
    """A row of a table: a figure of a section of metrics.json, called `name`, and its interval."""
    return _row(name, figures[key], figures[f"{key}_ci"])


def figure(value: float | None) -> str:
    """A figure of metrics.json as people read it."""
    return "undefined" if value is None else f"{value:.4f}"


def defined_on(test: dict[str, Any], key: str) -> str:
    """`, on N of M frames` where some have no NSD, HD95 or centroid error; nothing where all have.

    Args:
        test: the section of metrics.json.
        key: nsd, hd95 or centroid_error.
    """
    left_out = test["presence"]["true_negatives"] if key == "nsd" else test["without_outline"]
    return f", on {test['frames'] - left_out} of {test['frames']} frames" if left_out else ""


def interval(bounds: list[float] | tuple[float, float] | None) -> str:
    """An interval of metrics.json as people read it; nothing where there is none."""
    return "" if bounds is None else " to ".join(f"{bound:.4f}" for bound in bounds)


def _row(name: str, value: float | None, bounds: list[float] | tuple[float, float] | None) -> str:
    return f"| {name} | {figure(value)} | {interval(bounds)} |"


def _short(one: Figure) -> str:
    if one.value is None:
        return "undefined"
    return f"{one.value:.3f}" + (f" ({one.interval[0]:.3f} to {one.interval[1]:.3f})" if one.interval else "")


def _with_interval(one: Figure) -> dict[str, Any]:
    return {one.key: one.value, **({f"{one.key}_ci": list(one.interval)} if one.interval else {})}


def _figures(metrics: dict[str, Any], names: dict[str, str]) -> list[Figure]:
    found = []
    for key, name in names.items():
        section = metrics
        *sections, last = key.split(".")
        for part in sections:
            section = section[part]
        if key == "test.worst_subject" and section["worst_subject_name"] is not None:
            name = f"{name}, {section['worst_subject_name']}"
        found.append(Figure(key=key, name=name, value=section[last], interval=section.get(f"{last}_ci")))
    return found


def _limits(
    network: ModelSpec, sides: list[Split], shared_subjects: int, scored: Scored, figures: list[Figure]
) -> list[str]:
    """Where the model and its figures end, the heaviest first."""
    training = next(one for one in sides if one.name == "train")
    worst = next(one for one in figures if one.key == "test.worst_subject")
    limits = []
    if network.members > 1:
        limits.append(
            f"An ensemble of {network.members} networks of a cross-validation, without unseen frames of its own: each "
            "frame was trained on by some of them. The figures are those of its members, each on subjects that it had "
            "not seen; its own, which may be better, are unknown."
        )
    if training.with_mask == training.frames:
        limits.append("Trained on frames with a nerve only: it always predicts one, also where there is none.")
    if shared_subjects:
        limits.append(f"{shared_subjects} subjects are on both sides of the split: the figures flatter it.")
    if scored.split == "validation":
        kept = (
            "test frames exist and were not scored"
            if "test" in {one.name for one in sides}
            else "none were kept aside for testing"
        )
        limits.append(f"Scored on validation frames; {kept}.")
    few = ", fewer than intervals by resampling need: they are too narrow" if scored.subjects < _FEW_SUBJECTS else ""
    limits.append(
        f"Scored on {scored.subjects} subjects{few}. The figures say little of other scanners, settings and body parts."
    )
    if worst.value is None:
        limits.append("No subject has enough frames to be called the worst.")
    else:
        limits.append(f"{worst.name}: {worst.value:.4f}. A new person may fare no better.")
    limits.append(
        f"Frames are squashed to {network.height}x{network.width} pixels before the network sees them, so that fine "
        "borders are interpolated."
    )
    return limits


def _front_matter(card: Card) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # half a second

    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Nerve segmentation",
            dataset_type="custom",  # it is not on the hub
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
    over = [f"{network.members} networks"] * (network.members > 1) + ["the frame and its flips"] * network.flips
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


def _license(path: Path) -> str:
    """The hub's identifier of the licence in a file."""
    try:
        text = " ".join(path.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        raise NervesegError(f"{path} is missing: run from the root of the repository.") from None
    return "apache-2.0" if text.startswith("Apache License Version 2.0") else "other"
