"""The DICOM files that tests write, by dciodvfy (package dicom3tools): they are as the standard has them."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from dataset_zips import frame, mask
from dicom_files import by_pillow, by_pydicom, regions, segmented, segmented_cine, ultrasound

STILL = ultrasound(frame(1))
CINE = ultrasound(np.stack([frame(1), frame(2)]), SequenceOfUltrasoundRegions=regions({}))
TWO = np.stack([mask(30), mask(0)])[..., np.newaxis]
LOSSY = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 10, "LossyImageCompressionMethod": "ISO_10918_1"}
FILES = {
    "still": STILL,
    "cine": CINE,
    "colours": ultrasound(np.stack([frame(1), frame(2), frame(3)], axis=2)),
    "RLE": ultrasound(frame(1), syntax=RLELossless, encode=by_pydicom(RLELossless)),
    "JPEG": ultrasound(frame(1), syntax=JPEGBaseline8Bit, encode=by_pillow("JPEG"), **LOSSY),
    "JPEG-LS": ultrasound(frame(1), syntax=JPEGLSLossless, encode=by_pydicom(JPEGLSLossless)),
    "JPEG 2000": ultrasound(frame(1), syntax=JPEG2000Lossless, encode=by_pillow("JPEG2000", no_jp2=True)),
    "SEG": segmented(STILL, mask()[..., np.newaxis]),
    "SEG of a cine": segmented_cine(CINE, TWO),
    "SEG with empty frames": segmented_cine(CINE, TWO, keep_empty=True),
}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of the package dicom3tools")
@pytest.mark.parametrize("name", FILES)
def test_files_are_valid(tmp_path: Path, name: str) -> None:
    """Starts dciodvfy: it is no library."""
    path = tmp_path / "a.dcm"
    path.write_bytes(FILES[name])
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    assert "USImage" in said or "USMultiFrameImage" in said or "Segmentation" in said
