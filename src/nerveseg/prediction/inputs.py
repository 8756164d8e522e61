"""Where frames to predict come from: a folder, an S3 prefix, or a zip at either place."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from nerveseg.data.archive import Archive
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError
from nerveseg.storage import Entry, open_storage

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_NO_FRAMES = ("_mask", "_overlay")  # endings of what lies beside frames


class Frames(Protocol):
    """Files that may be frames."""

    def entries(self) -> list[Entry]:
        """All of them."""

    def read(self, name: str) -> tuple[bytes, str]:
        """Content and stamp of one. Raises FileNotFoundError or ValueError where it cannot be had."""


class ZipFrames:
    """The members of a zip."""

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)

    def entries(self) -> list[Entry]:
        return [Entry(name, self._archive.stamp(name)) for name in self._archive.names]

    def read(self, name: str) -> tuple[bytes, str]:
        return self._archive.read(name), self._archive.stamp(name)


def open_frames(uri: str) -> Frames:
    """The files of `uri`: s3://bucket/prefix, a folder, or the path of a zip.

    Raises:
        NervesegError: there is nothing, or the zip cannot be used.
    """
    if not uri.startswith("s3://"):
        path = Path(uri)
        if path.suffix.lower() in SUFFIXES:
            raise NervesegError(f"{uri} is a single frame: `nerveseg predict {uri}` predicts it.")
        if path.is_file():
            return ZipFrames(path)
        if not path.is_dir():
            raise NervesegError(f"{uri} is neither a folder nor a zip: check predict.input or the run's `input`.")
    return open_storage(uri)


def select(entries: Iterable[Entry], uri: str) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The frames among files, sorted by the numbers in their names; and names with the reasons why not.

    Masks and overlays beside frames are passed over. Two frames whose masks would have the same name are told apart by
    nobody: the second is left out with its reason.

    Raises:
        NervesegError: there are no frames.
    """
    frames: dict[str, Entry] = {}
    refused = []
    for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
        path = PurePosixPath(entry.name)
        if path.suffix.lower() not in SUFFIXES or path.stem.lower().endswith(_NO_FRAMES):
            continue
        taken = frames.setdefault(mask_name(entry.name), entry)
        if taken is not entry:
            refused.append((entry.name, f"its mask would overwrite that of {taken.name}: rename one of them"))
    if not frames:
        raise NervesegError(f"{uri} holds no frames ({', '.join(SUFFIXES)}).")
    return list(frames.values()), refused


def mask_name(name: str) -> str:
    """The name of a frame's mask and overlay."""
    return str(PurePosixPath(name).with_suffix(".png"))
