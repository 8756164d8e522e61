"""DICOM: ultrasound frames and cines, with masks as DICOM SEG, mask images or label volumes.

Patients and institutions are replaced by keyed hashes, and file names and UIDs as well.
"""

from nerveseg.data.archive import Archive
from nerveseg.data.layouts.dataset import Choices, Dataset
from nerveseg.errors import NervesegError
from nerveseg.settings import settings

NAME = "dicom"
EXPECTED = "DICOM files of ultrasound, with masks as DICOM SEG, <file>_mask.png or label volumes named as the files"


def evidence(archive: Archive, choices: Choices) -> str:
    return "it has DICOM files" if archive.has_dicom else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    key = settings().identity_key
    if key is None:
        raise NervesegError(
            f"{archive.path} has DICOM files, whose patients are replaced by keyed hashes before anything is written, "
            "and there is no key. Set NERVESEG_IDENTITY_KEY to a secret of at least 16 characters, such as the output "
            "of `openssl rand -hex 32`, and keep it: with another key, the same person gets another name."
        )
    from nerveseg.data.dicom import listing  # pydicom, nibabel and pynrrd: only DICOM files need them
    from nerveseg.data.dicom.identity import Identity

    return listing.read(archive, choices, NAME, Identity(key.get_secret_value()))
