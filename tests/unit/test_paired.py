"""Two models on the same frames: paired differences, and where their masks differ."""

from pathlib import Path

import numpy as np
import pytest

from nerveseg.evaluation.paired import Difference, Pair
from paired_masks import EVALUATE, FRAMES, SUBJECTS, predictions, write_store

ALL = range(SUBJECTS * FRAMES)


def figure(pair: Pair, name: str) -> Difference:
    return next(each for each in pair.differences if each.figure.column == name)


def test_the_difference_is_paired_so_that_what_is_hard_for_both_cancels_out(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed")
    hard = {row: 2 * (row // FRAMES) for row in ALL}  # the subjects differ widely, for both models
    first = predictions(store, hard)
    pair = Pair.of(
        store, ("A", "B"), first, predictions(store, {row: right + 1 for row, right in hard.items()}), EVALUATE
    )
    dice = figure(pair, "dice")
    assert dice.difference.value == pytest.approx(-0.05), "each mask lies one of 20 columns further off"
    assert dice.difference.interval == pytest.approx((-0.05, -0.05))
    assert dice.second - dice.first == pytest.approx(-0.05)
    assert (dice.better, figure(pair, "hd95").better) == (0, 0), "a larger distance is worse"
    assert pair.frames["difference"].to_numpy() == pytest.approx(np.full(len(ALL), -0.05))


def test_what_an_interval_with_no_difference_in_it_speaks_for_is_nobody(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed")
    mixed = {row: 0 if row // FRAMES % 2 else 8 for row in ALL}
    other = {row: 8 if row // FRAMES % 2 else 0 for row in ALL}
    dice = figure(Pair.of(store, ("A", "B"), predictions(store, mixed), predictions(store, other), EVALUATE), "dice")
    assert dice.difference.value == pytest.approx(0)
    assert dice.better is None


def test_agreement_is_between_the_masks_whatever_the_truth_is(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed", empty=(0, 1))
    first = predictions(store, {row: 5 for row in ALL if row != 0})
    second = predictions(store, {row: -5 if row == 7 else 5 for row in ALL if row != 0})
    frames = Pair.of(store, ("A", "B"), first, second, EVALUATE).frames
    assert frames["agreement"].drop(7).tolist() == [1.0] * (len(ALL) - 1), "also where both predict nothing"
    assert frames.loc[7, "agreement"] == pytest.approx(0.5)
    assert frames.loc[7, "difference"] == 0, "both are as far off, on either side"


def test_the_rule_for_empty_masks_applies_to_both(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed", empty=(3,))
    silent, loud = predictions(store, {row: 0 for row in ALL if row != 3}), predictions(store, 0)
    by_kaggle = figure(Pair.of(store, ("A", "B"), silent, loud, EVALUATE), "dice")
    by_monai = figure(Pair.of(store, ("A", "B"), silent, loud, EVALUATE.model_copy(update={"empty": "monai"})), "dice")
    assert (by_kaggle.frames, by_kaggle.difference.value) == ((24, 24), pytest.approx(-1 / 24))
    assert (by_monai.frames, by_monai.difference.value) == ((23, 23), 0)


def test_only_frames_of_both_are_paired_in_the_order_of_the_first(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed", subjects_known=False)
    first = predictions(store, 1, range(4, 20)).iloc[::-1]
    pair = Pair.of(store, ("A", "B"), first, predictions(store, 2, range(10, 24)), EVALUATE)
    assert pair.frames["row"].tolist() == list(range(19, 9, -1))
    assert pair.frames["subject"].tolist() == [str(row // FRAMES) for row in range(19, 9, -1)]
    assert not pair.subjects_known
