"""Reads NIfTI files of an untrusted dataset zip within a limit of memory."""

import gzip
import io
import logging
import math

import nibabel

from nerveseg.data.archive import UnfitImageError

_GZIP = b"\x1f\x8b"
_NIFTI_1 = {(348).to_bytes(4, order) for order in ("little", "big")}  # how such a file begins

logging.getLogger("nibabel").setLevel(logging.CRITICAL + 1)  # it quotes headers


def parse(content: bytes, limit: int) -> nibabel.Nifti1Image:
    """A NIfTI file of version 1 or 2, compressed or not; its values are not decoded.

    Args:
        content: of the file.
        limit: the most bytes that it may have uncompressed.

    Raises:
        UnfitImageError: it has more.
        ValueError: it ends before its last value, or has none. Nibabel raises other errors where it is damaged.
    """
    if content[:2] == _GZIP:
        with gzip.open(io.BytesIO(content)) as file:
            content = file.read(limit + 1)
    if len(content) > limit:
        raise UnfitImageError("too large", f"unpacks to more than {limit} bytes")
    kind = nibabel.Nifti1Image if content[:4] in _NIFTI_1 else nibabel.Nifti2Image
    image = kind.from_bytes(content)
    size = math.prod(image.shape) * image.get_data_dtype().itemsize  # type: ignore[no-untyped-call]
    if not 0 < size <= len(content):  # before nibabel allocates what the header says
        raise ValueError("the file ends before its last value")
    return image
