"""The frame browser: every scored frame of a page, to sort, to filter and to look at with its outlines.

Stable for other pages: `Scored`, `Field`, `build`, `frame_link` and `filter_link`. A page shows the block that `build`
returns in one of its sections, at most one a page; `page.Page.write` writes the frames beside it if they are too many.
"""

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from nerveseg.arrays import Frame, Mask
from nerveseg.report import pictures

ANCHOR = "frames"  # the id of the browser on its page
FOLDER = "frames"  # beside the page, of frames that are too many for it
INLINE = 20_000_000  # bytes of frames, as base64, that a page holds itself: 2,000 of 580x420, and it is below 25 MB


@dataclass(frozen=True)
class Field:
    """A fact of the frames that the browser shows, sorts by and filters by.

    Attributes:
        key: in `Scored.facts`.
        title: as people read it, with its unit.
        digits: after the decimal point; None: the fact is a text, and its values are offered to choose from.
    """

    key: str
    title: str
    digits: int | None = None


@dataclass(frozen=True)
class Scored:
    """A frame with its masks and its facts.

    Attributes:
        name: of the image file; unique.
        pixels: uint8 (H, W).
        truth: uint8 0/1 (H, W).
        predictions: masks as `truth` by their labels, which are the same and in the same order for all frames of a
            browser; up to three.
        facts: by the keys of the browser's fields; None or NaN where there is none.
    """

    name: str
    pixels: Frame
    truth: Mask
    predictions: Mapping[str, Mask]
    facts: Mapping[str, str | float | None]


@dataclass(frozen=True)
class Browser:
    """The block of a page, as `build` makes it.

    Attributes:
        data: what the page's script reads: fields, labels of the predictions, of each frame its name, size, facts and
            outlines, and where the pictures are.
        inline: the frames as base64 of AVIF, in the order of `data`; empty if they are in `files`.
        files: the frames by the names of their files in `FOLDER`; empty if they are in `inline`.
    """

    data: Mapping[str, Any]
    inline: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    kind: str = "browser"


def build(frames: Iterable[Scored], fields: Sequence[Field], limit: int = INLINE) -> Browser:
    """The browser of some frames, which it sorts by the first field that is a number, the lowest first.

    Args:
        fields: in the order in which they are shown.
        limit: bytes of frames in the page, as base64; if they are more, they go into files of `FOLDER`.

    Raises:
        ValueError: the frames have different predictions.
    """
    entries, contents, labels = [], [], set()
    for frame in frames:
        entries.append(_entry(frame, fields))
        contents.append(pictures.encode(frame.pixels))
        labels.add(tuple(frame.predictions))
    if len(labels) > 1:
        raise ValueError(f"the frames have different predictions: {sorted(labels)}")
    data = {
        "fields": [{"key": each.key, "title": each.title, "digits": each.digits} for each in fields],
        "labels": [label for each in labels for label in each],
        "frames": entries,
        "folder": None,
        "suffix": pictures.SUFFIX,
        "type": pictures.TYPE,
    }
    inline = [b64encode(content).decode() for content in contents]
    if sum(map(len, inline)) <= limit:
        return Browser(data, inline)
    files = {f"{number}{pictures.SUFFIX}": content for number, content in enumerate(contents)}
    return Browser(data | {"folder": FOLDER}, files=files)


def frame_link(name: str) -> str:
    """The address within a page that opens a frame in its browser."""
    return f"#{ANCHOR}?{urlencode({'frame': name})}"


def filter_link(**facts: str) -> str:
    """The address within a page that shows the frames with some facts, by their keys, in its browser."""
    return f"#{ANCHOR}?{urlencode(facts)}"


def _entry(frame: Scored, fields: Sequence[Field]) -> dict[str, Any]:
    height, width = frame.pixels.shape
    return {
        "name": frame.name,
        "size": [width, height],
        "facts": [_plain(frame.facts.get(each.key), each) for each in fields],
        "outlines": [pictures.outline(mask) for mask in (frame.truth, *frame.predictions.values())],
    }


def _plain(fact: str | float | None, field: Field) -> str | float | None:
    """A fact as JSON knows it, which has no NaN: "" for an unknown text, None for an undefined number."""
    if field.digits is None:
        return str(fact or "")
    number = math.nan if fact is None else float(fact)
    return None if math.isnan(number) else round(number, field.digits + 3)
