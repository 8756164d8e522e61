"""Smoke frames: a few frames with the network's masks, which its weights must reproduce."""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Frame, Mask
from nerveseg.errors import NervesegError
from nerveseg.files import replacing

Pair = tuple[Frame, Mask]  # (H, W) each


def write(pairs: Sequence[Pair], path: Path) -> None:
    """Writes frames and expected masks to an .npz file as `frame_0`, `mask_0`, ..."""
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    for number, (frame, mask) in enumerate(pairs):
        arrays |= {f"frame_{number}": frame, f"mask_{number}": mask}
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read(path: Path) -> list[Pair]:
    """Reads frames and expected masks.

    Raises:
        NervesegError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [(arrays[f"frame_{number}"], arrays[f"mask_{number}"]) for number in range(len(arrays.files) // 2)]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise NervesegError(f"{path.name} holds no smoke frames ({error}).") from None
