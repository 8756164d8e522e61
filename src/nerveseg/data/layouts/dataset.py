"""What a layout makes of a dataset zip: a record for each frame, and findings."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import dirname, splitext
from typing import Protocol

from nerveseg.data.archive import Archive
from nerveseg.data.decoding import FrameSource, MaskSource
from nerveseg.data.findings import Finding
from nerveseg.errors import NervesegError

SUBJECT_COLUMNS = ("subject", "patient_id")  # of a table, as it names the person scanned
TIF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIF_SUFFIXES)


@dataclass(frozen=True)
class Choices:
    """The parameters of the section `data` that say how a layout is read.

    Attributes:
        classes: what is nerve, where the dataset has several classes; None: it has one.
        mask_suffixes: what ends the name of a mask's file, after that of its frame.
    """

    classes: Sequence[int | str] | None = None
    mask_suffixes: Sequence[str] = ()


@dataclass(frozen=True)
class Record:
    """A frame and its mask.

    Attributes:
        image: the frame's name, unique in the dataset; that of its file, where it has one of its own.
        subject: the person scanned; empty: unknown.
        frame: where its pixels lie.
        mask: where its mask lies; None: there should be one, and a finding says that there is none.
        fold: the dataset's own fold.
        site: where it was scanned; empty: unknown.
        spacing_mm: distance between rows and between columns, in mm; None: unknown.
    """

    image: str
    subject: str
    frame: FrameSource
    mask: MaskSource | None = None
    fold: int | None = None
    site: str = ""
    spacing_mm: tuple[float, float] | None = None

    @property
    def group(self) -> str:
        """The subject; a frame of an unknown subject is a group of its own."""
        return self.subject or self.image


@dataclass(frozen=True)
class Dataset:
    """The contents of a zip, before any frame is decoded.

    Attributes:
        layout: the name of the layout.
        records: sorted naturally by name.
        table: the name of the table in the zip, and its columns; empty: there is none.
        classes: the number of masks of each class, by its value in `data.classes`, None where only decoding the masks
            would tell; empty: the masks have no class.
        subject_from: what in the dataset names the person scanned, such as "the column subject of train.pq"; empty:
            nothing does, so that `data.subject` reads the names of the frames.
        site_from: as subject_from, for the site.
        mask_values: `data.classes`, where it chooses values of the masks' files; each has to be in one of them.
        subject_rule: `data.subject` as it held; set by `subjects.assign`.
    """

    layout: str
    records: list[Record] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    table: str = ""
    columns: tuple[str, ...] = ()
    classes: dict[str, int | None] = field(default_factory=dict)
    subject_from: str = ""
    site_from: str = ""
    mask_values: Sequence[int | str] | None = None
    subject_rule: str = ""

    def error(self, kind: str, image: str, detail: str) -> None:
        self.findings.append(Finding("error", kind, image, detail))

    def warn(self, kind: str, image: str, detail: str) -> None:
        self.findings.append(Finding("warning", kind, image, detail))

    def warn_of_unlabelled(self, members: Sequence[str], reason: str) -> None:
        """Says that frames are skipped, and in which folders they lie."""
        folders = sorted({f"{PurePosixPath(name).parent}/" for name in members})
        self.warn("unlabelled frames", ", ".join(folders), f"{len(members)} frames are skipped: {reason}")

    def warn_of_joined(self, files: Sequence[str]) -> None:
        """Says that the images that several files list are one dataset."""
        detail = "the images that they list are joined; which of them lists an image is not used: split.by divides them"
        self.warn("joined files", ", ".join(files), detail)


class Layout(Protocol):
    """How datasets of one kind are laid out: what a module of this package implements.

    Attributes:
        NAME: its value of `data.layout`.
        EXPECTED: what such a dataset consists of, as a part of a sentence.
    """

    NAME: str
    EXPECTED: str

    def evidence(self, archive: Archive, choices: Choices) -> str:
        """Why the dataset has this layout, as a part of a sentence; empty: it does not have it.

        It reads no more than the names of the files, the columns of tables and the beginnings of a few files.
        """

    def read(self, archive: Archive, choices: Choices) -> Dataset:
        """Lists the frames of a dataset for which there is evidence, without decoding them.

        Raises:
            NervesegError: what describes the frames is damaged or ambiguous, or does not have what was chosen.
        """


def subject_column(columns: Collection[str], source: str) -> str:
    """Which of the columns, or keys, names the person scanned; empty: none.

    Raises:
        NervesegError: two of them do.
    """
    found = [name for name in SUBJECT_COLUMNS if name in columns]
    if len(found) > 1:
        raise NervesegError(f"{source} names the person scanned twice, as {' and as '.join(found)}. Keep one of them.")
    return found[0] if found else ""


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether the name of a file ends so, in any case."""
    return name.lower().endswith(suffixes)


def inventory(archive: Archive) -> str:
    """What files there are: `12 .png in images/; 1 .csv in ./`."""
    if archive.hides_names:
        return f"{len(archive.names)} files, whose names are not shown, because those of DICOM files may be people's"
    counts = Counter((dirname(name) or ".", splitext(name)[1] or "(no suffix)") for name in archive.names)
    files = [f"{number} {suffix} in {folder}/" for (folder, suffix), number in counts.most_common(10)]
    if len(counts) > len(files):
        files.append(f"{len(counts) - len(files)} more folders and suffixes")
    return "; ".join(files)
