"""The model card: what the model is, what it is for, how it was measured, and where it ends."""

from typing import Any

from nerveseg.data.packed import Packed
from nerveseg.model.spec import ModelSpec


def render(spec: ModelSpec, packed: Packed, metrics: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        metrics: the content of `reports/metrics.json`.
    """
    test, baseline = metrics["test"], metrics["baseline"]
    index = packed.index
    rows = [
        f"| {split} | {len(part)} | {part['subject'].nunique()} | {int((part['mask_area'] == 0).sum())} |"
        for split, part in index.groupby("split", sort=False)
    ]
    training = index[index["split"] == "train"]
    limits = [
        "Figures are means over the frames of few people; they say little of other scanners, settings and body parts.",
        f"Frames are squashed to {spec.height}x{spec.width} pixels before the network sees them, so that fine "
        "borders are interpolated.",
    ]
    if (training["mask_area"] > 0).all():
        limits.insert(
            0, "**Trained on frames with a nerve only: it will always look for one, also where there is none.**"
        )
    lines = [
        f"# nerve-segmentation: {spec.architecture} on {spec.encoder}",
        "",
        "## Intended use",
        "",
        "Outlines a nerve in an ultrasound frame, for research and for building software that is validated on its own. "
        "It is no medical device.",
        "",
        "Out of scope: diagnosis, guiding a needle without a person, and images that are no B-mode ultrasound frames.",
        "",
        "## Data",
        "",
        "| split | frames | subjects | without a nerve |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        "No person is in two splits unless the dataset's own fold column says so (`split.by: fold`).",
        "",
        "## Figures",
        "",
        f"On {test['frames']} {test['split']} frames of {test['subjects']} subjects, at the frames' own size. "
        f"Empty masks: {metrics['empty_rule']}.",
        "",
        "| | value | 95 % interval |",
        "|---|---:|---:|",
        *(
            markdown_row(name, figures, key)
            for name, figures, key in (
                ("Dice, mean over frames", test, "dice"),
                ("Dice, mean over subjects", test, "dice_by_subject"),
                ("IoU, mean over frames", test, "iou"),
                ("NSD", test, "nsd"),
                ("HD95, pixels", test, "hd95"),
                ("Dice of the mean training mask", baseline["prior"], "dice"),
                ("Dice of nothing predicted", baseline["empty"], "dice"),
            )
        ),
        "",
        "The intervals are those of 95 % by resampling subjects. NSD and HD95 are means over the frames on which both "
        f"masks have an outline, {test['frames'] - test['without_outline']} of {test['frames']}.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits),
        "",
        "## Input and output",
        "",
        f"A grey 8-bit frame, resized to height {spec.height} and width {spec.width} (by areas where it shrinks, "
        "linearly where it grows). `model.onnx` takes `frames`, uint8 (N, height, width), and gives `probability`, "
        f"float32 of that shape; a pixel is nerve from {spec.threshold:g} on, after resizing back linearly.",
    ]
    return "\n".join(lines) + "\n"


def markdown_row(name: str, figures: dict, key: str) -> str:
    """A row of a table: a figure of a section of metrics.json, called `name`, and its interval."""
    return f"| {name} | {figure(figures[key])} | {interval(figures[f'{key}_ci'])} |"


def figure(value: float | None) -> str:
    """A figure of metrics.json as people read it."""
    return "undefined" if value is None else f"{value:.4f}"


def interval(bounds: list[float] | None) -> str:
    """An interval of metrics.json as people read it; nothing where there is none."""
    return "" if bounds is None else " to ".join(f"{bound:.4f}" for bound in bounds)
