"""Reads a mask from an image by its values, not by their brightness: distinct colours are distinct values."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from nerveseg.arrays import Mask
from nerveseg.data.archive import UnfitImageError

MOST_CLASSES = 32  # values of a mask besides the background; more are the traces of JPEG compression or resampling

_MOST_COLOURS = 256  # more are not counted: a mask has two
_SHOWN = 6
_TRANSPARENT = "transparent"
_WAY_OUT = "Save it with a black background and the nerve in one colour, without other classes"


class MaskValuesError(UnfitImageError):
    """A mask with other values than the background and one other.

    Attributes:
        values: those besides the background, if they may be classes; otherwise none.
    """

    def __init__(self, reason: str, values: Iterable[str] = ()) -> None:
        super().__init__("mask values", reason)
        self.values = tuple(values)


@dataclass(frozen=True)
class _Values:
    """The values in an image.

    Attributes:
        pixels: a number for each value, (height, width).
        classes: the names of the values besides the background, by their numbers.
        background: the names of the background; none where the image has no background.
    """

    pixels: npt.NDArray[Any]
    classes: dict[int, str]
    background: tuple[str, ...]

    def mask(self, numbers: Iterable[int]) -> Mask:
        found = np.zeros(self.pixels.shape, bool)
        for number in numbers:
            found |= self.pixels == number
        return found.view(np.uint8)


def read(image: Image.Image, chosen: Sequence[int | str] | None = None) -> tuple[Mask, tuple[str, ...]]:
    """The mask in an image.

    Of a palette image, the values are the indices, and the background is index 0. Of any other, they are the colours;
    pixels that are fully transparent have one value, whatever colour they hide. The background is what is transparent,
    or black where nothing is.

    Args:
        chosen: the values that are nerve: indices, grey values or colours such as "#ff0000"; None: there is only one.

    Returns:
        uint8 0/1 (height, width), and the values besides the background, such as "#ffffff" or "index 1".

    Raises:
        MaskValuesError: without a choice, the image does not consist of the background and at most one other value;
            with one, it has more than 32 others, or several and is a JPEG.
    """
    found = _values(image)
    values = tuple(found.classes.values())
    if chosen is None:
        if len(values) > 1 or len(found.background) != 1:
            raise _unclear(found)
        return found.mask(found.classes), values
    if len(values) > (1 if image.format == "JPEG" else MOST_CLASSES):
        raise MaskValuesError(
            f"has {len(values)} values besides the background, as JPEG compression and resampling leave them. Save it "
            "without either, as a PNG"
        )
    wanted = set().union(*map(spellings, chosen))
    return found.mask(number for number, value in found.classes.items() if value in wanted), values


def spellings(chosen: int | str) -> set[str]:
    """The values of masks that a value of `data.classes` means: a number is an index or a grey value."""
    text = str(chosen).lower()
    if not re.fullmatch("[0-9]{1,3}", text):
        return {text}
    return {f"index {int(text)}", _colour(*[int(text)] * 3)}


def choice(value: str) -> str:
    """A value of a mask as `data.classes` chooses it, in YAML."""
    if value.startswith("index "):
        return value.removeprefix("index ")
    if value.isdecimal():  # of a label volume
        return value
    grey = re.fullmatch(r"#([0-9a-f]{2})\1\1", value)
    return str(int(grey[1], 16)) if grey else f'"{value}"'


def box(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns of the smallest box around the nerve in a mask, uint8 0/1 (H, W)."""
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask))
    return slice(top, top + height), slice(left, left + width)


def pieces(mask: Mask) -> int:
    """The number of connected pieces of a mask, uint8 0/1 (H, W); pixels that touch at a corner are connected."""
    found = np.ascontiguousarray(mask[box(mask)])  # the rest would cost most of the time
    return cv2.connectedComponents(found, connectivity=8)[0] - 1 if found.size else 0


def _by_index(image: Image.Image) -> _Values:
    indices = np.asarray(image)
    transparency = image.info.get("transparency", b"")  # an index, or the alpha of each
    clear = {transparency} if isinstance(transparency, int) else {i for i, a in enumerate(transparency) if a == 0}
    used = [int(index) for index in np.flatnonzero(np.bincount(indices.ravel(), minlength=256))]
    names = {index: f"index {index}" + (f" ({_TRANSPARENT})" if index in clear else "") for index in used}
    background = (names.pop(0),) if 0 in names else ()
    found = _Values(indices, names, background)
    if not clear.isdisjoint(names):
        raise _unclear(found)
    return found


def _values(image: Image.Image) -> _Values:
    if image.mode == "P":
        return _by_index(image)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return _by_grey(image.convert("L"))
    return _by_colour(image.convert("RGBA"))


def _by_grey(image: Image.Image) -> _Values:
    """As `_by_colour`, in a fraction of its time: most masks are grey."""
    counts = image.histogram()
    used = sorted((grey for grey in range(256) if counts[grey]), key=lambda grey: (-counts[grey], -grey))
    names = {grey: _colour(grey, grey, grey) for grey in used}
    background = (names.pop(0),) if 0 in names else ()
    return _Values(np.asarray(image), names, background)


def _by_colour(image: Image.Image) -> _Values:
    counted = image.getcolors(_MOST_COLOURS)
    if counted is None:
        raise MaskValuesError(
            f"has more than {_MOST_COLOURS} colours, as JPEG compression and resampling leave them. {_WAY_OUT}"
        )
    ranked: list[tuple[int, tuple[int, int, int, int]]] = sorted(counted, reverse=True)  # type: ignore[arg-type]
    values = {colour: _colour(*colour) for _, colour in ranked}
    if len(values) > 1 and set(values.values()) == {_TRANSPARENT}:
        hidden = [_colour(*colour[:3]) for colour in values]
        raise MaskValuesError(f"is transparent everywhere, but hides the colours {_listed(hidden)}. {_WAY_OUT}")
    has_transparent = _TRANSPARENT in values.values()
    background = {c: v for c, v in values.items() if (v == _TRANSPARENT if has_transparent else not any(c[:3]))}
    classes = {_packed(colour): value for colour, value in values.items() if colour not in background}
    blank = np.zeros((image.height, image.width), np.uint8)
    pixels = np.asarray(image).view(np.uint32)[..., 0] if classes else blank  # most masks of some datasets are empty
    return _Values(pixels, classes, tuple(dict.fromkeys(background.values())))


def _packed(colour: tuple[int, int, int, int]) -> int:
    return int(np.array(colour, np.uint8).view(np.uint32)[0])


def _unclear(found: _Values) -> MaskValuesError:
    values = [*found.background, *found.classes.values()]
    shown = f"the {len(values)} values {_listed(values)}" if len(values) > 1 else f"only the value {values[0]}"
    may_be_classes = len(found.background) == 1 and len(found.classes) <= MOST_CLASSES
    return MaskValuesError(
        f"has {shown}; a mask has a background, which is black, transparent or index 0 of a palette, and at most one "
        f"other value. {_WAY_OUT}, or choose the values that are nerve by data.classes",
        found.classes.values() if may_be_classes else (),
    )


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")


def _colour(red: int, green: int, blue: int, alpha: int = 255) -> str:
    if alpha == 0:
        return _TRANSPARENT
    return f"#{red:02x}{green:02x}{blue:02x}" + (f"{alpha:02x}" if alpha < 255 else "")
