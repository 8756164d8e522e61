"""What Dice and IoU are on a frame without a nerve: conventions that disagree, on the same predictions.

An empty prediction on a frame with a nerve scores 0 by all of them. Sources:

- kaggle: "defined to be 1 when both X and Y are empty",
  https://www.kaggle.com/competitions/ultrasound-nerve-segmentation/overview/evaluation
- nnunet: 2 tp / (2 tp + fp + fn), NaN where that is 0 / 0, then `nanmean`,
  https://github.com/MIC-DKFZ/nnUNet/blob/master/nnunetv2/evaluation/evaluate_predictions.py
- monai: `compute_dice` and `compute_iou` as they come, `ignore_empty=True`: such frames are left out, and with them
  what was predicted where nothing is, https://docs.monai.io/en/stable/metrics.html
- smp: `f1_score` and `iou_score` image-wise as they come, `zero_division=1.0`: the same figures as kaggle's. Their
  `zero_division="warn"` would make it 0. https://smp.readthedocs.io/en/latest/metrics.html
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
        scores: Dice or IoU of frames as `metrics` has them, any shape: 1 where both masks are empty, 0 where one is.
        true: area of the true masks in pixels, of a shape that fits.

    Returns:
        float64 in [0, 1] of that shape; NaN where the rule leaves the frame out.
    """
    nothing, something = _SCORES[rule]
    return np.where(true > 0, scores, np.where(scores == 1, nothing, something))


def describe(rule: EmptyRule) -> str:
    """The rule in a line."""
    nothing, something = ("is left out" if np.isnan(score) else f"scores {score:g}" for score in _SCORES[rule])
    return f"{rule}: on a frame without a nerve, nothing predicted {nothing} and something predicted {something}"
