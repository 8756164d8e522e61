"""Sources of frames to predict: a folder, an S3 prefix, or a zip in either."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from nerveseg.data.archive import Archive
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError
from nerveseg.storage import Entry, leads_out, open_storage

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_NO_FRAMES = ("_mask", "_overlay")  # endings of files next to frames


class Frames(Protocol):
    """Files that may be frames."""

    def entries(self) -> list[Entry]:
        """All of them."""

    def read(self, name: str) -> tuple[bytes, str]:
        """Content and stamp of one. Raises FileNotFoundError or ValueError if it cannot be read."""


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
        NervesegError: there is neither a folder nor a zip, or the zip cannot be used.
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
    """The frames among files, sorted by the numbers in their names; and (name, reason) of those left out.

    Masks and overlays next to frames are skipped. A frame is left out if its mask would have the same name as another
    one's, or lie outside the output.

    Raises:
        NervesegError: there are no frames.
    """
    frames: dict[str, Entry] = {}
    refused = []
    for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
        path = PurePosixPath(entry.name)
        if path.suffix.lower() not in SUFFIXES or path.stem.lower().endswith(_NO_FRAMES):
            continue
        if leads_out(entry.name):
            refused.append((entry.name, "its name leads out of the folder, and its mask's would too: rename it"))
            continue
        taken = frames.setdefault(mask_name(entry.name), entry)
        if taken is not entry:
            refused.append((entry.name, f"its mask would overwrite the one of {taken.name}: rename one of them"))
    if not frames:
        raise NervesegError(f"{uri} contains no frames ({', '.join(SUFFIXES)}).")
    return list(frames.values()), refused


def mask_name(name: str) -> str:
    """The name of a frame's mask and overlay."""
    return str(PurePosixPath(name).with_suffix(".png"))
