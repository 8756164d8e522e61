"""The pictures on the page of a flow run: small, and inside the page itself."""

import re
from base64 import b64decode
from pathlib import Path

import cv2
import numpy as np

from flows import pictures


def test_pictures_lie_in_the_page_and_are_small_whatever_they_show(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "figures"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(70).integers(0, 256, (1500, 1080, 3), dtype=np.uint8)  # compresses worst
    for name in ("best.jpg", "curves.png", "worst.jpg"):
        cv2.imwrite(str(folder / name), noise)
    page = "\n".join(pictures.markdown(tmp_path))
    assert len(page) < 100_000
    for content in re.findall(r"!\[[a-z ]+\]\(data:image/webp;base64,([^)]+)\)", page):
        shown = cv2.imdecode(np.frombuffer(b64decode(content), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        assert shown.shape[1] >= 240
    assert page.count("data:image/webp") == 3


def test_missing_pictures_are_left_out(tmp_path: Path) -> None:
    assert pictures.markdown(tmp_path) == []
