"""`nerveseg dataset inspect`: looks at a dataset, says how it is read, and draws its contact sheet."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rich.text import Text

from nerveseg.console import console
from nerveseg.data import findings, folders, quarantine, subjects
from nerveseg.data.archive import Archive, Folder
from nerveseg.data.findings import Finding
from nerveseg.data.layouts import detect, options
from nerveseg.data.layouts.classes import example
from nerveseg.data.layouts.dataset import Choices, Dataset, Layout, inventory
from nerveseg.errors import NervesegError, TransientError
from nerveseg.inspection import nearest, reading
from nerveseg.settings import settings

_TITLE = "Contact sheet"
_HEAD = 1000  # bytes of a page in which its title stands
_REMOTE = ("s3://", "https://", "http://")


def inspect(uri: str, layout: str, subject: str | None, classes: str | None, out: Path) -> None:
    """Prints how a dataset is read and what the checks find, draws `out`, and writes an overlay to standard output.

    Args:
        uri: a zip or a folder, the s3:// or https:// address of a zip, or s3://bucket/prefix/.
        layout: the name of a layout, or "auto".
        subject: as `data.subject`; None: that of params.yaml here, or as it is shipped.
        classes: values for `data.classes`, with commas between them, or "null"; None: those of params.yaml here.
        out: the contact sheet; replaced if it is one.

    Raises:
        NervesegError: it cannot be read, has no layout or several, or has errors, which the split stage would refuse;
            or `out` is something else.
    """
    _require_free(out)
    rule, choices = options.read(subject, classes)
    with _opened(uri) as (archive, address):
        number = "" if archive.hides_names else f"{len(archive.names)} files: "
        _say("Dataset", f"{address}, {number}{inventory(archive)}")
        found, reason = _layout(archive, address, layout, choices)
        because = f"{found.NAME}, because {reason}"
        _say("Layout", f"{because}.")
        dataset = subjects.assign(found.read(archive, choices), rule, required=True)
        facts = reading.facts(dataset, choices.classes)
        _say_all(facts)
        # On the page, no folder of DICOM files is named: it is often called as its patient.
        at, name = ("The dataset", "DICOM files") if archive.hides_names else (address, archive.path.name)
        title, lead = f"{_TITLE} of {name}", f"{at} has the layout {because}."
        problems = _check_and_draw(archive, dataset, facts, title, lead, out)
    if reading.is_ambiguous(dataset, choices.classes):
        _say("Classes", _choose_classes(dataset))
    sys.stdout.write(reading.as_yaml(reading.sections(address, dataset, rule, choices)))
    sys.stdout.flush()
    if findings.errors(problems):
        raise NervesegError(
            f"{address} has {findings.counted(problems, 'error')}: the split stage would refuse it"
            f"{_unless_set_aside(problems, dataset)}. Change what a finding names, or mend the dataset, and inspect it "
            "again."
        )


def _check_and_draw(
    archive: Archive, dataset: Dataset, facts: dict[str, str], title: str, lead: str, out: Path
) -> list[Finding]:
    """Prints what the checks find and draws the contact sheet; returns the findings."""
    from nerveseg.data import checks  # the first answer does not wait for pandas and matplotlib
    from nerveseg.report import contact_sheet

    areas: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}

    def keep(pair: checks.Pair) -> None:
        areas[pair.record.image], sizes[pair.record.image] = pair.area, pair.frame.shape

    report = checks.check(archive, dataset, keep, keep_empty=True, set_aside=False)
    found: list[Finding] = report["findings"]
    checked = {
        "masks": f"{report['frames_with_mask']} of {report['frames']} frames have a nerve",
        "sizes": reading.sizes(sizes.values()),
    }
    _say_all(checked)
    findings.show(found, None)
    if not found:
        _say("Findings", "none")
    shown = contact_sheet.choose(dataset.records, areas, found)
    contact_sheet.write(out, archive, title, lead, {**facts, **checked}, found, shown)
    drawn = f"{len(shown)} of the frames, with the outlines of their masks" if shown else "no frames: none can be read"
    _say(_TITLE, f"{out} has {drawn}.")
    return found


def _unless_set_aside(found: Sequence[Finding], dataset: Dataset) -> str:
    """Which frames data.quarantine would set aside, as a part of a sentence; empty: that does not help."""
    aside = quarantine.of_frames(found, dataset.records)
    if sum(map(len, aside.values())) < len(findings.errors(found)):
        return ""
    number = f"{len(aside)} of {len(dataset.records)} frames"
    return f", unless data.quarantine: true sets {number} aside, as far as data.quarantine_cap allows"


def _choose_classes(dataset: Dataset) -> str:
    first = example(name for name, number in dataset.classes.items() if number != 0)
    return (
        f"say which are nerve, such as `classes: [{first}]` in params.yaml, or --classes {first} here. Until then, the "
        "masks of all classes are taken together."
    )


def _require_free(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            if f"<title>{_TITLE} ".encode() in file.read(_HEAD):
                return
    if path.exists() or path.is_symlink():
        raise NervesegError(f"{path} would be replaced, and is no contact sheet: name another file by --out.")


@contextmanager
def _opened(uri: str) -> Iterator[tuple[Archive, str]]:
    """The dataset, and its address without credentials and query."""
    if not uri.startswith(_REMOTE):
        path = Path(uri)
        if not path.exists():
            raise NervesegError(f"{uri} is missing (looked in {Path.cwd()}): name a zip, a folder or an address.")
        with Folder(path) if path.is_dir() else Archive(path) as archive:
            yield archive, uri
        return
    with tempfile.TemporaryDirectory(prefix="nerveseg-") as folder:
        place = uri.partition("://")[2].partition("/")[2].partition("?")[0]  # secrets are before and after it
        copy = Path(folder) / (PurePosixPath(place).name or "dataset.zip")
        try:
            record, _ = folders.fetch(uri, copy, anonymous=settings().s3_anonymous)
        except TransientError as error:
            raise TransientError(
                f"{error} But inspect keeps no part and starts over: download a large zip first, and inspect that."
            ) from None
        with Archive(copy) as archive:
            yield archive, record["uri"]


def _layout(archive: Archive, address: str, name: str, choices: Choices) -> tuple[Layout, str]:
    """The layout that is named, or the one that fits, and why.

    Raises:
        NervesegError: there is no such layout; or none or several fit.
    """
    detect.require_known(name)
    fitting = detect.recognised(archive, choices)
    named = [each for each in fitting if name in ("auto", each[0].NAME)]
    reasons = [f"  {layout.NAME}, because {reason}" for layout, reason in fitting]
    if len(named) > 1:
        options = " and ".join(f"--layout {layout.NAME}" for layout, _ in named)
        advice = (
            f"Inspect it with {options}, and set data.layout to the one whose contact sheet shows the masks to train "
            "on; or leave out what does not belong to the dataset."
        )
        raise NervesegError("\n".join([f"{address} fits several layouts:", *reasons, advice]))
    if named:
        return named[0]
    expected = [f"  {layout.NAME}: {layout.EXPECTED}" for layout in detect.LAYOUTS if name in ("auto", layout.NAME)]
    missing = "has none of the layouts" if name == "auto" else f"does not have the layout {name}"
    rest = ["It fits:", *reasons] if fitting else [nearest.sentence(archive), "Ways out:", *_numbered(nearest.WAYS_OUT)]
    raise NervesegError("\n".join([f"{address} {missing}. Expected:", *expected, *rest]))


def _numbered(ways: Sequence[str]) -> list[str]:
    return [f"  {number}. {way}" for number, way in enumerate(ways, start=1)]


def _say_all(facts: dict[str, str]) -> None:
    for name, fact in facts.items():
        _say(name.capitalize(), fact)


def _say(name: str, text: str) -> None:
    console.print(Text.assemble((name, "bold"), f": {text}"), soft_wrap=True)
