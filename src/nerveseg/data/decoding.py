"""Where the pixels of frames and masks lie in a dataset zip, and how they are read.

A layout gives each frame a `FrameSource` and a `MaskSource`. The kinds here are those of several layouts; a layout
whose files are like no other's has its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from nerveseg.arrays import Frame, Mask
from nerveseg.data import masks, rle
from nerveseg.data.archive import MAX_IMAGE_BYTES, Archive, UnfitImageError, grey, open_image

MAX_RUNS_TEXT = 2**20  # characters of run lengths; a nerve takes a few thousand, a chequered 400 x 400 frame 700,000
MAX_REGIONS = 1000  # of a frame
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
        values: what its files hold besides the background, such as "#ffffff"; none, where they do not say so.
    """

    pixels: Mask
    turned: int | None = None
    values: tuple[str, ...] = ()


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
    """A mask that is an image file.

    Attributes:
        classes: the values that are nerve, as of `masks.read`; None: there is only one besides the background.
        shown: what messages call the file, where its name may be that of a person.
    """

    member: str
    classes: tuple[int | str, ...] | None = None
    shown: str = ""

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        with opened(archive, self.member, self.shown) as (image, turned):
            pixels, values = masks.read(image, self.classes)
        return DecodedMask(pixels, turned, values)


@dataclass(frozen=True)
class UnitedFiles:
    """A mask that is the union of several image files of one size, each turned alike."""

    files: tuple[MaskFile, ...]

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        first = self.files[0].read(archive, frame)
        union, values = first.pixels, dict.fromkeys(first.values)
        for file in self.files[1:]:
            other = file.read(archive, frame)
            if other.pixels.shape != union.shape or other.turned != first.turned:
                raise UnfitImageError(
                    "size mismatch",
                    f"its masks {self.files[0].member} and {file.member} differ in size or in orientation",
                )
            union = union | other.pixels
            values |= dict.fromkeys(other.values)
        return DecodedMask(union, first.turned, tuple(values))


@dataclass(frozen=True)
class RunLengths:
    """A mask that is the union of run lengths in Kaggle's format (`rle`); none: an empty mask."""

    texts: tuple[str, ...] = ()

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        length = sum(map(len, self.texts))
        if length > MAX_RUNS_TEXT:
            raise UnfitImageError(
                "run lengths", f"have {length} characters; the limit is {MAX_RUNS_TEXT}, and no nerve needs as many"
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
                f"give {number} pieces when read down the columns, as they must be, but {along_rows} along the rows; "
                "write them down the columns",
            )


class Region(Protocol):
    """A part of a mask that somebody drew."""

    def draw(self, height: int, width: int) -> Mask:
        """Its pixels, uint8 0/1 (height, width).

        Raises:
            UnfitImageError: it cannot be drawn on such a frame.
        """


@dataclass(frozen=True)
class Regions:
    """A mask that is the union of what was drawn on a frame; nothing: an empty mask.

    Attributes:
        regions: what was drawn.
        size: height and width of the frame on which it was drawn; None: not said.
        source: the file that says so.
    """

    regions: tuple[Region, ...]
    size: tuple[int, int] | None
    source: str

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        height, width = frame.shape
        if self.size and self.size != (height, width):
            raise UnfitImageError(
                "size mismatch",
                f"the frame is {width}x{height}, but {self.size[1]}x{self.size[0]} in {self.source} (width x height)",
            )
        if len(self.regions) > MAX_REGIONS:
            raise UnfitImageError(
                "outline", f"has {len(self.regions)} regions; the limit is {MAX_REGIONS}: this is no nerve"
            )
        mask = np.zeros(frame.shape, np.uint8)
        for region in self.regions:
            mask |= region.draw(height, width)
        return DecodedMask(mask)


@contextmanager
def opened(archive: Archive, member: str, shown: str = "") -> Iterator[tuple[Image.Image, int]]:
    """An image file of the zip, as `archive.open_image`; what is unfit says which file it is: `shown`, or its name."""
    with naming(shown or member), open_image(content(archive, member)) as found:
        yield found


@contextmanager
def naming(member: str) -> Iterator[None]:
    """What is unfit says which file it is."""
    try:
        yield
    except UnfitImageError as error:
        error.args = (f"{member} {error}",)
        raise


def content(archive: Archive, member: str) -> bytes:
    """The bytes of a file with an image. Raises UnfitImageError if it is damaged or has more than 80 MiB."""
    try:
        return archive.read(member, MAX_IMAGE_BYTES)
    except ValueError as error:
        raise UnfitImageError("unreadable", f"is {error}") from None
