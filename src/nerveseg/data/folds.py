"""Divides frames into train, validation and test: by whole subjects, or by the dataset's own folds."""

import numpy as np
import pandas as pd
from rich.table import Table

from nerveseg.data.findings import Finding
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError
from nerveseg.params import SplitParams

SPLITS = ("train", "validation", "test")


def assign(frames: pd.DataFrame, split: SplitParams) -> pd.Series:
    """The split of each frame: "train", "validation" or "test".

    By subject, the draw depends on the seed, the shares and the set of subjects only, not on the order or number of
    frames: PCG64 permutes the subjects in natural order; the first go to test, the next to validation.

    Args:
        frames: a row a frame with the columns subject (str) and fold (nullable Int64).
        split: how to divide.

    Raises:
        NervesegError: there are no frames, too few subjects, or not the folds that are asked for.
    """
    if frames.empty:
        raise NervesegError(
            "No frame is left to split: none of the dataset has a mask, and data.frames: nonempty drops the others. "
            "Set data.frames: all, or check the masks."
        )
    return _by_subject(frames, split) if split.by == "subject" else _by_fold(frames, split)


def _by_subject(frames: pd.DataFrame, split: SplitParams) -> pd.Series:
    subjects = sorted(frames["subject"].unique(), key=natural_key)
    tests, validations = (
        max(1, round(share * len(subjects))) if share else 0 for share in (split.test, split.validation)
    )
    if tests + validations >= len(subjects):
        raise NervesegError(
            f"Too few subjects: {len(subjects)} with frames, of which {validations} would validate and {tests} "
            "test, so that none is left to train on. Lower split.validation or split.test, or bring more subjects."
        )
    drawn = np.random.Generator(np.random.PCG64(split.seed)).permutation(len(subjects))
    side = dict.fromkeys(subjects, "train")
    side |= {subjects[place]: "test" for place in drawn[:tests]}
    side |= {subjects[place]: "validation" for place in drawn[tests : tests + validations]}
    return frames["subject"].map(side)


def _by_fold(frames: pd.DataFrame, split: SplitParams) -> pd.Series:
    folds = frames["fold"]
    counts = folds.value_counts().sort_index()
    exist = ", ".join(f"{fold} ({number} frames)" for fold, number in counts.items())
    if counts.empty:
        raise NervesegError("split.by is fold, but the dataset has no fold column. Set split.by: subject.")
    if folds.isna().any():
        raise NervesegError(
            f"split.by is fold, but {folds.isna().sum()} of {len(frames)} frames have no fold, such as "
            f"{frames['image'][folds.isna()].iloc[0]}. Folds that exist: {exist}. Complete the fold column, or set "
            "split.by: subject."
        )
    wanted = {split.validation_fold: "validation"}
    if split.test_fold is not None:
        wanted[split.test_fold] = "test"
    for fold, name in wanted.items():
        if fold not in counts.index:
            raise NervesegError(f"split.{name}_fold is {fold}, but the folds that exist are: {exist}.")
    if len(counts) == len(wanted):
        raise NervesegError(f"No fold is left to train on. Folds that exist: {exist}.")
    return folds.map(lambda fold: wanted.get(fold, "train")).astype("str")


def check_leaks(index: pd.DataFrame) -> list[Finding]:
    """Makes sure that no subject is on two sides of the split.

    Args:
        index: a row a frame with the columns image, subject, split and sha256.

    Returns:
        A warning for each frame whose very pixels are on another side too, as those of another subject.

    Raises:
        NervesegError: lists the subjects that are on two sides.
    """
    sides = index.groupby("subject")["split"].unique()
    leaks = sides[sides.map(len) > 1]
    if len(leaks):
        subjects = sorted(leaks.index, key=natural_key)
        shown = [f"  {subject}: {', '.join(sorted(leaks[subject]))}" for subject in subjects[:20]]
        more = [f"  and {len(subjects) - 20} more"] if len(subjects) > 20 else []
        raise NervesegError(
            f"The split leaks: {len(subjects)} of {len(sides)} subjects are on two sides; scores would be too good:\n"
            + "\n".join(shown + more)
            + "\nSet split.by: subject, or mend the fold column of the dataset."
        )
    findings = []
    for _, twins in index[index["sha256"].duplicated(keep=False)].groupby("sha256", sort=False):
        first = twins.iloc[0]
        for twin in twins[twins["split"] != first["split"]].itertuples():
            detail = f"in {twin.split} has the same pixels as {first['image']} in {first['split']}"
            findings.append(Finding("warning", "same pixels on two sides", str(twin.image), detail))
    return findings


def table(index: pd.DataFrame) -> Table:
    """Frames, subjects and frames with a mask of each split, to print."""
    shown = Table(title="Split", title_justify="left")
    shown.add_column("split")
    for column in ("frames", "subjects", "with mask"):
        shown.add_column(column, justify="right")
    for name in SPLITS:
        side = index[index["split"] == name]
        shown.add_row(name, *map(str, (len(side), side["subject"].nunique(), (side["mask_area"] > 0).sum())))
    return shown
