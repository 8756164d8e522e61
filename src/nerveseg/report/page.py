"""A page of HTML that needs nothing but itself: sections of text, figures, tables, charts and frames.

Everything that comes from data passes the template's escaping; only what `charts` draws is taken as markup.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nerveseg.model import shape

_LONGEST = 512  # pixels of a picture's longer side
_QUALITY = 70  # of WebP, to 100


@dataclass(frozen=True)
class Tile:
    """A headline figure as text: its name, its value, its 95 % interval ("" where it has none), what to hold it to."""

    name: str
    value: str
    interval: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Headline figures side by side."""

    tiles: Sequence[Tile]
    kind: str = "tiles"


@dataclass(frozen=True)
class Table:
    """A table of texts; `marked` are numbers of rows that stand out, `words` and `code` of columns that hold such."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset({0})
    code: frozenset[int] = frozenset()
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Charts:
    """SVG charts side by side, as `charts` draws them."""

    charts: Sequence[Markup]
    kind: str = "charts"


@dataclass(frozen=True)
class Picture:
    """A frame with outlines over it.

    Attributes:
        source: a data URI.
        width, height: of the frame in pixels, in which the outlines count.
        truth, prediction: paths of SVG; empty: no outline.
        name, caption: what stands below.
    """

    source: str
    width: int
    height: int
    truth: str
    prediction: str
    name: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Frames side by side below a title; so many `columns` where the page is wide, two on a phone."""

    title: str
    pictures: Sequence[Picture]
    columns: int = 3
    kind: str = "pictures"


@dataclass(frozen=True)
class Note:
    """A sentence that must not be missed; `tone` is good, bad or plain."""

    text: str
    tone: str = "plain"
    kind: str = "note"


Block = Tiles | Table | Charts | Pictures | Note


@dataclass(frozen=True)
class Section:
    """A part of the page: its title, what it means and where that ends, and what it shows."""

    title: str
    text: str
    blocks: Sequence[Block]


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        lead: a sentence below the title.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(title=title, lead=lead, sections=sections)


def picture(
    frame: np.ndarray, truth: np.ndarray | None, prediction: np.ndarray | None, name: str, caption: str
) -> Picture:
    """A frame with the outlines of its masks.

    Args:
        frame: uint8 (H, W). The picture is no larger than 512 pixels; the outlines keep the frame's.
        truth, prediction: uint8 0/1 (H, W), or None.
    """
    height, width = frame.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
    content = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1].tobytes()
    source = f"data:image/webp;base64,{b64encode(content).decode()}"
    true, predicted = ("" if mask is None else _outline(mask) for mask in (truth, prediction))
    return Picture(source, width, height, true, predicted, name, caption)


def _outline(mask: np.ndarray) -> str:
    """The outlines of a mask as a path of SVG."""
    points = (" ".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in polygon.tolist()) for polygon in shape.outlines(mask))
    return "".join(f"M{each}Z" for each in points)
