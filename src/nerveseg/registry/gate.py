"""Whether a model may be registered."""

from typing import Any

from nerveseg.params import RegisterParams


def reasons_against(metrics: dict[str, Any], register: RegisterParams) -> list[str]:
    """Every reason why the model is refused; none: it passes.

    Args:
        metrics: the content of `reports/metrics.json`.
    """
    dice = metrics["test"]["dice"]
    reasons = []
    if dice < register.min_dice:
        reasons.append(f"mean Dice {dice:.4f} is below register.min_dice {register.min_dice:.4f}")
    for name, key in (("predicting nothing", "empty"), ("the mean training mask", "prior")):
        if dice <= metrics["baseline"][key]["dice"]:
            reasons.append(f"mean Dice {dice:.4f} does not beat {name} ({metrics['baseline'][key]['dice']:.4f})")
    return reasons
