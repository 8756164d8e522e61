"""Reads a mask from an image by its values, not by their brightness: distinct colours are distinct values."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from nerveseg.arrays import Mask
from nerveseg.data.archive import UnfitImageError

_MOST_COLOURS = 256  # more are not counted: a mask has two
_SHOWN = 6
_TRANSPARENT = "transparent"
_WAY_OUT = "Save it with a black background and the nerve in one colour, without other classes"


def read(image: Image.Image) -> tuple[Mask, str | None]:
    """The mask in an image.

    Of a palette image, the values are the indices, and the background is index 0. Of any other, they are the colours;
    pixels that are fully transparent have one value, whatever colour they hide. The background is what is transparent,
    or black where nothing is.

    Returns:
        uint8 0/1 (height, width), and the value that means nerve, such as "#ffffff" or "index 1"; None: no nerve.

    Raises:
        UnfitImageError: of the kind "mask values": the image does not consist of the background and at most one other
            value.
    """
    if image.mode == "P":
        return _by_index(image)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return _by_grey(image.convert("L"))
    return _by_colour(image.convert("RGBA"))


def box(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns of the smallest box around the nerve in a mask, uint8 0/1 (H, W)."""
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask))
    return slice(top, top + height), slice(left, left + width)


def pieces(mask: Mask) -> int:
    """The number of connected pieces of a mask, uint8 0/1 (H, W); pixels that touch at a corner are connected."""
    found = np.ascontiguousarray(mask[box(mask)])  # the rest would cost most of the time
    return cv2.connectedComponents(found, connectivity=8)[0] - 1 if found.size else 0


def _by_index(image: Image.Image) -> tuple[Mask, str | None]:
    indices = np.asarray(image)
    transparency = image.info.get("transparency", b"")  # an index, or the alpha of each
    clear = {transparency} if isinstance(transparency, int) else {i for i, a in enumerate(transparency) if a == 0}
    values = [f"index {i}" + (f" ({_TRANSPARENT})" if i in clear else "") for i in range(256)]
    used = [int(index) for index in np.flatnonzero(np.bincount(indices.ravel(), minlength=256))]
    nerve = [index for index in used if index != 0]
    if 0 not in used or len(nerve) > 1 or not clear.isdisjoint(nerve):
        raise _unclear([values[index] for index in used])
    return (indices != 0).astype(np.uint8), values[nerve[0]] if nerve else None


def _by_grey(image: Image.Image) -> tuple[Mask, str | None]:
    """As `_by_colour`, in a fraction of its time: most masks are grey."""
    counts = image.histogram()
    used = sorted((grey for grey in range(256) if counts[grey]), key=lambda grey: (-counts[grey], -grey))
    nerve = [grey for grey in used if grey]
    if 0 not in used or len(nerve) > 1:
        raise _unclear([_value(grey, grey, grey, 255) for grey in used])
    mask = (np.asarray(image) != 0).astype(np.uint8)
    return mask, _value(nerve[0], nerve[0], nerve[0], 255) if nerve else None


def _by_colour(image: Image.Image) -> tuple[Mask, str | None]:
    counted = image.getcolors(_MOST_COLOURS)
    if counted is None:
        raise UnfitImageError(
            "mask values",
            f"has more than {_MOST_COLOURS} colours, as JPEG compression and resampling leave them. {_WAY_OUT}",
        )
    ranked: list[tuple[int, tuple[int, int, int, int]]] = sorted(counted, reverse=True)  # type: ignore[arg-type]
    colours = [colour for _, colour in ranked]
    values = {colour: _value(*colour) for colour in colours}
    if len(colours) > 1 and set(values.values()) == {_TRANSPARENT}:
        hidden = [_value(*colour[:3], 255) for colour in colours]
        raise UnfitImageError(
            "mask values", f"is transparent everywhere, but hides the colours {_listed(hidden)}. {_WAY_OUT}"
        )
    has_transparent = _TRANSPARENT in values.values()
    nerve = [colour for colour in colours if (values[colour] != _TRANSPARENT if has_transparent else any(colour[:3]))]
    if len(nerve) > 1 or len(set(values.values())) != len(nerve) + 1:
        raise _unclear(list(dict.fromkeys(values.values())))
    if not nerve:
        return np.zeros((image.height, image.width), np.uint8), None
    packed = np.asarray(image).view(np.uint32)[..., 0]
    return (packed == np.array(nerve[0], np.uint8).view(np.uint32)).astype(np.uint8), values[nerve[0]]


def _unclear(values: Sequence[str]) -> UnfitImageError:
    found = f"the {len(values)} values {_listed(values)}" if len(values) > 1 else f"only the value {values[0]}"
    return UnfitImageError(
        "mask values",
        f"has {found}; a mask has a background, which is black, transparent or index 0 of a palette, and at most one "
        f"other value. {_WAY_OUT}",
    )


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")


def _value(red: int, green: int, blue: int, alpha: int) -> str:
    if alpha == 0:
        return _TRANSPARENT
    return f"#{red:02x}{green:02x}{blue:02x}" + (f"{alpha:02x}" if alpha < 255 else "")
