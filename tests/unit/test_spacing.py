"""The size of a pixel, as people give it."""

import pytest

from nerveseg.errors import NervesegError
from nerveseg.prediction import spacing


@pytest.mark.parametrize(
    ("text", "expected"), [("0.08", (0.08, 0.08)), (" 0.08  0.1 ", (0.08, 0.1)), ("1e-1", (0.1, 0.1)), ("10", (10, 10))]
)
def test_one_number_is_a_square_two_are_height_and_width(text: str, expected: tuple[float, float]) -> None:
    assert spacing.parse(text) == expected


def test_areas_are_pixels_times_both() -> None:
    assert spacing.parse("0.08 0.1").area(1000) == pytest.approx(8)


@pytest.mark.parametrize(
    "text", ["", "0", "-0.1", "nan", "inf", "80", "0.0001", "0,08", "0.08 0", "0.1 0.1 0.1", "0.1mm", "a"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NervesegError, match=r"is not a pixel spacing\. Give mm per pixel from 0.001 to 10"):
        spacing.parse(text)
