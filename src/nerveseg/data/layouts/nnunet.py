"""nnU-Net's raw datasets, of either version: `imagesTr/CASE_0000.png`, `labelsTr/CASE.png` and `dataset.json`.

Source: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import dirname
from typing import Any

import numpy as np
import numpy.typing as npt

from nerveseg.arrays import Frame
from nerveseg.data.archive import MAX_IMAGE_BYTES, MAX_PIXELS, Archive, UnfitImageError
from nerveseg.data.decoding import DecodedFrame, DecodedMask, FrameSource, ImageFile, content, naming, opened
from nerveseg.data.layouts.classes import example
from nerveseg.data.layouts.dataset import TIF_SUFFIXES, Choices, Dataset, Record, inventory
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

NAME = "nnunet"
EXPECTED = "nnU-Net's dataset.json, with files such as case_0000.png in imagesTr/ and case.png in labelsTr/"

_IMAGES, _LABELS, _TEST_IMAGES = "imagesTr", "labelsTr", "imagesTs"
_DESCRIPTION = "dataset.json"
_MAX_DESCRIPTION = 16 * 2**20  # bytes; version 1 lists the cases
_PICTURES = (".png", ".bmp", *TIF_SUFFIXES)
_VOLUMES = (".nii.gz", ".nii")
_IGNORE = "ignore"  # nnU-Net's name for pixels that nobody has annotated
_LEVELS = 256  # of an 8-bit image

_Labels = dict[str, tuple[int, ...]]  # the numbers in the masks by name; a region has several


@dataclass(frozen=True)
class VolumeFrame:
    """A frame that is a NIfTI file of one slice."""

    member: str

    def read(self, archive: Archive) -> DecodedFrame:
        return DecodedFrame(_slice(archive, self.member))


@dataclass(frozen=True)
class LabelFile:
    """A mask that is a file of numbers.

    Attributes:
        numbers: those that are nerve.
        known: those that dataset.json names, and 0, without that of pixels to ignore.
    """

    member: str
    numbers: frozenset[int]
    known: frozenset[int]

    def read(self, archive: Archive, frame: Frame) -> DecodedMask:
        turned = 1
        if self.member.endswith(_VOLUMES):
            pixels = _slice(archive, self.member)
        else:
            with opened(archive, self.member) as (image, turned):
                if image.mode not in ("1", "L", "P"):
                    raise UnfitImageError("mask values", "has colours, but nnU-Net's labels are grey values")
                pixels = np.asarray(image).astype(np.uint8)
        present = np.flatnonzero(np.bincount(pixels.ravel(), minlength=_LEVELS)).tolist()
        if unknown := [str(number) for number in present if number not in self.known]:
            raise UnfitImageError(
                "mask values",
                f"{self.member} has pixels of {', '.join(unknown[:6])}, which {_DESCRIPTION} names as no label, or as "
                f"{_IGNORE}: correct them, or leave the case out",
            )
        return DecodedMask(np.isin(pixels, list(self.numbers)).astype(np.uint8), turned)


def evidence(archive: Archive, choices: Choices) -> str:
    roots = _roots(archive)
    return f"it has {_IMAGES}/ and {_LABELS}/ in {roots[0]}/" if roots else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    roots = _roots(archive)
    if len(roots) > 1:
        raise NervesegError(f"{archive.path} has the datasets {', '.join(map(str, roots))}. Keep one of them.")
    root = roots[0]
    described = _description(archive, root)
    labels = _labels(archive, described)
    dataset = Dataset(NAME)
    numbers = _chosen(dataset, labels, choices.classes)
    known = frozenset({0}.union(*(values for name, values in labels.items() if name != _IGNORE)))
    ending = _ending(archive, root, described)
    images, masks = _images(archive, root, ending), _files(archive, root / _LABELS, ending)
    for case in sorted(images.keys() | masks.keys(), key=natural_key):
        name = f"{case}{ending.removesuffix('.gz')}"  # of which .nii is a suffix like any other
        if case not in images:
            dataset.error("missing frame", name, f"{masks[case]} has no {_IMAGES}/{case}_0000{ending}")
            continue
        if case not in masks:
            dataset.error("missing mask", name, f"{images[case]} has no {_LABELS}/{case}{ending}")
        frame: FrameSource = (VolumeFrame if ending in _VOLUMES else ImageFile)(images[case])
        mask = LabelFile(masks[case], numbers, known) if case in masks else None
        dataset.records.append(Record(name, "", frame, mask))
    said, found = described.get("numTraining"), len(images.keys() | masks.keys())
    if isinstance(said, int) and said != found:
        dataset.error("missing frame", _DESCRIPTION, f"says numTraining: {said}, but there are {found} cases")
    if unlabelled := [name for name in archive.names if PurePosixPath(name).parent == root / _TEST_IMAGES]:
        dataset.warn_of_unlabelled(unlabelled, "nnU-Net's test images have no labels")
    used = {*images.values(), *masks.values()}
    folders = (root / _IMAGES, root / _LABELS)
    if ignored := [name for name in archive.names if PurePosixPath(name).parent in folders and name not in used]:
        dataset.warn("ignored file", _DESCRIPTION, f"{len(ignored)} files do not end in {ending}, such as {ignored[0]}")
    return dataset


def _roots(archive: Archive) -> list[PurePosixPath]:
    """The folders with imagesTr/ and labelsTr/."""
    folders = {*map(PurePosixPath, {dirname(name) for name in archive.names})}  # a path of each file takes long
    return sorted(folder.parent for folder in folders if folder.name == _IMAGES and folder.parent / _LABELS in folders)


def _description(archive: Archive, root: PurePosixPath) -> dict[str, Any]:
    name = str(root / _DESCRIPTION)
    if name not in archive.names:
        raise NervesegError(f"{archive.path} has {root / _IMAGES}/, but no {name}, which names the labels. Add it.")
    try:
        described = json.loads(archive.read(name, _MAX_DESCRIPTION).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise NervesegError(f"{name} in {archive.path} cannot be read: {error}.") from None
    if not isinstance(described, dict):
        raise NervesegError(f"{name} in {archive.path} is not a JSON object.")
    if "dataset" in described:
        raise NervesegError(
            f"{name} in {archive.path} lists its files under the key dataset, which nerveseg does not read. Put them "
            f"into {_IMAGES}/ and {_LABELS}/, and remove the key."
        )
    return described


def _labels(archive: Archive, described: Mapping[str, Any]) -> _Labels:
    """The labels; version 1 has their names by number, version 2 their numbers by name."""
    given = described.get("labels")
    named = [
        (value, key) if isinstance(value, str) else (key, value)
        for key, value in (given.items() if isinstance(given, dict) else ())
    ]
    found = {name: _numbers(value) for name, value in named}
    if not found or len(found) < len(named) or not all(found.values()):
        raise NervesegError(
            f"{_DESCRIPTION} in {archive.path} has no usable labels. Write them as nnU-Net does, such as "
            '"labels": {"background": 0, "nerve": 1}, with numbers up to 255.'
        )
    return found


def _numbers(value: object) -> tuple[int, ...]:
    """The number of a label, or those of a region; none: it is neither."""
    texts = list(map(str, value if isinstance(value, list) else [value]))
    numbers = tuple(int(text) for text in texts if re.fullmatch("[0-9]{1,3}", text))
    return numbers if len(numbers) == len(texts) and all(number < _LEVELS for number in numbers) else ()


def _chosen(dataset: Dataset, labels: _Labels, classes: Sequence[int | str] | None) -> frozenset[int]:
    """The numbers that are nerve.

    Raises:
        NervesegError: `classes` has a value that is no label.
    """
    nerve = {name: numbers for name, numbers in labels.items() if name != _IGNORE and any(numbers)}
    shown = ", ".join(f"{name} ({', '.join(map(str, numbers))})" for name, numbers in nerve.items()) or "no labels"
    every = frozenset[int]().union(*nerve.values())
    dataset.classes.update(dict.fromkeys(nerve))
    if classes is None:
        if len(nerve) > 1:
            detail = f"has several labels: {shown}. Set data.classes to those that are nerve"
            dataset.error("several classes", _DESCRIPTION, f"{detail}, such as data.classes: [{example(nerve)}]")
        return every
    by_class = {str(number): (number,) for number in every} | nerve
    if unknown := [str(label) for label in classes if str(label) not in by_class]:
        raise NervesegError(f"data.classes has {', '.join(unknown)}, but {_DESCRIPTION} has {shown}.")
    return frozenset(number for label in classes for number in by_class[str(label)])


def _ending(archive: Archive, root: PurePosixPath, described: Mapping[str, Any]) -> str:
    """The ending of all files; version 1 does not say it."""
    known = (*_PICTURES, *_VOLUMES)
    names = [name for name in archive.names if PurePosixPath(name).parent == root / _LABELS]
    used = [ending for ending in known if any(name.endswith(ending) for name in names)]
    said = described.get("file_ending", used[0] if len(used) == 1 else None)
    if said not in known:
        raise NervesegError(
            f"{_DESCRIPTION} in {archive.path} has the file_ending {said}; there are {inventory(archive)}. Save "
            f"frames and labels as one of {', '.join(known)}."
        )
    return str(said)


def _files(archive: Archive, folder: PurePosixPath, ending: str) -> dict[str, str]:
    """The files in a folder by their names without the ending."""
    paths = [PurePosixPath(name) for name in archive.names if name.endswith(ending)]
    return {path.name.removesuffix(ending): str(path) for path in paths if path.parent == folder}


def _images(archive: Archive, root: PurePosixPath, ending: str) -> dict[str, str]:
    """The images by case.

    Raises:
        NervesegError: a case has several channels, or an image has no number of a channel.
    """
    channels: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, member in _files(archive, root / _IMAGES, ending).items():
        case, _, channel = name.rpartition("_")
        if not case or not re.fullmatch("[0-9]{4}", channel):
            raise NervesegError(f"{member} in {archive.path} names no channel: call it {name}_0000{ending}.")
        channels[case][channel] = member
    for case, members in channels.items():
        if list(members) != ["0000"]:
            raise NervesegError(
                f"The case {case} in {archive.path} has the files {', '.join(members.values())}. nerveseg reads frames "
                "of one channel, _0000: keep the one that shows the nerve."
            )
    return {case: members["0000"] for case, members in channels.items()}


def _slice(archive: Archive, member: str) -> Frame:
    """The pixels of a NIfTI file of one slice, uint8 (height, width); its axes are columns, rows, and 1.

    Raises:
        UnfitImageError: it is damaged or too large, has several slices, or others than whole numbers from 0 to 255.
    """
    with naming(member):
        found = content(archive, member)
        try:
            return _eight_bits(_volume(found).T)
        except UnfitImageError:
            raise
        except Exception as error:  # decoders raise many kinds of errors on bad bytes; each becomes a finding
            raise UnfitImageError("unreadable", f"is damaged: {error or type(error).__name__}") from None


def _volume(found: bytes) -> npt.NDArray[Any]:
    """The values of a NIfTI file of one slice, (columns, rows)."""
    from nerveseg.data import nifti  # nibabel: half a second, which only these files need

    volume = nifti.parse(found, MAX_IMAGE_BYTES)
    columns, rows, *others = volume.shape
    if set(others) - {1}:
        raise UnfitImageError("several pages", f"has the shape {volume.shape}, but not columns, rows and one slice")
    if columns * rows > MAX_PIXELS:
        raise UnfitImageError("too large", f"has {columns}x{rows} pixels; the limit is {MAX_PIXELS} pixels")
    return np.asanyarray(volume.dataobj).reshape(columns, rows)


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The same numbers as uint8."""
    if values.dtype.names is not None:
        raise UnfitImageError("sample format", "has colours; save it in grey")
    with np.errstate(invalid="ignore"):
        found = values.astype(np.uint8, order="C")
    if not np.array_equal(found, values):
        raise UnfitImageError("bit depth", "has other values than the whole numbers 0 to 255; scale it as you see fit")
    return found
