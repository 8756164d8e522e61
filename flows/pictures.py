"""Small copies of the report's pictures, inside the page of a flow run: it needs no other server to show them."""

from base64 import b64encode
from pathlib import Path

from nerveseg import paths

_SHOWN = {"curves.png": "the training", "best.jpg": "best frames", "worst.jpg": "worst frames"}
_WIDTHS = (960, 800, 640, 480, 360, 240)  # pixels; the first with which a picture is small enough is taken
_BYTES = 23_000  # of each; base64 adds a third
_QUALITY = 60  # of WebP, out of 100


def markdown(root: Path) -> list[str]:
    """The lines with the pictures of `reports/figures`, as far as they exist, each of at most 31 kB."""
    figures = root / paths.FIGURES
    return [
        line
        for file, title in _SHOWN.items()
        if (figures / file).exists()
        for line in (f"![{title}](data:image/webp;base64,{b64encode(_small(figures / file)).decode()})", "")
    ]


def _small(picture: Path) -> bytes:
    import cv2

    pixels = cv2.imread(str(picture))
    assert pixels is not None, f"{picture} was drawn by report"
    content = b""
    for width in _WIDTHS:
        size = (width, round(pixels.shape[0] * width / pixels.shape[1]))
        scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        content = cv2.imencode(".webp", scaled, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1].tobytes()
        if len(content) <= _BYTES:
            break
    return content
