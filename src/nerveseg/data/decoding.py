"""Where the pixels of frames and masks lie in a dataset zip, and how they are read.

A layout gives each frame a `FrameSource` and a `MaskSource`. The kinds here are those of several layouts; a layout
whose files are like no other's has its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from nerveseg.arrays import Frame, Mask
from nerveseg.data import masks, rle
from nerveseg.data.archive import MAX_IMAGE_BYTES, Archive, UnfitImageError, grey, open_image

MAX_RUNS_TEXT = 2**20  # characters of run lengths; a nerve takes a few thousand, a chequered 400 x 400 frame 700,000
_TORN = 4  # pieces from which run lengths are also tried along the rows: a disc of 41 rows falls into 41


@dataclass(frozen=True)
class DecodedFrame:
    """A frame.

    Attributes:
        pixels: uint8 (height, width).
        turned: the orientation of its file, as EXIF's, by which it was turned; 1: upright.
        doubts: kind and detail of what its owner should look at.
    """

    pixels: Frame
    turned: int = 1
    doubts: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class DecodedMask:
    """A mask.

    Attributes:
        pixels: uint8 0/1 (height, width).
        turned: as of a frame; None: it has no file of its own, and was drawn on the frame as it was turned.
        value: what means nerve in its file, such as "#ffffff", where each file says so for itself; None: not said.
    """

    pixels: Mask
    turned: int | None = None
    value: str | None = None


class FrameSource(Protocol):
    """Where the pixels of one frame lie."""

    @property
    def member(self) -> str:
        """The file, by its name in the zip, unless that may be the name of a person."""

    def read(self, archive: Archive) -> DecodedFrame:
        """Decodes the frame. Thread-safe.

        Raises:
            UnfitImageError: it cannot be used; the error becomes a finding about this frame.
        """


class MaskSource(Protocol):
    """Where the mask of one frame lies."""

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        """Decodes the mask. Thread-safe.

        Args:
            frame: the pixels of its frame, uint8 (height, width).

        Raises:
            UnfitImageError: it cannot be used; the error becomes a finding about this frame.
        """


@dataclass(frozen=True)
class ImageFile:
    """A frame that is a PNG, JPEG, TIFF or BMP file."""

    member: str

    def read(self, archive: Archive) -> DecodedFrame:
        with opened(archive, self.member) as (image, turned):
            pixels, is_coloured = grey(image)
            doubts = []
            if is_coloured:
                doubts.append(("colour", f"{self.member} has colours; they were converted to greyscale by luma"))
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                doubts.append(("transparency", f"{self.member} has transparent pixels; they were read as if opaque"))
        return DecodedFrame(pixels, turned, doubts)


@dataclass(frozen=True)
class MaskFile:
    """A mask that is an image file of the background and one other value.

    Attributes:
        shown: what messages call the file, where its name may be that of a person.
    """

    member: str
    shown: str = ""

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        with opened(archive, self.member, self.shown) as (image, turned):
            pixels, value = masks.read(image)
        return DecodedMask(pixels, turned, value)


@dataclass(frozen=True)
class RunLengths:
    """A mask that is the union of run lengths in Kaggle's format (`rle`); none: an empty mask."""

    texts: tuple[str, ...] = ()

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        length = sum(map(len, self.texts))
        if length > MAX_RUNS_TEXT:
            raise UnfitImageError(
                "run lengths", f"have {length} characters; the limit is {MAX_RUNS_TEXT}: this is no nerve"
            )
        try:
            mask = rle.union(self.texts, *frame.shape)
        except ValueError as error:
            raise UnfitImageError("run lengths", str(error)) from None
        self._refuse_torn(mask)
        return DecodedMask(mask)

    def _refuse_torn(self, mask: Mask) -> None:
        number = masks.pieces(mask)
        if number < _TORN:
            return
        height, width = mask.shape
        along_rows = masks.pieces(rle.union(self.texts, width, height).T)
        if 2 * along_rows <= number:
            raise UnfitImageError(
                "run lengths",
                f"give {number} pieces down the columns, as they are read, but {along_rows} along the rows; write them "
                "down the columns",
            )


@contextmanager
def opened(archive: Archive, member: str, shown: str = "") -> Iterator[tuple[Image.Image, int]]:
    """An image file of the zip, as `archive.open_image`; what is unfit says which file it is: `shown`, or its name."""
    shown = shown or member
    try:
        content = archive.read(member, MAX_IMAGE_BYTES)
    except ValueError as error:
        raise UnfitImageError("unreadable", f"{shown} is {error}") from None
    try:
        with open_image(content) as found:
            yield found
    except UnfitImageError as error:
        raise UnfitImageError(error.kind, f"{shown} {error}") from None
