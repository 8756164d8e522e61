"""Kaggle's layout: `<subject>_<frame>.tif` next to `<subject>_<frame>_mask.tif`, in any folder."""

from collections import defaultdict
from pathlib import PurePosixPath

from nerveseg.data.archive import Archive
from nerveseg.data.decoding import ImageFile, MaskFile
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, TIF_SUFFIXES, Choices, Dataset, Record, has_suffix
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

NAME = "kaggle"
EXPECTED = "<subject>_<frame>.tif next to <subject>_<frame>_mask.tif"

_MASK_ENDING = "_mask"


def evidence(archive: Archive) -> str:
    masks = [name for name in archive.names if has_suffix(name, TIF_SUFFIXES) and _is_mask(name)]
    return f"it has {len(masks)} masks such as {masks[0]}" if masks else ""


def read(archive: Archive, choices: Choices) -> Dataset:
    if choices.classes is not None:
        raise NervesegError(
            f"data.classes chooses values of a table's column class_id, but {archive.path} has no table: the masks "
            "are files. Set data.classes: null."
        )
    dataset = Dataset(NAME)
    frames, masks = defaultdict(list), defaultdict(list)  # by folder and stem of the frame
    for name in archive.names:
        if has_suffix(name, TIF_SUFFIXES):
            path = PurePosixPath(name)
            if _is_mask(name):
                masks[path.parent, path.stem[: -len(_MASK_ENDING)]].append(name)
            else:
                frames[path.parent, path.stem].append(name)
        elif has_suffix(name, IMAGE_SUFFIXES):
            dataset.warn("ignored file", PurePosixPath(name).name, f"{name} is not a TIF, but the masks are")

    labelled = {folder for folder, stem in frames if (folder, stem) in masks}
    unlabelled = [name for (folder, _), names in frames.items() if folder not in labelled for name in names]
    if unlabelled:
        dataset.warn_of_unlabelled(unlabelled, "no frame in their folder has a mask")

    folders = defaultdict(list)  # with masks, by stem of the frame
    for folder, stem in frames:
        if folder in labelled:
            folders[stem].append(folder)
    for stem in sorted(folders, key=natural_key):
        names = [name for folder in folders[stem] for name in frames[folder, stem]]
        own_masks = [name for folder in folders[stem] for name in masks.get((folder, stem), [])]
        if len(names) > 1 or len(own_masks) > 1:
            dataset.error("duplicate name", stem, f"is in the zip as {', '.join(sorted(names + own_masks))}")
            continue
        path = PurePosixPath(names[0])
        if not own_masks:
            dataset.error("missing mask", path.name, f"has no {stem}{_MASK_ENDING}{path.suffix} in {path.parent}/")
        mask = MaskFile(own_masks[0]) if own_masks else None
        dataset.records.append(Record(path.name, "", ImageFile(names[0]), mask))
    for (folder, stem), names in masks.items():
        if (folder, stem) not in frames:
            dataset.error("missing frame", PurePosixPath(names[0]).name, f"is a mask without {stem}.tif in {folder}/")
    return dataset


def _is_mask(name: str) -> bool:
    return PurePosixPath(name).stem.lower().endswith(_MASK_ENDING)
