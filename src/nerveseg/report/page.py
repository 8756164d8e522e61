"""A page of HTML that needs nothing but itself: sections of text, figures, tables, charts and frames.

Everything that comes from data passes the template's escaping; only what `charts` draws is taken as markup. Scripts add
the frame browser and charts that answer to the pointer; without them, the page shows all the rest.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nerveseg.arrays import Frame, Mask
from nerveseg.files import replacing, replacing_folder
from nerveseg.report import charts, pictures
from nerveseg.report.browser import FOLDER, Browser


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
class Link:
    """A text that opens an address within the page, as `browser.frame_link` makes one."""

    text: str
    href: str


@dataclass(frozen=True)
class Table:
    """A table of texts; `marked` are numbers of rows that stand out, `words` and `code` of columns that hold such.

    `anchor` is its address within the page; "" for none.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    marked: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset({0})
    code: frozenset[int] = frozenset()
    caption: str = ""
    anchor: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as `charts` draws them."""

    charts: Sequence[charts.Chart]
    kind: str = "charts"


@dataclass(frozen=True)
class Picture:
    """A frame with outlines over it.

    Attributes:
        source: a data URI.
        width, height: of the frame in pixels, in which the outlines count.
        truth, prediction: paths of SVG; empty: no outline.
        name, caption: what stands below.
        href: what a click opens, within the page; "" for nothing.
    """

    source: str
    width: int
    height: int
    truth: str
    prediction: str
    name: str
    caption: str
    href: str = ""


@dataclass(frozen=True)
class Pictures:
    """Frames side by side below a title; so many `columns` where the page is wide, two on a phone."""

    title: str
    pictures: Sequence[Picture]
    columns: int = 3
    kind: str = "pictures"


@dataclass(frozen=True)
class Note:
    """A sentence that must not be missed, possibly with a link behind it; `tone` is good, bad or plain."""

    text: str
    tone: str = "plain"
    link: Link | None = None
    kind: str = "note"


Block = Tiles | Table | Charts | Pictures | Note | Browser


@dataclass(frozen=True)
class Section:
    """A part of the page: its title, what it means and where that ends, and what it shows."""

    title: str
    text: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page, and the frames in the folder beside it by the names of their files: none if the page holds them all."""

    html: str
    frames: Mapping[str, bytes]

    def write(self, path: Path) -> None:
        """Writes the page, and beside it the folder `frames`, with a note if that is all: DVC warns of empty folders.

        Raises:
            NervesegError: the disk is full or refuses a file.
        """
        with replacing_folder(path.with_name(FOLDER)) as folder:
            note = "are here" if self.frames else "fit into the page itself"
            (folder / "README.txt").write_text(f"The frames that {path.name} shows {note}.\n")
            for name, content in self.frames.items():
                (folder / name).write_bytes(content)
        with replacing(path) as beside:
            beside.write_text(self.html, encoding="utf-8")


def render(title: str, lead: str, sections: Sequence[Section]) -> Page:
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
    blocks = [block for section in sections for block in section.blocks]
    browser = next((block for block in blocks if isinstance(block, Browser)), None)
    has_charts = any(isinstance(block, Charts) for block in blocks)
    library = Markup(charts.SCRIPT.read_text(encoding="utf-8")) if has_charts else None  # noqa: S704
    html = environment.get_template("page.html.j2").render(
        title=title, lead=lead, sections=sections, browser=browser, library=library
    )
    return Page(html, browser.files if browser else {})


def picture(
    frame: Frame, truth: Mask | None, prediction: Mask | None, name: str, caption: str, href: str = ""
) -> Picture:
    """A frame with the outlines of its masks.

    Args:
        frame: uint8 (H, W). The picture is no larger than 512 pixels; the outlines keep the frame's.
        truth, prediction: uint8 0/1 (H, W), or None.
        href: as `Picture` has it.
    """
    height, width = frame.shape
    source = f"data:{pictures.TYPE};base64,{b64encode(pictures.encode(frame)).decode()}"
    true, predicted = ("" if mask is None else pictures.outline(mask) for mask in (truth, prediction))
    return Picture(source, width, height, true, predicted, name, caption, href)
