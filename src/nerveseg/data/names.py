"""Frame file names: `<subject>_<frame>.<suffix>`."""

import re
from pathlib import PurePosixPath


def subject_of(name: str) -> str | None:
    """The subject in a frame's file name: the text before the first underscore, or None."""
    subject, _, frame = PurePosixPath(name).stem.partition("_")
    return subject if subject and frame else None


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key that compares the numbers in names, of any length: 2_1 comes before 10_1."""
    parts = re.split("([0-9]+)", name)
    return [_number(part) if index % 2 else part for index, part in enumerate(parts)], name


def _number(digits: str) -> tuple[int, str]:
    """Orders as the number does; `int` refuses more than 4300 digits."""
    digits = digits.lstrip("0")
    return len(digits), digits
