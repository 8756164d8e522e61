"""Writes zips whose bytes follow from their content alone: nothing is compressed, and all dates are the same.

Frames are compressed already, or by DVC's remote as little as by us; and two builds of zlib may compress differently.
"""

from typing import BinaryIO
from zipfile import ZipFile, ZipInfo

TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_CHUNK = 2**20  # bytes


def store(archive: ZipFile, name: str, content: bytes) -> None:
    """Adds a member."""
    archive.writestr(ZipInfo(name, TIME), content)


def store_from(archive: ZipFile, name: str, file: BinaryIO, size: int) -> int:
    """Adds a member with the next `size` bytes of a file; returns how many there were."""
    info = ZipInfo(name, TIME)
    info.file_size = size  # says whether the member needs zip64
    left = size
    with archive.open(info, "w") as member:
        while chunk := file.read(min(_CHUNK, left)):
            member.write(chunk)
            left -= len(chunk)
    return size - left
