"""Small dataset zips, built in memory from arrays."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

HEIGHT, WIDTH = 40, 50


def frame(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Noise: uint8 (height, width), another for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


def mask(area: int = 30, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 0/1 (height, width) whose first `area` pixels, row by row, are foreground."""
    return (np.arange(height * width) < area).astype(np.uint8).reshape(height, width)


def image(pixels: np.ndarray, suffix: str = "tif", **options: Any) -> bytes:
    """An image file of these pixels."""
    formats = {"tif": "TIFF", "tiff": "TIFF", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "bmp": "BMP"}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=formats[suffix.lower()], **options)
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    return pd.DataFrame(columns).to_parquet(index=False)


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def kaggle(subjects: int = 6, frames: int = 2, folder: str = "train/") -> dict[str, bytes]:
    """Members of a sound kaggle zip; the last frame of each subject has an empty mask (0/255 otherwise)."""
    members = {}
    for subject in range(1, subjects + 1):
        for number in range(1, frames + 1):
            name = f"{folder}{subject}_{number}"
            members[f"{name}.tif"] = image(frame(100 * subject + number))
            members[f"{name}_mask.tif"] = image(mask(30 if number < frames else 0) * 255)
    return members
