"""The contact sheet of a dataset: frames with the outlines of their masks, on a page that needs nothing but itself."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nerveseg.data.archive import Archive
from nerveseg.data.findings import EXAMPLES, Finding, by_kind, counted
from nerveseg.data.layouts.dataset import Record
from nerveseg.files import replacing
from nerveseg.report import page

MOST = 60  # frames, or up to as many more as there are subjects, so that all have as many
_MOST_OF_A_REASON = 12  # of frames with findings, and of empty masks
_COLUMNS = 4
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shown:
    """A frame of the sheet, and the kinds of the findings about it."""

    record: Record
    is_empty: bool
    kinds: tuple[str, ...] = ()


def choose(records: Sequence[Record], areas: Mapping[str, int], findings: Sequence[Finding]) -> list[Shown]:
    """The frames of a sheet: some with findings of each kind, one or more of each subject, and some with empty masks.

    Args:
        records: all frames.
        areas: of their masks in pixels, by the frame's name; what could not be decoded is left out.
        findings: about any of them.
    """
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for finding in findings:
        if finding.kind not in kinds[finding.image]:
            kinds[finding.image].append(finding.kind)
    drawn = {record.image: record for record in records if record.image in areas}
    firsts = dict.fromkeys(finding.image for same in by_kind(findings) for finding in same[:EXAMPLES])
    doubtful = [drawn[image] for image in firsts if image in drawn][:_MOST_OF_A_REASON]
    left = [record for image, record in drawn.items() if record not in doubtful]
    empty = _spread([record for record in left if not areas[record.image]], _MOST_OF_A_REASON)
    nerve = _spread([record for record in left if areas[record.image]], MOST - len(doubtful) - len(empty))
    return [
        Shown(record, not areas[record.image], tuple(kinds.get(record.image, ())))
        for record in (*doubtful, *nerve, *empty)
    ]


def write(
    path: Path,
    archive: Archive,
    title: str,
    lead: str,
    facts: Mapping[str, str],
    findings: Sequence[Finding],
    shown: Sequence[Shown],
) -> None:
    """Writes the page, whole or not at all.

    Args:
        title: of the page.
        lead: which layout the dataset has and why.
        facts: how it is read.
        findings: all of them; the page has some of each kind.
        shown: frames that can be decoded.

    Raises:
        NervesegError: the disk is full or refuses a file.
    """
    how = page.Table(("what", "how it is read"), list(facts.items()), words=frozenset({0, 1}))
    groups = {
        "Frames with findings": [each for each in shown if each.kinds],
        "Frames with a nerve": [each for each in shown if not each.kinds and not each.is_empty],
        "Frames without a nerve": [each for each in shown if not each.kinds and each.is_empty],
    }
    pictures = [
        page.Pictures(f"{title} ({len(group)})", [_picture(archive, each) for each in group], _COLUMNS)
        for title, group in groups.items()
        if group
    ]
    text = "The outline is that of the mask, as it is read; pointing at a frame hides it."
    sections = [
        page.Section("How it is read", "Check this first: the subject must be the person scanned.", [how]),
        page.Section("Findings", _summary(findings), [_table(findings)] if findings else []),
        page.Section("Frames", text, pictures),
    ]
    rendered = page.render(title, lead, sections)
    with replacing(path) as beside:
        beside.write_text(rendered.html, encoding="utf-8")


def _spread(records: Sequence[Record], number: int) -> list[Record]:
    """So many records: evenly over the subjects and over the frames of each; some more, so that all have as many."""
    groups = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    if len(groups) >= number:
        return [group[len(group) // 2] for group in _evenly(list(groups.values()), number)]
    most = 1  # of a subject
    while sum(min(len(group), most) for group in groups.values()) < min(number, len(records)):
        most += 1
    return [record for group in groups.values() for record in _evenly(group, most)]


def _evenly(items: Sequence[_Item], number: int) -> list[_Item]:
    """At most so many of the items, at even distances."""
    if len(items) <= number:
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * number)] for place in range(number)]


def _picture(archive: Archive, shown: Shown) -> page.Picture:
    record = shown.record
    frame = record.frame.read(archive).pixels
    assert record.mask is not None
    mask = record.mask.read(archive, frame).pixels
    height, width = frame.shape
    facts = [
        f"subject {record.subject}" if record.subject else "unknown subject",
        *([f"site {record.site}"] if record.site else []),
        *([f"fold {record.fold}"] if record.fold is not None else []),
        f"{width}x{height}",
        "empty mask" if shown.is_empty else f"nerve {mask.mean():.1%}",
        *shown.kinds,
    ]
    return page.picture(frame, mask, None, record.image, ", ".join(facts))


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "The checks found nothing."
    return f"The checks found {counted(findings, 'error')} and {counted(findings, 'warning')}; {EXAMPLES} of each kind."


def _table(findings: Sequence[Finding]) -> page.Table:
    rows = [
        (finding.severity, finding.kind, str(len(same)), finding.image, finding.detail)
        for same in by_kind(findings)
        for finding in same[:EXAMPLES]
    ]
    marked = frozenset(number for number, row in enumerate(rows) if row[0] == "error")
    return page.Table(("severity", "kind", "count", "image", "detail"), rows, marked, frozenset({0, 1, 3, 4}))
