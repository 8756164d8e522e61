"""Rules for Dice and IoU on a frame without a nerve, on which tools disagree.

By all of them, an empty prediction on a frame with a nerve scores 0. Sources:

- kaggle: "defined to be 1 when both X and Y are empty",
  https://www.kaggle.com/competitions/ultrasound-nerve-segmentation/overview/evaluation
- nnunet: 2 tp / (2 tp + fp + fn), NaN if that is 0 / 0, then `nanmean`,
  https://github.com/MIC-DKFZ/nnUNet/blob/master/nnunetv2/evaluation/evaluate_predictions.py
- monai: `compute_dice` and `compute_iou` with their default `ignore_empty=True`: such frames are left out, even if
  something is predicted on them, https://docs.monai.io/en/stable/metrics.html
- smp: `f1_score` and `iou_score`, image-wise, with their default `zero_division=1.0`: the same scores as kaggle's.
  `zero_division="warn"` would give 0. https://smp.readthedocs.io/en/latest/metrics.html
"""

import numpy as np

from nerveseg.arrays import Floats
from nerveseg.evaluation.metrics import Areas
from nerveseg.params import EmptyRule

# Score of a frame without a nerve: nothing predicted, something predicted. NaN: the frame is left out.
_SCORES: dict[EmptyRule, tuple[float, float]] = {
    "kaggle": (1.0, 0.0),
    "nnunet": (np.nan, 0.0),
    "monai": (np.nan, np.nan),
    "smp": (1.0, 0.0),
}
RULES = tuple(_SCORES)


def apply(scores: Floats, true: Areas, rule: EmptyRule) -> Floats:
    """Scores by another rule.

    Args:
        scores: Dice or IoU of frames as `metrics` computes them, any shape: 1 if both masks are empty, 0 if one is.
        true: area of the true masks in pixels, of a shape that broadcasts.

    Returns:
        float64 in [0, 1] of that shape; NaN if the rule leaves the frame out.
    """
    nothing, something = _SCORES[rule]
    return np.where(true > 0, scores, np.where(scores == 1, nothing, something))


def describe(rule: EmptyRule) -> str:
    """The rule in one line."""
    nothing, something = ("is left out" if np.isnan(score) else f"scores {score:g}" for score in _SCORES[rule])
    return f"{rule}: on a frame without a nerve, nothing predicted {nothing} and something predicted {something}"
