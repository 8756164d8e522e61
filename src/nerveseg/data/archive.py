"""Reads an untrusted dataset, file by file into memory: nothing is extracted to disk or unpickled."""

import io
import os
import stat
import unicodedata
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from nerveseg.arrays import Frame
from nerveseg.data import walk
from nerveseg.errors import NervesegError

MAX_MEMBER_BYTES = 256 * 2**20
MAX_RATIO = 200  # of unpacked to compressed size: noisy frames hardly shrink
FREE_RATIO_BYTES = 16 * 2**20  # up to this size any ratio is allowed: an empty uncompressed mask reaches 1000
MAX_PIXELS = 2**24  # 4096 x 4096
MAX_IMAGE_BYTES = 5 * MAX_PIXELS  # the largest image, uncompressed, with 4 channels, and its metadata
MAX_NAME = 1024  # characters

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_DICOM, _DICOM_AT = b"DICM", 128  # what each DICOM file has there
_DICOM_TRIED = 16
_NOT_DICOM = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".gz", ".nrrd", ".csv", ".pq", ".parquet"),
    *(".json", ".yaml", ".yml", ".txt", ".md", ".html", ".pdf"),
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the ones that zipfile unpacks in bounded chunks
_ENCRYPTED = 0x1
_UTF8 = 0x800
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # TIFF tags
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "unsigned"}  # 4: undefined
_PNG_BIT_DEPTH = 24  # offset of that byte in a PNG file


class UnfitImageError(ValueError):
    """An image that cannot be used as 8-bit greyscale; `kind` says why in two words."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Archive:
    """A zip opened for reading: a context manager, and thread-safe.

    Attributes:
        path: the zip.
        names: members, sorted, in Unicode's form NFC, with forward slashes, without folders, `__MACOSX/` and hidden
            files.
    """

    def __init__(self, path: Path) -> None:
        """Opens the zip and reads only its directory.

        Raises:
            NervesegError: it is missing, not a zip, truncated or empty; or a member is encrypted, unpacks to more than
                256 MiB, or to more than 16 MiB and more than 200 times its compressed size, is compressed by a method
                other than store or deflate, is listed twice, is a link, or has a name that leads out of the zip, is
                not printable or is longer than 1024 characters.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise NervesegError(f"{path} is missing: `dvc repro download` fetches it.") from None
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise NervesegError(
                f"{path} is not a zip, or is truncated ({error}): upload or download it again."
            ) from None
        members = [(_name(info), info) for info in self._zip.infolist()]
        members = [(name, info) for name, info in members if not name.endswith("/") and not _is_hidden(name)]
        self._members = dict(members)
        self.names = sorted(self._members)
        problem = self._problem(Counter(name for name, _ in members))
        if problem:
            self._zip.close()
            raise NervesegError(f"{path} is rejected: {problem}.")

    def _problem(self, counts: Counter[str]) -> str | None:
        if not self.names:
            return "it contains no files"
        twice = next((name for name in self.names if counts[name] > 1), None)
        if twice:
            return f"it contains {self.shown(twice)} twice"
        for name, info in self._members.items():
            reason = _reason_to_refuse(name, info)
            if reason:
                return f"{self.shown(name)[:MAX_NAME]!r} {reason}"
        return None

    def read(self, name: str, limit: int = MAX_MEMBER_BYTES) -> bytes:
        """The content of a member of at most `limit` bytes.

        Raises:
            ValueError: it is damaged, or larger.
        """
        info = self._members[name]
        if info.file_size > limit:
            raise ValueError(f"too large: it unpacks to {info.file_size} bytes; the limit is {limit}")
        with self.open(name) as file:
            return file.read(info.file_size + 1)  # one byte more, so that the end is reached and the CRC checked

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A member, to be read from its beginning: what is not read costs nothing.

        Raises:
            ValueError: it is damaged.
        """
        try:
            with self._zip.open(self._members[name]) as file:
                yield cast(BinaryIO, file)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError):  # their texts have its name
            raise ValueError("damaged in the zip") from None

    def is_dicom(self, name: str) -> bool:
        """Whether a member is a DICOM file, by its first bytes; not where it is damaged."""
        try:
            with self.open(name) as file:
                return file.read(_DICOM_AT + len(_DICOM))[_DICOM_AT:] == _DICOM
        except ValueError:
            return False

    @cached_property
    def has_dicom(self) -> bool:
        """Whether there are DICOM files among the members, by the first bytes of a few of them."""
        likely = [name for name in self.maybe_dicom if has_dicom_suffix(name)] or self.maybe_dicom
        return any(map(self.is_dicom, likely[:: len(likely) // _DICOM_TRIED + 1]))

    @cached_property
    def maybe_dicom(self) -> list[str]:
        """The members that can be DICOM files: they have any name, but none that says that they are something else."""
        return [name for name in self.names if not name.lower().endswith(_NOT_DICOM) and self._may_be_opened(name)]

    def _may_be_opened(self, name: str) -> bool:
        return _reason_to_refuse(name, self._members[name]) is None

    @cached_property
    def hides_names(self) -> bool:
        """Whether the names of members may be people's: there are DICOM files."""
        return any(map(has_dicom_suffix, self.names)) or self.has_dicom

    def shown(self, name: str) -> str:
        """How a message names a member: by its place in `names` if `hides_names`."""
        return f"file {bisect_left(self.names, name) + 1} of {len(self.names)}" if self.hides_names else name

    def stamp(self, name: str) -> str:
        """Changes with the content of a member: its CRC-32 and its size in bytes."""
        info = self._members[name]
        return f"{info.CRC:08x}-{info.file_size}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()


class Folder(Archive):
    """A folder that is read in place as if it were a zip of its files.

    Attributes:
        path: the folder.
        names: its files, as those of a zip; their paths within the folder.
    """

    def __init__(self, path: Path) -> None:
        """Lists the files; none is opened.

        Raises:
            NervesegError: it is missing, cannot be listed or has no files; or a file is larger than 256 MiB, is a link
                that leads out of the folder or to another folder, is none that can be read to its end, or has a name
                that is not printable, is longer than 1024 characters, or is that of another file in NFC.
        """
        self.path = path
        self._files: dict[str, Path] = {}
        self._refused: dict[str, str] = {}  # why, by name
        root = path.resolve()
        try:
            for entry in walk.entries(path)[0]:
                name = unicodedata.normalize("NFC", Path(entry.path).relative_to(path).as_posix())
                reason = "is there twice" if name in self._files else _reason_to_leave_out(name, entry, root)
                if reason:
                    self._refused[name] = reason
                self._files[name] = Path(entry.path)
        except OSError as error:
            raise NervesegError(f"{error.filename} cannot be read ({error.strerror}).") from None
        self.names = sorted(self._files)
        if not self.names:
            raise NervesegError(f"{path} is rejected: it contains no files.")
        for name, reason in self._refused.items():
            raise NervesegError(f"{path} is rejected: {self.shown(name)[:MAX_NAME]!r} {reason}.")

    def read(self, name: str, limit: int = MAX_MEMBER_BYTES) -> bytes:
        with self.open(name) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"too large: the limit is {limit} bytes")
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        try:
            with self._files[name].open("rb") as file:
                yield file
        except OSError as error:
            raise ValueError(f"unreadable: {error.strerror}") from None

    def _may_be_opened(self, name: str) -> bool:
        return name not in self._refused

    def stamp(self, name: str) -> str:
        """Changes with the content of a file: the time of its last change in nanoseconds and its size in bytes."""
        state = self._files[name].stat()
        return f"{state.st_mtime_ns}-{state.st_size}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is open."""


def _reason_to_leave_out(name: str, entry: os.DirEntry[str], root: Path) -> str | None:
    if reason := walk.reason_to_refuse(entry, root):
        return reason
    size = entry.stat().st_size
    if size > MAX_MEMBER_BYTES:
        return f"has {size} bytes; the limit is {MAX_MEMBER_BYTES}"
    return _reason_by_name(name)


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name: with slashes for the backslashes of Windows, and NFC for the NFD of macOS."""
    name = info.filename
    if not info.flag_bits & _UTF8:  # macOS also writes UTF-8 without this flag, and zipfile then reads code page 437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def has_dicom_suffix(name: str) -> bool:
    """Whether the name of a file ends as those of DICOM files often do; many have none."""
    return name.lower().endswith(DICOM_SUFFIXES)


def _is_hidden(name: str) -> bool:
    return any(map(walk.is_hidden, name.split("/")))


def _reason_to_refuse(name: str, info: zipfile.ZipInfo) -> str | None:
    if name.startswith("/") or ".." in name.split("/"):
        return "has a path that leads out of the zip"
    if reason := _reason_by_name(name):
        return reason
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted; zip the dataset without a password"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link; zip the files themselves"
    if info.compress_type not in _METHODS:
        return "is compressed by a method other than deflate; use a common zip tool"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"unpacks to {info.file_size} bytes; the limit is {MAX_MEMBER_BYTES}"
    if info.file_size > max(FREE_RATIO_BYTES, MAX_RATIO * info.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its compressed size, like a zip bomb"
    return None


def _reason_by_name(name: str) -> str | None:
    if not name or not name.isprintable():
        return "is empty or has control characters"
    return f"is longer than {MAX_NAME} characters" if len(name) > MAX_NAME else None


@contextmanager
def open_image(content: bytes) -> Iterator[tuple[Image.Image, int]]:
    """A PNG, JPEG, TIFF or BMP file, decoded and turned as its orientation says, and that orientation.

    The orientation is EXIF's: 1 (upright) to 8; also 1 where the file has none.

    Raises:
        UnfitImageError: it cannot be read, has more than 4096 x 4096 pixels or more than 8 bits per sample, has signed
            or floating-point samples, or holds several pages. How to rescale 16 bits, or which page to use, is for
            someone who knows the data to decide.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _refuse_unfit(image, content)
            turned = _orientation(image)
            image.load()  # Pillow turns a TIFF here, and forgets its orientation
            if turned != 1:
                ImageOps.exif_transpose(image, in_place=True)
            yield image, turned
    except UnfitImageError:
        raise
    except UnidentifiedImageError:
        raise UnfitImageError("unreadable", "is not a PNG, JPEG, TIFF or BMP") from None
    except Exception as error:  # decoders raise many kinds of errors on bad bytes; each becomes a finding
        raise UnfitImageError("unreadable", f"is damaged: {error or type(error).__name__}") from None


def decode_grey(content: bytes) -> tuple[Frame, bool]:
    """Decodes a PNG, JPEG, TIFF or BMP file to greyscale, turned as its orientation says. As `grey`.

    Raises:
        UnfitImageError: as by `open_image`.
    """
    with open_image(content) as (image, _):
        return grey(image)


def grey(image: Image.Image) -> tuple[Frame, bool]:
    """An image in greyscale.

    Returns:
        uint8 (height, width), and whether the image has colours, which are converted by ITU-R 601 luma. An alpha
        channel is ignored.
    """
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image if image.mode == "L" else image.convert("L")), False
    colours = image.convert("RGB")
    red, green, blue = (np.asarray(channel) for channel in colours.split())
    is_coloured = not (np.array_equal(red, green) and np.array_equal(green, blue))
    return np.asarray(colours.convert("L")), is_coloured


def _orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImageFile):
        value = image.tag_v2.get(ExifTags.Base.Orientation, 1)
    else:
        image.load()  # a PNG may have it after the pixels
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _refuse_unfit(image: Image.Image, content: bytes) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnfitImageError("too large", f"has {image.width}x{image.height} pixels; the limit is {MAX_PIXELS} pixels")
    with suppress(EOFError):  # counting the pages would cost minutes where there are millions
        image.seek(1)
        raise UnfitImageError("several pages", "holds several pages; save each frame as its own file")
    bits, samples = 8, "unsigned"
    if isinstance(image, TiffImageFile):
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
        samples = _SAMPLE_FORMATS.get(max(image.tag_v2.get(_SAMPLE_FORMAT, (1,))), "complex")
    elif image.format == "PNG":
        bits = content[_PNG_BIT_DEPTH]
    if samples != "unsigned":
        raise UnfitImageError(
            "sample format", f"has {bits}-bit {samples} samples; save it as 8-bit unsigned, scaled as you see fit"
        )
    if bits > 8:
        raise UnfitImageError("bit depth", f"has {bits} bits per sample; save it with 8, scaled as you see fit")
