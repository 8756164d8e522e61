"""The headline metrics as a table on the terminal."""

from rich.table import Table

from nerveseg.evaluation import figures
from nerveseg.evaluation.results import Metrics


def table(metrics: Metrics, title: str) -> Table:
    """The registry's figures for the terminal, with their intervals."""
    shown = Table(
        title=title,
        caption=f"{figures.intervals(metrics.test.subjects_known)}\n{metrics.empty_rule}",
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("metric")
    for column in ("value", "95 % interval"):
        shown.add_column(column, justify="right")
    for figure in metrics.shown("terminal"):
        found = metrics.measured(figure.key)
        shown.add_row(metrics.title(figure), figures.number(found.value), figures.interval(found.interval))
    return shown


def better_threshold(metrics: Metrics, used: float, chosen: bool) -> str:
    """A remark on a threshold with a higher Dice on the validation frames than the model's; "" if there is none.

    Args:
        used: the model's threshold.
        chosen: whether train chose it, on those frames.
    """
    rule, best = metrics.empty_rule.partition(":")[0], metrics.validation.best_threshold
    if best in (None, used):
        return ""
    why = (
        ", which calibrate chose by the rule kaggle"
        if chosen
        else ". With model.threshold: validation, calibrate chooses one"
    )
    return (
        f"On the validation frames, by the rule {rule} for empty masks, a threshold of {best:g} has the best Dice, "
        f"{figures.number(metrics.validation.dice_at_best_threshold)}; the model uses {used:g}{why}."
    )
