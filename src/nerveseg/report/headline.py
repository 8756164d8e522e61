"""The figures that people read first, as a table on the terminal."""

from typing import Any

from rich.table import Table

from nerveseg.evaluation import selective
from nerveseg.modelcard import card


def table(summary: dict[str, Any], title: str) -> Table:
    """The headline figures of a summary and their intervals.

    Args:
        summary: as `scores.summary` makes it, with the section `ceiling` of `conflicts.summary`.
    """
    test, baseline, ceiling = (summary[name] for name in ("test", "baseline", "ceiling"))
    shown = Table(
        title=title,
        caption=f"intervals by resampling subjects; {card.OF_THE_WORST}\n{summary['empty_rule']}",
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("figure")
    for column in ("value", "95 % interval"):
        shown.add_column(column, justify="right")
    for name, figures, key in (
        ("Dice, mean over frames", test, "dice"),
        ("Dice, mean over subjects", test, "dice_by_subject"),
        ("Dice, pooled over all pixels", test, "pooled_dice"),
        (f"Dice of the worst subject, {test['worst_subject_name'] or 'none has enough frames'}", test, "worst_subject"),
        ("share of frames with Dice below 0.5", test, "dice_below_half"),
        ("IoU, mean over frames", test, "iou"),
        *(
            (f"{name}{card.defined_on(test, key)}", test, key)
            for name, key in (
                ("NSD", "nsd"),
                ("HD95, pixels", "hd95"),
                ("centroid error, pixels", "centroid_error"),
            )
        ),
        ("frames with a nerve, found", test["presence"], "recall"),
        ("frames without a nerve, left empty", test["presence"], "specificity"),
        ("expected calibration error", test, "ece"),
        (f"Dice gained by leaving the most atypical {1 - selective.KEPT:.0%} out", test, "selective_gain"),
        ("Dice of nothing predicted", baseline["empty"], "dice"),
        ("Dice of the mean training mask", baseline["prior"], "dice"),
        ("Dice of the mean training mask, cut at 0.5", baseline["prior_half"], "dice"),
        ("Dice of the prediction's ellipse", baseline["ellipse"], "dice"),
        (f"ceiling of Dice, by {ceiling['conflicting_pairs']} conflicting pairs of labels", ceiling, "dice"),
    ):
        shown.add_row(name, card.figure(figures[key]), card.interval(figures.get(f"{key}_ci")))
    return shown


def better_threshold(summary: dict[str, Any], used: float, chosen: bool) -> str:
    """A remark on a threshold with a better Dice on the validation frames than the model's; empty where there is none.

    Args:
        summary: as for `table`.
        used: the model's threshold.
        chosen: by calibrate, on those frames.
    """
    validation, rule = summary["validation"], summary["empty_rule"].partition(":")[0]
    best = validation["best_threshold"]
    if best in (None, used):
        return ""
    why = (
        ", which calibrate chose by the rule kaggle"
        if chosen
        else ". With model.threshold: validation, calibrate chooses one"
    )
    return (
        f"On the validation frames, by the rule {rule} for empty masks, a threshold of {best:g} has the best Dice, "
        f"{card.figure(validation['dice_at_best_threshold'])}; the model uses {used:g}{why}."
    )
