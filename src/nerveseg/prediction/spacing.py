"""The size of a pixel, as whoever sends a frame gives it.

It is never read from a file: the resolution in a PNG, JPEG or TIFF is that of a printed page, most often 72 or 96 dpi
by default, so that areas computed from it would be wrong without a sign of it.
"""

from typing import NamedTuple

from nerveseg.errors import NervesegError

_LEAST, _MOST = 0.001, 10.0  # mm; a value outside is in another unit


class Spacing(NamedTuple):
    """Distances between neighbouring pixels in mm, in the order of DICOM's Pixel Spacing.

    Attributes:
        row: between rows, so the height of a pixel.
        column: between columns, so its width.
    """

    row: float
    column: float

    def area(self, pixels: int) -> float:
        """The area of so many pixels in mm²."""
        return pixels * self.row * self.column


def parse(text: str) -> Spacing:
    """The spacing in a text: one number, for square pixels, or height and width with a space between them.

    Raises:
        NervesegError: these are not one or two numbers from 0.001 to 10.
    """
    try:
        numbers = [float(part) for part in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(_LEAST <= number <= _MOST for number in numbers):
        raise NervesegError(
            f"{text!r} is not a pixel spacing. Give mm per pixel from {_LEAST:g} to {_MOST:g}, with a decimal point: "
            "one number, or the height and the width of a pixel with a space between them, such as '0.08 0.1'."
        )
    return Spacing(numbers[0], numbers[-1])
