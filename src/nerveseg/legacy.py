"""Former names of what is called otherwise today: files of older versions, and code that they carry, use them."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

TODAY = {
    "mistrust": "atypicality",
    "mistrust_dice_correlation": "atypicality_dice_correlation",
    "abstaining_gain": "selective_gain",
    "abstaining_gain_ci": "selective_gain_ci",
    "packed_frames": "frames_used",
}


def current(name: str) -> str:
    """Today's name for a key, a column, or a dotted key such as `test.abstaining_gain`; the same for any other name."""
    return ".".join(TODAY.get(part, part) for part in name.split("."))


def renamed(record: Mapping[str, Value]) -> dict[str, Value]:
    """The record with the current names of its keys; nested records are left alone."""
    return {current(name): value for name, value in record.items()}
