"""Where no layout fits: the one that a dataset comes nearest to, by its tables and the names of its files."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.data.layouts import detect, hydrogen_torch, pairs
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, has_suffix, inventory
from nerveseg.errors import NervesegError

WAYS_OUT = (
    "name each mask as its frame with _mask at the end, such as 1_1.tif and 1_1_mask.tif, in one folder",
    "add a parquet or CSV table with the columns image and rle_mask, and fold, class_id, subject or site if known",
    "bring the files into any of these layouts in a folder, and run `nerveseg dataset build FOLDER OUT.zip`",
)

_IMAGE_COLUMNS = ("image", "img", "image_id", "file", "filename", "path", "frame", "id")
_MASK_COLUMNS = ("rle_mask", "rle", "mask", "mask_rle", "encodedpixels", "pixels", "segmentation", "runs")
_BY_SUFFIX = {  # what files of a suffix may be a part of
    ".dcm": "dicom",
    ".json": "coco",
    ".nii.gz": "nnunet",
    ".nii": "nnunet",
    ".nrrd": "dicom",
}
_TABLES_READ = 20


def sentence(archive: Archive) -> str:
    """Which layout is the nearest, what speaks for it and what is missing."""
    if not archive.hides_names:
        for sentences in (_by_table(archive), _by_names(archive.names)):
            if first := next(sentences, None):
                return first
    if found := next(_by_suffix(archive.names), ""):
        return found
    if not archive.hides_names and _images(archive.names):
        return f"Nearest is {pairs.NAME}: it has images, but none is named as a mask, and no table has masks."
    return f"None of them is near: it has {inventory(archive)}."


def _by_table(archive: Archive) -> Iterator[str]:
    for name in [name for name in archive.names if tables.is_table(name)][:_TABLES_READ]:
        columns: Sequence[str] = ()
        with suppress(NervesegError):  # damaged: it says nothing
            columns = tables.columns(archive, name)
        images, masks = (_similar(columns, known) for known in (_IMAGE_COLUMNS, _MASK_COLUMNS))
        if masks and images:
            yield (
                f"Nearest is {hydrogen_torch.NAME}: {name} has the columns {images} and {masks}; if they hold the file "
                "names of the frames and run lengths, call them image and rle_mask."
            )
        elif images and _images(archive.names):
            yield (
                f"Nearest is {hydrogen_torch.NAME}: {name} has the column {images}, but none that looks like run "
                f"lengths; its columns are {', '.join(columns[:20])}."
            )


def _similar(columns: Sequence[str], known: Sequence[str]) -> str:
    """The column whose name is the nearest to one of `known`; empty: none is near."""
    by_name = {column.casefold(): column for column in columns}
    for name in known:
        if near := difflib.get_close_matches(name, by_name, n=1, cutoff=0.85):
            return by_name[near[0]]
    return ""


def _by_names(names: Sequence[str]) -> Iterator[str]:
    images = _images(names)
    folders = defaultdict(set)  # by stem
    for path in images:
        folders[path.stem].add(f"{path.parent}/")
    endings = Counter(
        f"_{ending}" for stem in folders for start, _, ending in [stem.rpartition("_")] if start in folders
    )
    if endings:
        ending, number = endings.most_common(1)[0]
        yield (
            f"Nearest is {pairs.NAME}: {number} images are named as another with {ending} at the end, as masks may be, "
            "but data.mask_suffixes does not have it."
        )
    together = Counter(tuple(sorted(of)) for of in folders.values() if len(of) > 1)
    if together:
        where, number = together.most_common(1)[0]
        yield (
            f"Nearest is {pairs.NAME}: {number} images have the same name in {' and '.join(where)}, as frames and "
            "their masks may have."
        )


def _images(names: Sequence[str]) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names if has_suffix(name, IMAGE_SUFFIXES)]


def _by_suffix(names: Sequence[str]) -> Iterator[str]:
    expected = {layout.NAME: layout.EXPECTED for layout in detect.LAYOUTS}
    for suffix, layout in _BY_SUFFIX.items():
        number = sum(has_suffix(name, (suffix,)) for name in names)
        if number and layout in expected:
            yield f"Nearest is {layout}, because of its {suffix} files ({number}). It expects {expected[layout]}."
