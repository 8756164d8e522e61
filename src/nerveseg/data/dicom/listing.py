"""Lists the frames of a dataset of DICOM files with their masks: DICOM SEG, mask images or label volumes.

Neither a file's name nor a value of its elements is in a record or a finding, except what `Identity` makes of them,
the scanner's model and the labels of segments.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pydicom.uid import MediaStorageDirectoryStorage

from nerveseg.data.archive import DICOM_SUFFIXES, Archive, UnfitImageError
from nerveseg.data.decoding import MaskFile, MaskSource
from nerveseg.data.dicom.files import Header, damage_is_unfit, read_header
from nerveseg.data.dicom.identity import Identity
from nerveseg.data.dicom.segmentations import SEGMENTATIONS, Segmentation
from nerveseg.data.dicom.sources import Cropped, DicomFrame, Files, SegmentMask, ShownSegment, VolumeMask
from nerveseg.data.dicom.volumes import SUFFIXES, Volume
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, Choices, Dataset, Record, has_suffix
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

_NUMBERED = re.compile("(.+)_([0-9]{1,9})")
_CLASSES_SHOWN = 20


@dataclass
class _Image:
    """A file with frames, and what may be its masks.

    Attributes:
        member: name of the file in the zip.
        shown: how messages call the file.
        name: of its frames, before their number.
        drawn: names of mask images in the zip, by the number of the frame from 1; None: not said.
        volumes: names of label volumes in the zip.
        segments: what DICOM SEG show of its frames, by the number of the frame from 1.
    """

    member: str
    shown: str
    name: str
    header: Header
    drawn: defaultdict[int | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    volumes: list[str] = field(default_factory=list)
    segments: defaultdict[int, list[ShownSegment]] = field(default_factory=lambda: defaultdict(list))

    @property
    def size(self) -> tuple[int, int]:
        return self.header.height, self.header.width

    @property
    def numbers(self) -> range:
        """The numbers of its frames, as DICOM counts them."""
        return range(1, self.header.frames + 1)


def read(archive: Archive, choices: Choices, layout: str, identity: Identity) -> Dataset:
    """Lists the frames.

    Args:
        archive: the zip.
        choices: of which `classes` names segments and labels.
        layout: the name of the layout.
        identity: names people, places and files.

    Raises:
        NervesegError: there is no mask, or none of a class that was chosen.
    """
    dataset = Dataset(
        layout,
        subject_from="PatientID, replaced by a keyed hash",
        site_from="InstitutionName, replaced by a keyed hash, or else the scanner's model",
    )
    listing = _Listing(archive, dataset, identity)
    listing.read_files()
    listing.match_files(tuple(suffix.lower() for suffix in choices.mask_suffixes))
    listing.match_segmentations()
    listing.choose(choices.classes)
    listing.make_records()
    images = list(listing.images.values())
    if not dataset.records and all(finding.severity != "error" for finding in dataset.findings):
        raise NervesegError(
            f"{archive.path} has {len(images)} DICOM files with frames, but a mask of none. Expected for each x.dcm: "
            "DICOM SEG; or x_mask.png, for a cine x_1_mask.png, x_2_mask.png and so on; or x.nii.gz, x.nrrd or "
            "x.seg.nrrd."
        )
    _warn_of_people(dataset, images, identity)
    return dataset


class _Listing:
    """The files of a dataset, and what is made of them.

    Attributes:
        images: by SOPInstanceUID.
        segmentations: by name in the zip.
        chosen: the segments and labels that are nerve; None: all.
    """

    def __init__(self, archive: Archive, dataset: Dataset, identity: Identity) -> None:
        self.images: dict[str, _Image] = {}
        self.segmentations: dict[str, Segmentation] = {}
        self.chosen: frozenset[str] | None = None
        self._archive = archive
        self._dataset = dataset
        self._identity = identity
        self._ignored: list[str] = []
        self._files = Files()

    def read_files(self) -> None:
        """Reads the headers of all DICOM files."""
        for member in self._archive.maybe_dicom:
            if not self._archive.is_dicom(member):
                self._ignored.append(member)
                continue
            try:
                self._read_file(member)
            except UnfitImageError as error:
                shown = self._archive.shown(member)
                self._dataset.error(error.kind, shown, f"{shown} {error}")

    def _read_file(self, member: str) -> None:
        elements = read_header(self._archive, member)
        with damage_is_unfit("is a damaged DICOM file"):
            kind = elements.get("SOPClassUID")
        if kind in SEGMENTATIONS:
            self.segmentations[member] = Segmentation.of(elements)
        elif "Rows" in elements:
            header = Header.of(elements)
            name = f"{self._identity.subject(header.patient) or 'unknown'}_{self._identity.file(header.uid)}"
            self._add(_Image(member, self._archive.shown(member), name, header))
        elif kind != MediaStorageDirectoryStorage:
            self._ignored.append(member)

    def _add(self, image: _Image) -> None:
        uid = image.header.uid
        if not uid:
            detail = f"{image.shown} has no SOPInstanceUID, by which other files name it"
            self._dataset.error("unreadable", image.shown, detail)
        elif uid in self.images:
            detail = f"{self.images[uid].shown} and {image.shown} have one SOPInstanceUID; keep one of them"
            self._dataset.error("duplicate name", f"{image.name}.dcm", detail)
        else:
            self.images[uid] = image

    def match_files(self, endings: tuple[str, ...]) -> None:
        """Gives each image the mask images and label volumes that are named as its file is, with one of these endings.

        A volume needs none.
        """
        by_place, by_stem = defaultdict(list), defaultdict(list)
        for image in self.images.values():
            stem = _without(image.member, DICOM_SUFFIXES)
            by_place[stem].append(image)
            by_stem[PurePosixPath(stem).name].append(image)

        def named(stem: str) -> list[_Image]:
            return by_place.get(stem) or by_stem.get(PurePosixPath(stem).name, [])

        for member in self._archive.names:
            if has_suffix(member, SUFFIXES):
                stem = _without(member, SUFFIXES)
                fits = named(stem) or named(_without(stem, endings))
                if self._is_one(member, len(fits)):
                    fits[0].volumes.append(member)
            elif has_suffix(member, IMAGE_SUFFIXES):
                stem = _without(member, IMAGE_SUFFIXES)
                if not has_suffix(stem, endings):
                    self._ignored.append(member)
                    continue
                stem = _without(stem, endings)
                pairs: list[tuple[int | None, _Image]] = [(None, image) for image in named(stem)]
                if numbered := _NUMBERED.fullmatch(stem):
                    pairs += [(int(numbered[2]), image) for image in named(numbered[1])]
                if self._is_one(member, len(pairs)):
                    pairs[0][1].drawn[pairs[0][0]].append(member)

    def _is_one(self, member: str, files: int) -> bool:
        if files != 1:
            detail = f"is by its name a mask of {f'{files} DICOM files' if files else 'no DICOM file'} in the zip"
            self._dataset.error("missing frame", self._archive.shown(member), detail)
        return files == 1

    def match_segmentations(self) -> None:
        """Gives each image what DICOM SEG show of its frames."""
        for member, segmentation in self.segmentations.items():
            lost = segmentation.unplaced
            for place, parts in segmentation.places.items():
                image = self.images.get(place.uid)
                frame = place.frame or (1 if image and image.header.frames == 1 else 0)
                if image and frame in image.numbers:
                    image.segments[frame] += [ShownSegment(member, segmentation, *part) for part in parts]
                else:
                    lost += len(parts)
            if lost:
                shown = self._archive.shown(member)
                detail = f"{lost} frames of this DICOM SEG name no frame, or not one, of the DICOM files in the zip"
                self._dataset.error("missing frame", shown, detail)

    def choose(self, classes: Sequence[int | str] | None) -> None:
        """Chooses the segments and labels that are nerve.

        Raises:
            NervesegError: a class that no segment and no label has.
        """
        masks = Counter(
            label
            for image in self.images.values()
            for segments in image.segments.values()
            for segment in segments
            for label in segment.labels
        )
        self._dataset.classes.update(masks)
        if classes is None:
            if len(masks) > 1:
                listed = ", ".join(f"{label} ({number} masks)" for label, number in masks.most_common(_CLASSES_SHOWN))
                detail = f"the DICOM SEG have several segments: {listed}. Set data.classes to those that are nerve"
                self._dataset.error("several classes", self._archive.shown(min(self.segmentations)), detail)
            return
        self.chosen = frozenset(map(str, classes))
        names = {label for each in self.segmentations.values() for label in each.labels.values()}
        for member in (member for image in self.images.values() for member in image.volumes):
            with suppress(UnfitImageError):  # found again, and reported, when the masks are read
                names |= Volume.load(self._archive, member).labels()
        if unknown := sorted(self.chosen - names):
            listed = f"there are {', '.join(sorted(names)[:_CLASSES_SHOWN])}" if names else "there are none"
            raise NervesegError(
                f"data.classes has {', '.join(unknown)}, but no segment or label of {self._archive.path} is called so: "
                f"{listed}. Set data.classes to those that are nerve, or to null where there is only one."
            )

    def make_records(self) -> None:
        """Makes the records, and warns of frames without masks and of files that are not read."""
        unlabelled, omitted = Counter[str](), Counter[str]()
        for image in self.images.values():
            masks = self._masks(image)
            self._dataset.records.extend(self._records(image, masks))
            unlabelled[image.name] = image.header.frames - len(masks)
            omitted[image.name] = sum(isinstance(mask, SegmentMask) and not mask.segments for mask in masks.values())
        self._dataset.records.sort(key=lambda record: natural_key(record.image))
        self._warn_of_frames("unlabelled frames", +unlabelled, "have no mask and are skipped")
        self._warn_of_frames(
            "omitted frames",
            +omitted,
            "are in no frame of the DICOM SEG of their file and have an empty mask: a SEG may leave out what is empty. "
            "If nobody looked at them, leave them out of the DICOM files",
        )
        if self._ignored:
            detail = f"{len(self._ignored)} files are neither DICOM files with frames nor masks by their names"
            self._dataset.warn("ignored file", self._archive.shown(min(self._ignored)), detail)

    def _warn_of_frames(self, kind: str, frames: Counter[str], what: str) -> None:
        if frames:
            detail = f"{frames.total()} frames of {len(frames)} DICOM files {what}"
            self._dataset.warn(kind, f"{min(frames)}.dcm", detail)

    def _records(self, image: _Image, masks: Mapping[int, MaskSource]) -> Iterator[Record]:
        header = image.header
        subject = self._identity.subject(header.patient)
        site = self._identity.site(header.institution) if header.institution else header.device
        for number, mask in masks.items():
            yield Record(
                f"{image.name}_{number:04d}.dcm",
                subject,
                DicomFrame(image.shown, image.member, number - 1, header.region, self._files),
                Cropped(mask, image.size, header.region),
                site=site,
                spacing_mm=header.spacing_mm,
            )

    def _masks(self, image: _Image) -> Mapping[int, MaskSource]:
        """The mask of each frame that has one."""
        kinds = {
            "a DICOM SEG": any(image.header.uid in each.covers for each in self.segmentations.values()),
            "mask images": bool(image.drawn),
            "label volumes": bool(image.volumes),
        }
        several = [kind for kind, has in kinds.items() if has]
        if len(several) > 1:
            self._several(image, f"{image.shown} has {' and '.join(several)}")
            return {}
        if image.drawn:
            return self._drawn(image)
        if image.volumes:
            return self._of_volume(image)
        return self._of_segments(image) if several else {}

    def _of_segments(self, image: _Image) -> Mapping[int, MaskSource]:
        members = defaultdict(set)  # by label
        for segments in image.segments.values():
            for segment in segments:
                for label in segment.labels:
                    members[label].add(segment.member)
        chosen = frozenset(members) if self.chosen is None else self.chosen
        for label in sorted(chosen & set(members)):
            if len(members[label]) > 1:
                self._several(image, f"{self._listed(members[label])} have both the segment {label} of {image.shown}")
        return {
            number: SegmentMask(image.size, tuple(image.segments.get(number, ())), chosen, self._files)
            for number in image.numbers
        }

    def _of_volume(self, image: _Image) -> Mapping[int, MaskSource]:
        if len(image.volumes) > 1:
            self._several(image, f"{self._listed(image.volumes)} are all named as {image.shown}")
        shape = (image.header.frames, *image.size)
        return {
            number: VolumeMask(image.volumes[0], number - 1, shape, self.chosen, self._files)
            for number in image.numbers
        }

    def _drawn(self, image: _Image) -> Mapping[int, MaskSource]:
        masks: dict[int, MaskSource] = {}
        for number, members in image.drawn.items():
            frame = 1 if number is None and image.header.frames == 1 else number
            if frame is None or frame not in image.numbers:
                detail = (
                    f"is by its name a mask of {image.shown}, which has the frames 1 to {image.header.frames}, but "
                )
                detail += "does not say of which one" if frame is None else f"of frame {frame}"
                self._dataset.error("missing frame", self._archive.shown(members[0]), detail)
            elif len(members) > 1 or frame in masks:
                self._several(image, f"{self._listed(members)} are masks of the frame {frame} of {image.shown}")
            else:
                masks[frame] = MaskFile(members[0], shown=self._archive.shown(members[0]))
        return masks

    def _several(self, image: _Image, detail: str) -> None:
        self._dataset.error("several masks", f"{image.name}.dcm", f"{detail}; keep one")

    def _listed(self, members: Collection[str]) -> str:
        return " and ".join(map(self._archive.shown, sorted(members)))


def _without(name: str, suffixes: Sequence[str]) -> str:
    """A name without the first of these suffixes that it has, in any case."""
    return next((name[: -len(suffix)] for suffix in suffixes if name.lower().endswith(suffix)), name)


def _warn_of_people(dataset: Dataset, images: Sequence[_Image], identity: Identity) -> None:
    """Warns of what may identify people, and of identifiers that may be those of one person."""

    def warn(kind: str, concerned: Sequence[_Image], detail: str) -> None:
        if concerned:
            name = min(image.name for image in concerned)
            dataset.warn(kind, f"{name}.dcm", f"{len(concerned)} DICOM files {detail}")

    look = "look at some frames, and at the source black out names and numbers"
    warn(
        "burned-in annotation",
        [image for image in images if image.header.burned_in == "YES"],
        f"say that text is burned into their pixels (0028,0301); {look}",
    )
    warn(
        "burned-in annotation",
        [image for image in images if image.header.burned_in not in ("YES", "NO")],
        f"do not say whether text is burned into their pixels (0028,0301); {look}",
    )
    tags = Counter(name for image in images for name in image.header.identifiers)
    warn(
        "identifiers in tags",
        [image for image in images if image.header.identifiers],
        f"have text in {', '.join(sorted(tags))}; nothing of it was copied, but the zip itself holds it",
    )
    for reason in sorted({image.header.uncropped for image in images} - {""}):
        concerned = [image for image in images if image.header.uncropped == reason]
        warn("ultrasound region", concerned, f"{reason}; their frames are not cropped")
    alike = defaultdict(set)
    for image in images:
        if image.header.patient:
            alike[tuple(natural_key(image.header.patient.casefold())[0])].add(image.header.patient)
    for same in (patients for patients in alike.values() if len(patients) > 1):
        concerned = [image for image in images if image.header.patient in same]
        names = ", ".join(sorted(map(identity.subject, same)))
        warn(
            "similar subjects",
            concerned,
            f"have the PatientIDs of {names}, which differ only in case or "
            "leading zeros and are kept apart; if they are one person, write them alike",
        )
