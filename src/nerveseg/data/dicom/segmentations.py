"""DICOM SEG: which segment a frame of it shows, and of which frame of which file."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

from nerveseg.arrays import Mask
from nerveseg.data.archive import MAX_PIXELS, UnfitImageError
from nerveseg.data.dicom.files import MAX_FRAMES, damage_is_unfit, text

SEGMENTATIONS = (UID("1.2.840.10008.5.1.4.1.1.66.4"), UID("1.2.840.10008.5.1.4.1.1.66.7"))  # the second: label maps

_LABEL_MAP, _FRACTIONAL = "LABELMAP", "FRACTIONAL"
_TYPES = ("BINARY", _FRACTIONAL, _LABEL_MAP)


@dataclass(frozen=True)
class Place:
    """A frame of a file: the file's SOPInstanceUID, and the frame's number from 1; 0: not said, so the only one."""

    uid: str
    frame: int


@dataclass
class Segmentation:
    """What a SEG says of its frames.

    Attributes:
        size: height and width of a frame.
        kind: SegmentationType.
        most: MaximumFractionalValue; only of a fractional one.
        labels: SegmentLabel by SegmentNumber.
        places: the frames of it, from 0, that show a part of a frame of a file; each with its SegmentNumber, or 0 where
            it shows all segments.
        covers: the files that it was made of; a frame of theirs that none of its frames shows is empty.
        unplaced: the number of its frames that name no frame of a file.
    """

    size: tuple[int, int]
    kind: str
    most: int
    labels: dict[int, str]
    places: defaultdict[Place, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    covers: set[str] = field(default_factory=set)
    unplaced: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> "Segmentation":
        """Reads a SEG without its pixels.

        Raises:
            UnfitImageError: it is damaged, too large or of an unknown type.
        """
        with damage_is_unfit("is a damaged DICOM SEG"):
            found = cls(
                (int(dataset.Rows), int(dataset.Columns)),
                text(dataset, "SegmentationType").upper(),
                int(dataset.get("MaximumFractionalValue") or 1),
                {int(segment.SegmentNumber): text(segment, "SegmentLabel") for segment in dataset.SegmentSequence},
            )
            if found.size[0] * found.size[1] > MAX_PIXELS or int(dataset.get("NumberOfFrames") or 1) > MAX_FRAMES:
                raise UnfitImageError(
                    "too large", f"is a DICOM SEG of over {MAX_PIXELS} pixels per frame or over {MAX_FRAMES} frames"
                )
            if found.kind not in _TYPES:
                raise UnfitImageError("unreadable", f"is a DICOM SEG of a type other than {', '.join(_TYPES)}")
            found.labels.pop(0, None)  # the background of a label map
            found._place(dataset)
            return found

    def _place(self, dataset: Dataset) -> None:
        for series in dataset.get("ReferencedSeriesSequence") or []:
            self.covers |= {
                str(each.ReferencedSOPInstanceUID) for each in series.get("ReferencedInstanceSequence") or []
            }
        shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
        for index, group in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or []):
            places = set(_sources(group)) or set(_sources(shared))
            if len(places) != 1:
                self.unplaced += 1
                continue
            number = 0 if self.kind == _LABEL_MAP else _segment(group) or _segment(shared)
            if number not in self.labels and self.kind != _LABEL_MAP:
                raise ValueError
            (place,) = places
            self.places[place].append((index, number))
            self.covers.add(place.uid)

    def shown(self, number: int) -> set[str]:
        """The labels of the segments that a frame of it with this SegmentNumber, or 0, shows."""
        return {self.labels[number]} if number else set(self.labels.values())

    def mask(self, values: NDArray[Any], number: int, chosen: frozenset[str]) -> Mask:
        """What a frame of it shows of the chosen segments, uint8 0/1 of its size.

        Args:
            values: the frame, as it is stored.
            number: its SegmentNumber, or 0 where it shows all segments.
            chosen: labels of segments.
        """
        if self.kind == _LABEL_MAP:
            return np.isin(values, [each for each, label in self.labels.items() if label in chosen]).astype(np.uint8)
        if self.labels[number] not in chosen:
            return np.zeros(values.shape, np.uint8)
        half = self.most if self.kind == _FRACTIONAL else 1
        return (2 * values.astype(np.int64) >= half).astype(np.uint8)


def _first(items: Sequence | None) -> Dataset:
    return items[0] if items else Dataset()


def _segment(group: Dataset) -> int:
    return int(_first(group.get("SegmentIdentificationSequence")).get("ReferencedSegmentNumber") or 0)


def _sources(group: Dataset) -> Iterator[Place]:
    for derivation in group.get("DerivationImageSequence") or []:
        for source in derivation.get("SourceImageSequence") or []:
            numbers = source.get("ReferencedFrameNumber")
            for number in numbers if isinstance(numbers, MultiValue) else [numbers or 0]:
                yield Place(str(source.ReferencedSOPInstanceUID), int(number))
