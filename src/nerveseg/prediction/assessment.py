"""What a person is told about a mask: whether it is like the training masks, and what to do where it is not."""

from dataclasses import dataclass
from typing import Literal

from nerveseg.arrays import Mask
from nerveseg.model import plausibility
from nerveseg.model.spec import Plausibility

Kind = Literal["typical", "atypical", "empty", "unknown"]


@dataclass(frozen=True)
class Assessment:
    """A mask in words.

    Attributes:
        kind: `empty` has no nerve; `atypical` and `typical` are by `plausibility.ATYPICAL`; `unknown`: the version
            predates atypicality.
        message: one or two sentences for whoever uses the mask.
    """

    kind: Kind
    message: str


def assess(mask: Mask, atypicality: float, training: Plausibility | None) -> Assessment:
    """Puts a mask, uint8 0/1 (H, W), into words.

    Args:
        atypicality: of the mask, by `plausibility.atypicality`.
        training: what it was compared with, as in `ModelSpec.plausibility`; None for an older model.
    """
    if not mask.any():
        return Assessment("empty", f"No nerve was found in this frame{_rarity(training)}: check the frame by eye.")
    if training is None:
        return Assessment("unknown", "This model version cannot tell an atypical mask: check every mask by eye.")
    if atypicality > plausibility.ATYPICAL:
        share = f"{1 - plausibility.RARE:.0%}".replace("%", " %")
        return Assessment(
            "atypical", f"This mask is more atypical than {share} of the training masks: check it before use."
        )
    return Assessment(
        "typical", "This mask is like the training masks in area, position and shape. It can still be wrong."
    )


def _rarity(training: Plausibility | None) -> str:
    if training is None:
        return ""
    if not training.empty_share:
        return ", but every training frame shows one"
    return f"; {100 * training.empty_share:.3g} % of the training frames show none"
