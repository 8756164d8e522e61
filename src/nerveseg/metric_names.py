"""The names of metrics in MLflow, whose page groups them by what precedes the last slash and sorts the groups by name.

The curves are in `train/` and `validation/`. All single values, which the page draws as bars, are in groups that begin
with VALUES, so that they come after the curves. The key `test.dice` of metrics.json is `values/test/dice`.
"""

VALUES = "values"  # sorts after `train` and `validation`
CURVES = {  # by the columns of curve.csv
    "train_loss": "train/loss",
    "train_iou": "train/iou",
    "train_dice": "train/dice",
    "validation_loss": "validation/loss",
    "validation_iou": "validation/iou",
    "validation_dice": "validation/dice",
    "learning_rate": "train/learning_rate",
    "images_per_second": "train/images_per_second",
}


def of_value(key: str) -> str:
    """The name of a single value by its dotted key: `values/test/presence.recall` for `test.presence.recall`."""
    return f"{VALUES}/{key.replace('.', '/', 1)}"
