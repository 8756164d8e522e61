"""The phantom as a dataset zip."""

import io
import zipfile
from pathlib import Path

import cv2
import pandas as pd

from nerveseg.arrays import Frame
from nerveseg.console import progress
from nerveseg.data import rle
from nerveseg.data.zips import store
from nerveseg.files import replacing
from nerveseg.params import PhantomParams
from nerveseg.phantom.sweep import sweep

FOLDS = 5


def write(path: Path, params: PhantomParams) -> None:
    """Writes the dataset zip in the layout of `params`; the same params give the same bytes.

    hydrogen-torch: `images/<subject>_<frame>.png` and `train.pq` with the columns image, class_id, rle_mask and fold
    (0 to 4, whole subjects).
    kaggle: `train/<subject>_<frame>.tif` and `train/<subject>_<frame>_mask.tif`, masks 0 or 255.
    """
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive, progress("subjects") as bar:
        rows = []
        for subject in bar.track(range(1, params.subjects + 1), description="Phantom"):
            for number, (frame, mask) in enumerate(sweep(subject, params), start=1):
                name = f"{subject}_{number}"
                if params.layout == "kaggle":
                    store(archive, f"train/{name}.tif", _encode(".tif", frame))
                    store(archive, f"train/{name}_mask.tif", _encode(".tif", mask * 255))
                else:
                    store(archive, f"images/{name}.png", _encode(".png", frame))
                    rows.append((f"{name}.png", "nerve", rle.encode(mask), subject % FOLDS))
        if params.layout == "hydrogen-torch":
            table = io.BytesIO()
            pd.DataFrame(rows, columns=["image", "class_id", "rle_mask", "fold"]).to_parquet(table, index=False)
            store(archive, "train.pq", table.getvalue())


def _encode(extension: str, image: Frame) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()
