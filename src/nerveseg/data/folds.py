"""Splits frames into train, validation and test: by subject, by the dataset's own folds, or by single frames."""

import warnings

import numpy as np
import pandas as pd
from rich.table import Table

from nerveseg.arrays import Ints
from nerveseg.data import clusters
from nerveseg.data.findings import Finding
from nerveseg.data.frame_store import counts
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError
from nerveseg.params import SplitParams

SPLITS = ("train", "validation", "test")


def assign(frames: pd.DataFrame, split: SplitParams, subjects_read: str = "") -> pd.Series:
    """The split of each frame: "train", "validation" or "test".

    By subject, the draw depends only on the seed, the shares and the set of subjects, not on the order or number of
    frames: PCG64 permutes the subjects, sorted naturally; the first ones go to test, the next to validation. Subjects
    that share a cluster of near-duplicate frames are drawn together.

    With folds, subjects are distributed so that each fold has a similar number of frames with and without a nerve.
    `split.fold` is the test fold, the next one is for validation, the others are for training. With
    `split.folds_of: development`, the test frames are those of the same split without folds, and only the other
    subjects are divided: `split.fold` is for validation, the other folds are for training.

    By frame, single frames are drawn regardless of subject, for the leakage audit: PCG64 permutes them, sorted
    naturally by name.

    Args:
        frames: one row per frame with the columns image (unique), subject (str), fold (nullable Int64), mask_area and
            cluster (int64).
        split: how to split.
        subjects_read: a sentence that says how, for the message that there are too few.

    Raises:
        NervesegError: there are no frames, too few subjects or frames, or the requested folds do not exist.
    """
    if frames.empty:
        raise NervesegError(
            "No frames to split: no frame in the dataset has a mask, and data.frames: nonempty drops the others. "
            "Set data.frames: all, or check the masks."
        )
    if split.folds is not None and split.folds_of == "development":
        return _in_development(frames, split, subjects_read)
    if split.by == "fold":
        return _by_fold(frames, split)
    if split.by == "frame":
        return _by_frame(frames, split)
    return _by_share(frames, split, subjects_read) if split.folds is None else _in_folds(frames, split, subjects_read)


def _by_share(frames: pd.DataFrame, split: SplitParams, subjects_read: str) -> pd.Series:
    units = _units(frames)
    number = frames["subject"].nunique()
    wanted = _wanted(number, split)
    drawn = iter(np.random.Generator(np.random.PCG64(split.seed)).permutation(units.nunique()))
    side = pd.Series("train", index=units.index)
    for name, subjects in wanted.items():
        while (side == name).sum() < subjects and (side == "train").any():
            side[units == next(drawn)] = name
    if not (side == "train").any():
        raise NervesegError(
            f"Too few subjects: of {number} with frames, {wanted['validation']} would be for validation and "
            f"{wanted['test']} for testing, which leaves none to train on. Lower split.validation or split.test, or "
            "add more subjects." + _tied(units) + _read(frames, subjects_read)
        )
    return frames["subject"].map(side)


def _wanted(number: int, split: SplitParams) -> dict[str, int]:
    """How many of `number` subjects or frames are set aside by the shares, in the order in which they are drawn."""
    shares = {"test": split.test, "validation": split.validation}
    return {name: max(1, round(share * number)) if share else 0 for name, share in shares.items()}


def _in_folds(frames: pd.DataFrame, split: SplitParams, subjects_read: str) -> pd.Series:
    fold = _fold_of(frames, split, subjects_read)
    assert split.folds is not None
    assert split.fold is not None
    sides = np.full(len(frames), "train", dtype=object)
    sides[fold == split.fold] = "test"
    sides[fold == (split.fold + 1) % split.folds] = "validation"
    return pd.Series(sides, index=frames.index, dtype="str")


def _in_development(frames: pd.DataFrame, split: SplitParams, subjects_read: str) -> pd.Series:
    without = split.model_copy(update={"folds": None, "fold": None, "folds_of": "all"})
    sides = assign(frames, without, subjects_read)
    development = sides != "test"
    fold = _fold_of(frames[development], split, subjects_read)
    sides[development] = np.where(fold == split.fold, "validation", "train")
    return sides


def _fold_of(frames: pd.DataFrame, split: SplitParams, subjects_read: str) -> Ints:
    """The fold of each frame, int64 (frames,), from 0; of whole subjects."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import, needed only with folds

    assert split.folds is not None
    units = _units(frames)
    if units.nunique() < split.folds:
        raise NervesegError(
            f"Too few subjects: {len(units)} cannot be divided into {split.folds} folds. Lower split.folds, or add "
            "more subjects." + _tied(units) + _read(frames, subjects_read)
        )
    has_mask = frames["mask_area"].to_numpy() > 0
    if max(has_mask.sum(), (~has_mask).sum()) < split.folds:
        raise NervesegError(
            f"Too few frames: {has_mask.sum()} with a nerve and {(~has_mask).sum()} without cannot be divided into "
            f"{split.folds} folds. Lower split.folds, or add more frames."
        )
    folds = StratifiedGroupKFold(split.folds, shuffle=True, random_state=split.seed)
    with warnings.catch_warnings(action="ignore"):  # about a class with fewer frames than folds
        tests = [test for _, test in folds.split(has_mask, has_mask, frames["subject"].map(units))]
    if empty := [number for number, test in enumerate(tests) if not len(test)]:
        raise NervesegError(
            f"Fold {empty[0]} of {split.folds} would be empty: {len(frames)} frames of {len(units)} subjects cannot be "
            "balanced. Change split.seed, or lower split.folds." + _tied(units)
        )
    fold = np.zeros(len(frames), np.int64)
    for number, test in enumerate(tests):
        fold[test] = number
    return fold


def _by_frame(frames: pd.DataFrame, split: SplitParams) -> pd.Series:
    names = sorted(frames["image"], key=natural_key)
    drawn = np.random.Generator(np.random.PCG64(split.seed)).permutation(len(names))
    place = frames["image"].map(dict(zip(names, drawn.tolist(), strict=True)))
    if split.folds is None:
        wanted = _wanted(len(names), split)
        test, validation = place < wanted["test"], place < sum(wanted.values())
    else:
        assert split.fold is not None
        test, validation = (place % split.folds == (split.fold + step) % split.folds for step in (0, 1))
    sides = np.select([test, validation], ["test", "validation"], "train")
    wanted_sides = {"train": True, "validation": split.has_validation, "test": split.has_test}
    if not {name for name, is_wanted in wanted_sides.items() if is_wanted} <= set(sides):
        raise NervesegError(
            f"Too few frames: {len(names)} cannot be split as params.yaml asks; change its section split."
        )
    return pd.Series(sides, index=frames.index, dtype="str")


def _units(frames: pd.DataFrame) -> pd.Series:
    """The group of each subject: subjects with the same number are drawn together. In natural order of the subjects."""
    subjects = sorted(frames["subject"].unique(), key=natural_key)
    place = {subject: number for number, subject in enumerate(subjects)}
    first = frames["cluster"].map(frames.groupby("cluster")["subject"].first())
    tied = clusters.connected(frames["subject"].map(place), first.map(place), len(subjects))
    return pd.Series(tied, index=subjects)


def _tied(units: pd.Series) -> str:
    groups = [", ".join(map(str, unit.index)) for _, unit in units.groupby(units) if len(unit) > 1]
    return f" Near-duplicate frames keep subjects together: {'; '.join(groups)}." if groups else ""


def _read(frames: pd.DataFrame, subjects_read: str) -> str:
    if not subjects_read:
        return ""
    first = frames[frames["subject"] != frames["image"]].drop_duplicates("subject").head(3)  # the others are unknown
    examples = [f"{subject} from {image}" for subject, image in zip(first["subject"], first["image"], strict=True)]
    shown = f" For example: {', '.join(examples)}." if examples else ""
    return f" {subjects_read}{shown} data.subject changes that."


def _by_fold(frames: pd.DataFrame, split: SplitParams) -> pd.Series:
    folds = frames["fold"]
    counts = folds.value_counts().sort_index()
    existing = ", ".join(f"{fold} ({number} frames)" for fold, number in counts.items())
    if counts.empty:
        raise NervesegError("split.by is fold, but the dataset has no fold column. Set split.by: subject.")
    if folds.isna().any():
        raise NervesegError(
            f"split.by is fold, but {folds.isna().sum()} of {len(frames)} frames have no fold, such as "
            f"{frames['image'][folds.isna()].iloc[0]}. Existing folds: {existing}. Complete the fold column, or set "
            "split.by: subject."
        )
    folds_of = {"validation": split.validation_fold, "test": split.test_fold}
    wanted = {fold: name for name, fold in folds_of.items() if fold is not None}
    for fold, name in wanted.items():
        if fold not in counts.index:
            raise NervesegError(f"split.{name}_fold is {fold}, but the existing folds are: {existing}.")
    if len(counts) == len(wanted):
        raise NervesegError(f"No fold is left to train on. Existing folds: {existing}.")
    return folds.map(lambda fold: wanted.get(fold, "train")).astype("str")


def check_leaks(index: pd.DataFrame, on_purpose: bool = False, subjects_known: bool = True) -> list[Finding]:
    """Checks that no subject is on two sides of the split.

    Args:
        index: one row per frame with the columns image, subject, split, sha256 and cluster.
        on_purpose: single frames were drawn, so subjects on two sides are only a warning.
        subjects_known: whether the subject of every frame is known; where not, the check cannot see all leaks.

    Returns:
        A warning if subjects are unknown.
        A warning for each frame whose exact pixels are also on another side, under another subject, and for each
        cluster of near-duplicate frames shared by several subjects.

    Raises:
        NervesegError: lists the subjects that are on two sides.
    """
    sides = index.groupby("subject")["split"].unique()
    leaks = sides[sides.map(len) > 1]
    findings = []
    if not subjects_known:
        detail = (
            "a person may be on two sides of the split, and this check cannot see it, so scores may be too good; "
            "intervals resample frames instead of subjects and are too narrow. Name the subjects by a pattern in "
            "data.subject, or by a column subject or patient_id of the table"
        )
        findings.append(Finding("warning", "unknown subjects", index["image"].iloc[0], detail))
    if on_purpose:
        shared = f"{len(leaks)} of {len(sides)}" if subjects_known else "an unknown number of"
        detail = (
            f"split.by is frame: {shared} subjects are on two sides, so scores are too good. "
            "Such a split is only for the leakage audit; its model is not registered"
        )
        findings.append(Finding("warning", "the split leaks", index["image"].iloc[0], detail))
    elif len(leaks):
        subjects = sorted(leaks.index, key=natural_key)
        shown = [f"  {subject}: {', '.join(sorted(leaks[subject]))}" for subject in subjects[:20]]
        more = [f"  and {len(subjects) - 20} more"] if len(subjects) > 20 else []
        raise NervesegError(
            f"The split leaks: {len(subjects)} of {len(sides)} subjects are on two sides; scores would be too good:\n"
            + "\n".join(shown + more)
            + "\nSet split.by: subject, or fix the fold column of the dataset."
        )
    for _, same in index[index["sha256"].duplicated(keep=False)].groupby("sha256", sort=False):
        first = same.iloc[0]
        for frame in same[same["split"] != first["split"]].itertuples():
            detail = f"is in {frame.split}, but has the same pixels as {first['image']} in {first['split']}"
            findings.append(Finding("warning", "same pixels on two sides", str(frame.image), detail))
    for _, alike in index.groupby("cluster") if subjects_known else ():
        if alike["subject"].nunique() > 1 and alike["sha256"].nunique() > 1:  # otherwise the checks have reported it
            where = ", ".join(name for name in SPLITS if name in set(alike["split"]))
            people = ", ".join(sorted(alike["subject"].unique(), key=natural_key))
            detail = f"{len(alike)} frames of the subjects {people} are near-duplicates; they are in {where}"
            findings.append(Finding("warning", "near-identical across subjects", alike["image"].iloc[0], detail))
    return findings


def table(index: pd.DataFrame) -> Table:
    """The result of `counts` as a table to print."""
    shown = Table(title="Split", title_justify="left")
    found = counts(index).reindex(SPLITS, fill_value=0)
    shown.add_column("split")
    for column in found.columns:
        shown.add_column(column.replace("_", " "), justify="right")
    for name, row in found.iterrows():
        shown.add_row(str(name), *map(str, row))
    return shown
