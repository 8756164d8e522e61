"""File names of frames: the subject and the site in them, and their natural order."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow.compute import extract_regex

from nerveseg.params import whole_name

# What params.yaml ships as data.subject, and how versions before that parameter read every name.
FIRST_PART = "(?P<subject>[^_]+)_.+"
# And as data.mask_suffixes.
MASK_SUFFIXES = ("_mask", "_seg", "_segmentation", "_label", "_gt")


def matched(names: Sequence[str], pattern: str) -> list[dict[str, str]]:
    """The named groups of a pattern in each file name; empty where the name does not match.

    Args:
        names: file names; folders before them and their suffix are left out.
        pattern: matches the whole of a name, in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax).
    """
    stems = pa.array([PurePosixPath(name).stem for name in names], pa.string())
    return [found or {} for found in extract_regex(stems, whole_name(pattern)).to_pylist()]


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key that compares the numbers in names, of any length: 2_1 comes before 10_1."""
    parts = re.split("([0-9]+)", name)
    return [_number(part) if index % 2 else part for index, part in enumerate(parts)], name


def _number(digits: str) -> tuple[int, str]:
    """Orders as the number does; `int` refuses more than 4300 digits."""
    digits = digits.lstrip("0")
    return len(digits), digits
