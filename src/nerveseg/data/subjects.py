"""Whom a frame shows and where it was scanned: by a column of the table, by a pattern for file names, or unknown.

A wrong reading puts one person on two sides of the split, where every score is too good and no check can see it. So
what the shipped pattern reads from names that may mean something else is reported.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from nerveseg.data.findings import Finding
from nerveseg.data.layouts.dataset import SUBJECT_COLUMNS, Dataset, Record
from nerveseg.data.names import FIRST_PART, matched, natural_key
from nerveseg.errors import NervesegError

COLUMN, NONE = "column", "none"  # what data.subject may be besides a pattern
_SHOWN = 3  # names in a warning
_FEW = range(2, 6)  # so many subjects without a digit look like classes
_MANY = 0.8  # subjects per frame from which a subject looks like a frame
_SEPARATORS = re.compile(r"[_\-. ]+")
_UPLOADED = "[0-9a-f]{8}-"  # what Label Studio puts before the names of uploaded files, another for each


def assign(dataset: Dataset, rule: str, *, required: bool) -> Dataset:
    """Reads the subject and the site of each record; empty where unknown.

    A column of the table goes before the pattern, for the subject and for the site.

    Args:
        dataset: its records hold what the table says, empty where it says nothing.
        rule: `data.subject`: "column", "none" or a pattern.
        required: whether a frame without a subject is an error.

    Returns:
        The dataset with the subjects and sites, the rule that held, and further findings: errors "unparseable subject"
        and "missing subject", warnings "doubtful subjects", "similar subjects", "subject at several sites" and
        "unread column".

    Raises:
        NervesegError: the rule is "column" and there is no such column.
    """
    if rule == COLUMN and not dataset.subject_from:
        where = f"{dataset.table} has neither" if dataset.table else "the dataset has no table"
        raise NervesegError(
            f"data.subject is column, which reads the column {' or '.join(SUBJECT_COLUMNS)} of the dataset's table, "
            f"but {where}. Add the column, or set data.subject to a pattern of the file names or to none."
        )
    held = COLUMN if dataset.subject_from and rule != NONE else rule
    names = [record.image for record in dataset.records]
    read: list[dict[str, str]] = [{}] * len(names) if rule in (COLUMN, NONE) else matched(names, rule)
    records = [
        replace(
            record,
            subject=record.subject if held == COLUMN else groups.get("subject", ""),
            site=record.site if dataset.site_from else groups.get("site", ""),
        )
        for record, groups in zip(dataset.records, read, strict=True)
    ]
    found = [
        *_unread(dataset, held),
        *(_missing(dataset, records, held) if required and held != NONE else []),
        *(_doubts(records) if held == FIRST_PART else []),
        *_similar(records),
        *_at_several_sites(records),
    ]
    return replace(dataset, records=records, findings=[*dataset.findings, *found], subject_rule=held)


def described(dataset: Dataset) -> str:
    """A sentence that says how the subjects of a dataset were read."""
    if dataset.subject_rule == NONE:
        return "Subjects are unknown (data.subject: none): each frame counts as a subject of its own."
    read = (
        f"from {dataset.subject_from}"
        if dataset.subject_rule == COLUMN
        else f"from the file names by data.subject, {dataset.subject_rule}"
    )
    unknown = sum(not record.subject for record in dataset.records)
    rest = f"; {unknown} frames have none, and each counts as a subject of its own" if unknown else ""
    return f"Subjects were read {read}{rest}."


def _missing(dataset: Dataset, records: Sequence[Record], held: str) -> Iterator[Finding]:
    for record in records:
        if record.subject:
            continue
        if held == COLUMN:
            detail = f"has no subject in {dataset.subject_from}"
            yield Finding("error", "missing subject", record.image, detail)
        else:
            detail = f"does not match data.subject, {held}; change the pattern, or set column or none"
            yield Finding("error", "unparseable subject", record.image, detail)


def _unread(dataset: Dataset, held: str) -> Iterator[Finding]:
    """Columns that may name the subject and are not read."""
    for column in dataset.columns:
        if column in SUBJECT_COLUMNS and held == NONE:
            detail = f"its column {column} is not read, because data.subject is none; set it to column to read it"
        elif not dataset.subject_from and re.search("subject|patient", column, re.IGNORECASE):
            detail = f"its column {column} is not read; if it names the person scanned, call it subject or patient_id"
        else:
            continue
        yield Finding("warning", "unread column", dataset.table, detail)


def _doubts(records: Sequence[Record]) -> Iterator[Finding]:
    """What makes the shipped pattern's reading doubtful, each with names and what was read."""
    read = [record for record in records if record.subject]
    subjects = list(dict.fromkeys(record.subject for record in read))
    long = [record for record in read if len(_SEPARATORS.split(PurePosixPath(record.image).stem)) > 2]
    if long:
        yield _doubt(f"{len(long)} of {len(records)} names have more than two parts", long)
    if len(subjects) == 1 and len(read) > 1:
        yield _doubt(f"all {len(read)} frames are of one subject", read)
    elif len(subjects) in _FEW and not any(re.search("[0-9]", subject) for subject in subjects):
        yield _doubt(f"the only subjects are {', '.join(subjects)}, which could be classes", read)
    elif len(subjects) > 1 and len(subjects) >= _MANY * len(read):
        yield _doubt(f"there are {len(subjects)} subjects for {len(read)} frames", read)


def _doubt(why: str, concerned: Sequence[Record]) -> Finding:
    first = {record.subject: record for record in reversed(concerned)}
    examples = sorted(concerned, key=lambda record: first[record.subject] is not record)[:_SHOWN]  # different subjects
    read = ", ".join(f"{record.subject} from {record.image}" for record in examples)
    way = "a pattern that fits these names"
    if all(re.match(_UPLOADED, record.image) for record in concerned):
        way = f"{_UPLOADED}{FIRST_PART}, which skips a prefix such as Label Studio's"
    detail = (
        f"{why}. Read as subject: {read}. If that is not the person scanned, one person may end up on two sides of the "
        f"split, and scores would be too good: set data.subject to {way}, to column, or "
        "to none. If it is, write a pattern for these names to end this warning"
    )
    return Finding("warning", "doubtful subjects", concerned[0].image, detail)


def _similar(records: Sequence[Record]) -> Iterator[Finding]:
    """Subjects that differ only in case or leading zeros."""
    alike: defaultdict[tuple[object, ...], dict[str, str]] = defaultdict(dict)
    for record in records:
        if record.subject:
            alike[tuple(natural_key(record.subject.casefold())[0])].setdefault(record.subject, record.image)
    for same in alike.values():
        if len(same) > 1:
            detail = (
                f"the subjects {', '.join(same)} differ only in case or leading zeros and count as different people; "
                "if they are one person, spell them the same way"
            )
            yield Finding("warning", "similar subjects", next(iter(same.values())), detail)


def _at_several_sites(records: Sequence[Record]) -> Iterator[Finding]:
    sites: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        if record.subject and record.site:
            sites[record.subject].setdefault(record.site, record.image)
    for subject, images in sites.items():
        if len(images) > 1:
            detail = (
                f"subject {subject} was scanned at several sites, {', '.join(images)}, and counts as one person; if "
                "these are different people, make the site part of the subject"
            )
            yield Finding("warning", "subject at several sites", next(iter(images.values())), detail)
