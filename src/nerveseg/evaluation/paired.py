"""Two models on the same frames: what each scores on every frame, and the differences of their means.

A difference has a 95 % interval from resamples that draw the same subjects for both models, so that what is hard for
both cancels out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from nerveseg.arrays import Floats, Ints, Mask
from nerveseg.data import rle
from nerveseg.data.frame_store import SITE, SPACING, FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import empty, figures, metrics
from nerveseg.evaluation.bootstrap import Estimate, SubjectBootstrap
from nerveseg.evaluation.figures import Figure
from nerveseg.evaluation.scores import Frame
from nerveseg.files import replacing
from nerveseg.params import EmptyRule, EvaluateParams

SIDES = ("a", "b")


@dataclass(frozen=True)
class Difference:
    """A figure of two models, A and B, on the same frames.

    Attributes:
        figure: one that each frame has.
        first, second: the means of A and B, each over the frames on which the figure is defined; NaN if there are none.
        frames: on how many frames it is defined, for A and for B.
        difference: B minus A.
    """

    figure: Figure
    first: float
    second: float
    frames: tuple[int, int]
    difference: Estimate

    @property
    def better(self) -> int | None:
        """Which model the interval speaks for: 0, 1, or None if it includes no difference or there is none."""
        bounds = self.difference.interval
        if bounds is None or bounds[0] <= 0 <= bounds[1]:
            return None
        return int((bounds[0] > 0) == (self.figure.better == "higher"))


@dataclass(frozen=True)
class Pair:
    """Two models, A and B, on the same frames.

    Attributes:
        names: what they are called, in this order.
        frames: a row per frame: row, image, true_area (pixels), subject, site (if any is known); the other columns of
            `score` as `dice_a`, `dice_b`, ..., by `evaluate.empty`; `difference`, the Dice of B minus that of A, NaN
            if either is undefined; `agreement`, the Dice between both masks, whatever the truth is, 1 if both are
            empty.
        differences: of the figures that `compared` returns.
        subjects_known: whether subject names people; if not, intervals resample frames.
    """

    names: tuple[str, str]
    frames: pd.DataFrame
    differences: list[Difference]
    subjects_known: bool

    @classmethod
    def of(
        cls,
        store: FrameStore,
        names: tuple[str, str],
        first: pd.DataFrame,
        second: pd.DataFrame,
        evaluate: EvaluateParams,
    ) -> Self:
        """Pairs what two models score, on the frames that both have, in the order of the first.

        Args:
            names: of A and B.
            first, second: of A and B, as `score` or `Scores` has them, by Kaggle's rule.
        """
        one, other = (by_rule(table, evaluate.empty)[columns(store)] for table in (first, second))
        both = one.merge(other, on=["row", "image", "true_area"], suffixes=("_a", "_b"))
        frames = both.join(store.index[store.index.columns.intersection(["subject", SITE])], on="row")
        bootstrap = SubjectBootstrap(frames["subject"], evaluate.resamples, evaluate.seed)
        return cls(
            names,
            frames.assign(difference=frames["dice_b"] - frames["dice_a"], agreement=_agreement(store, frames)),
            [_difference(figure, frames, bootstrap) for figure in compared(store)],
            store.subjects_known(),
        )


def compared(store: FrameStore) -> list[Figure]:
    """The registry's figures of frames that say which of two models is better on the frames of a dataset."""
    return [figure for figure in figures.of_frames(SPACING[0] in store.index) if figure.better]


def columns(store: FrameStore) -> list[str]:
    """The columns of `score`."""
    return ["row", "image", *(figure.column for figure in compared(store)), "true_area", "predicted_area", "rle_mask"]


def score(store: FrameStore, masks: Iterable[tuple[int, Mask]], evaluate: EvaluateParams) -> pd.DataFrame:
    """What predicted masks score.

    Args:
        masks: rows of the store, each with its predicted mask, uint8 0/1 (H, W).
        evaluate: has the tolerances of the normalised surface distance.

    Returns:
        A row per mask: row and image in the store's index, the figures that `compared` returns by Kaggle's rule for
        empty masks, true_area and predicted_area in pixels, and rle_mask, the mask as run lengths.
    """
    found = []
    for row, mask in masks:
        truth = store.mask(row)
        areas = {"true_area": int(np.count_nonzero(truth)), "predicted_area": int(np.count_nonzero(mask))}
        named = {"row": row, "image": store.index.at[row, "image"], "rle_mask": rle.encode(mask)}
        found.append({**named, **Frame(mask, truth, evaluate, store.spacing(row)).figures, **areas})
    return pd.DataFrame(found, columns=columns(store))


def recorded(table: pd.DataFrame, store: FrameStore, rows: Ints) -> Iterator[tuple[int, Mask]]:
    """Recorded masks, found by the name of their frame: for each of `rows` that has one, the row and the mask.

    Args:
        table: with the columns image, height, width and rle_mask, as `Scores` has it.
        rows: of the store, int64.
    """
    masks = table.set_index("image")[["rle_mask", "height", "width"]]
    for row in rows.tolist():
        if (image := store.index.at[row, "image"]) in masks.index:
            yield row, rle.decode(*masks.loc[image])


def by_rule(table: pd.DataFrame, rule: EmptyRule) -> pd.DataFrame:
    """A table of `score` with Dice and IoU by another rule for empty masks."""
    true = table["true_area"].to_numpy()
    return table.assign(**{name: empty.apply(table[name].to_numpy(), true, rule) for name in ("dice", "iou")})


def _difference(figure: Figure, frames: pd.DataFrame, bootstrap: SubjectBootstrap) -> Difference:
    one, other = (frames[f"{figure.column}_{side}"].to_numpy(np.float64) for side in SIDES)
    return Difference(
        figure,
        bootstrap.mean(one).value,
        bootstrap.mean(other).value,
        (int(np.isfinite(one).sum()), int(np.isfinite(other).sum())),
        bootstrap.difference(other, one),
    )


def _agreement(store: FrameStore, frames: pd.DataFrame) -> Floats:
    found = []
    for row, one, other in frames[["row", "rle_mask_a", "rle_mask_b"]].itertuples(index=False):
        first, second = (rle.decode(mask, *store.mask(row).shape) for mask in (one, other))
        found.append(metrics.score(first, second)[0])
    return np.array(found)


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes a table of `score`, possibly with further columns, as a parquet file."""
    with replacing(path) as beside:
        table.to_parquet(beside, index=False)


def read(path: Path) -> pd.DataFrame:
    """Reads what `write` wrote. Raises NervesegError if it is missing or damaged."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise NervesegError(f"{path} is missing: `dvc repro` makes it, `dvc pull` fetches it.") from None
    except (OSError, ValueError) as error:
        raise NervesegError(f"{path} holds no scores ({error}): `dvc repro -f -s register` recreates it.") from None
