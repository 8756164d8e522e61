import numpy as np
import pandas as pd
import pytest

from nerveseg.data import folds
from nerveseg.errors import NervesegError
from nerveseg.params import SplitParams


def split(**changes: object) -> SplitParams:
    base = {"by": "subject", "seed": 1, "validation": 0.2, "test": 0.2, "validation_fold": None, "test_fold": None}
    return SplitParams.model_validate(base | changes)


def by_fold(**changes: object) -> SplitParams:
    return split(**({"by": "fold", "validation_fold": 0, "test_fold": 1} | changes))


def table(subjects: list[str], fold: list[int | None] | None = None) -> pd.DataFrame:
    names = [f"{subject}_{number}.png" for number, subject in enumerate(subjects)]
    fold = fold if fold is not None else [None] * len(subjects)
    return pd.DataFrame({"image": names, "subject": subjects, "fold": pd.array(fold, dtype="Int64"), "sha256": names})


PEOPLE = [str(number) for number in range(1, 21)]


def sides(frames: pd.DataFrame, params: SplitParams) -> dict[str, str]:
    return dict(zip(frames["subject"], folds.assign(frames, params), strict=True))


def test_draws_whole_subjects_by_share() -> None:
    frames = table(PEOPLE * 3)
    assigned = folds.assign(frames, split())
    counts = frames.assign(split=assigned).groupby("split")["subject"].nunique().to_dict()
    assert counts == {"train": 12, "validation": 4, "test": 4}
    assert folds.check_leaks(frames.assign(split=assigned)) == []


def test_draw_is_the_same_for_any_order_and_number_of_frames() -> None:
    drawn = sides(table(PEOPLE), split())
    assert sides(table(list(reversed(PEOPLE))), split()) == drawn
    assert sides(table(PEOPLE + PEOPLE[:5] * 7), split()) == drawn


def test_draw_is_pinned_to_its_seed() -> None:
    drawn = sides(table(PEOPLE), split())
    assert [subject for subject, side in drawn.items() if side == "test"] == ["2", "11", "17", "19"]
    assert sides(table(PEOPLE), split(seed=2)) != drawn


def test_test_subjects_do_not_depend_on_the_share_of_validation() -> None:
    tests = [
        {subject for subject, side in sides(table(PEOPLE), split(validation=share)).items() if side == "test"}
        for share in (0.1, 0.4)
    ]
    assert tests[0] == tests[1]


def test_small_shares_get_one_subject_and_no_share_gets_none() -> None:
    assert sorted(sides(table(PEOPLE[:3]), split(validation=0.01, test=0.01)).values()) == [
        "test",
        "train",
        "validation",
    ]
    assert set(sides(table(PEOPLE), split(test=0.0)).values()) == {"train", "validation"}


def test_too_few_subjects_names_counts() -> None:
    with pytest.raises(NervesegError, match="Too few subjects: 2 with frames, of which 1 would validate and 1 test"):
        folds.assign(table(["1", "1", "2"]), split())


def test_no_frames_is_a_clear_error() -> None:
    with pytest.raises(NervesegError, match="No frame is left"):
        folds.assign(table([]), split())


def test_follows_the_datasets_own_folds() -> None:
    frames = table(["1", "2", "3", "4"], [0, 1, 2, 3])
    assert folds.assign(frames, by_fold()).tolist() == ["validation", "test", "train", "train"]
    assert folds.assign(frames, by_fold(test_fold=None)).tolist() == ["validation", "train", "train", "train"]


@pytest.mark.parametrize(
    ("fold", "params", "reason"),
    [
        ([None] * 3, by_fold(), "no fold column"),
        ([0, None, 2], by_fold(), r"1 of 3 frames have no fold, such as 2_1.png. Folds that exist: 0 \(1 frames\), 2"),
        ([0, 2, 3], by_fold(), r"split.test_fold is 1, but the folds that exist are: 0 \(1 frames\), 2 .*, 3"),
        ([5, 1, 3], by_fold(), r"split.validation_fold is 0, but"),
        ([0, 1, 1], by_fold(), "No fold is left to train on"),
    ],
)
def test_folds_that_do_not_fit_are_clear_errors(fold: list[int | None], params: SplitParams, reason: str) -> None:
    with pytest.raises(NervesegError, match=reason):
        folds.assign(table(["1", "2", "3"], fold), params)


def test_a_planted_leak_is_caught() -> None:
    frames = table(["1", "2", "3", "3", "10", "10"], [0, 1, 2, 0, 3, 1])
    with pytest.raises(NervesegError, match="2 of 4 subjects") as error:
        folds.check_leaks(frames.assign(split=folds.assign(frames, by_fold())))
    assert "  3: train, validation\n  10: test, train\n" in str(error.value)


def test_identical_pixels_on_two_sides_are_a_warning() -> None:
    frames = table(["1", "2", "3", "4"], [0, 1, 2, 3]).assign(sha256=["a", "b", "a", "b"])
    findings = folds.check_leaks(frames.assign(split=folds.assign(frames, by_fold())))
    assert [(f.severity, f.kind, f.image) for f in findings] == [
        ("warning", "same pixels on two sides", "3_2.png"),
        ("warning", "same pixels on two sides", "4_3.png"),
    ]
    assert "1_0.png in validation" in findings[0].detail


def test_identical_pixels_on_one_side_are_not() -> None:
    frames = table(["1", "2", "3", "4"], [0, 1, 2, 3]).assign(sha256=["a", "b", "c", "c"])
    assert folds.check_leaks(frames.assign(split=np.array(["validation", "test", "train", "train"]))) == []
