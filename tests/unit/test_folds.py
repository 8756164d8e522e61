import numpy as np
import pandas as pd
import pytest

from nerveseg.data import folds
from nerveseg.errors import NervesegError
from nerveseg.params import SplitParams


def split(**changes: object) -> SplitParams:
    base = {"by": "subject", "seed": 1, "validation": 0.2, "test": 0.2, "validation_fold": None, "test_fold": None}
    base |= {"folds": None, "fold": None, "folds_of": "all", "near_duplicate": 6}
    return SplitParams.model_validate(base | changes)


def by_fold(**changes: object) -> SplitParams:
    return split(**({"by": "fold", "validation_fold": 0, "test_fold": 1} | changes))


def table(subjects: list[str], fold: list[int | None] | None = None) -> pd.DataFrame:
    names = [f"{subject}_{number}.png" for number, subject in enumerate(subjects)]
    fold = fold if fold is not None else [None] * len(subjects)
    columns = {"image": names, "subject": subjects, "fold": pd.array(fold, dtype="Int64"), "sha256": names}
    return pd.DataFrame(columns).assign(mask_area=1, cluster=range(len(names)))


PEOPLE = [str(number) for number in range(1, 21)]


def sides(frames: pd.DataFrame, params: SplitParams) -> dict[str, str]:
    return dict(zip(frames["subject"], folds.assign(frames, params), strict=True))


def test_draws_whole_subjects_by_share() -> None:
    frames = table(PEOPLE * 3)
    assigned = folds.assign(frames, split())
    counts = frames.assign(split=assigned).groupby("split")["subject"].nunique().to_dict()
    assert counts == {"train": 12, "validation": 4, "test": 4}
    assert folds.check_leaks(frames.assign(split=assigned)) == []


def test_the_draw_does_not_depend_on_order_or_number_of_frames() -> None:
    drawn = sides(table(PEOPLE), split())
    assert sides(table(list(reversed(PEOPLE))), split()) == drawn
    assert sides(table(PEOPLE + PEOPLE[:5] * 7), split()) == drawn


def test_the_draw_of_a_seed_never_changes() -> None:
    drawn = sides(table(PEOPLE), split())
    assert [subject for subject, side in drawn.items() if side == "test"] == ["2", "11", "17", "19"]
    assert sides(table(PEOPLE), split(seed=2)) != drawn


def test_test_subjects_do_not_depend_on_the_validation_share() -> None:
    tests = [
        {subject for subject, side in sides(table(PEOPLE), split(validation=share)).items() if side == "test"}
        for share in (0.1, 0.4)
    ]
    assert tests[0] == tests[1]


def test_small_shares_get_one_subject_and_zero_gets_none() -> None:
    assert sorted(sides(table(PEOPLE[:3]), split(validation=0.01, test=0.01)).values()) == [
        "test",
        "train",
        "validation",
    ]
    assert set(sides(table(PEOPLE), split(test=0.0)).values()) == {"train", "validation"}
    assert set(sides(table(PEOPLE), split(validation=0.0)).values()) == {"train", "test"}
    assert set(sides(table(PEOPLE), split(validation=0.0, by="frame")).values()) == {"train", "test"}


def test_test_subjects_are_the_same_without_validation_subjects() -> None:
    drawn, without = (sides(table(PEOPLE), split(validation=share)) for share in (0.2, 0.0))
    assert {subject for subject, side in drawn.items() if side == "test"} == {
        subject for subject, side in without.items() if side == "test"
    }


def test_too_few_subjects_gives_the_counts() -> None:
    with pytest.raises(NervesegError, match="of 2 with frames, 1 would be for validation and 1 for testing"):
        folds.assign(table(["1", "1", "2"]), split())


def test_no_frames_is_a_clear_error() -> None:
    with pytest.raises(NervesegError, match="No frames to split"):
        folds.assign(table([]), split())


def tie(frames: pd.DataFrame, *subjects: str) -> pd.DataFrame:
    """Puts the first frames of these subjects into one cluster."""
    places = [frames.index[frames["subject"] == subject][0] for subject in subjects]
    frames.loc[places, "cluster"] = frames.loc[places[0], "cluster"]
    return frames


def test_subjects_that_share_near_duplicates_stay_together() -> None:
    for seed in range(30):
        ties = tie(tie(table(PEOPLE * 2), "3", "17"), "8", "9", "12")
        assigned = sides(ties, split(seed=seed))
        assert assigned["3"] == assigned["17"]
        assert assigned["8"] == assigned["9"] == assigned["12"]
        counts = pd.Series(assigned).value_counts()
        assert counts["test"] in (4, 5, 6)
        assert counts["validation"] in (4, 5, 6)


def test_clusters_of_subjects_are_transitive() -> None:
    frames = table(PEOPLE * 2)
    frames.loc[[0, 1], "cluster"] = 100
    frames.loc[[21, 2], "cluster"] = 101
    for seed in range(30):
        assigned = sides(frames, split(seed=seed))
        assert assigned["1"] == assigned["2"] == assigned["3"]


def test_shared_clusters_that_leave_nothing_to_train_on_are_listed() -> None:
    with pytest.raises(NervesegError, match="Near-duplicate frames keep subjects together: 1, 2, 3"):
        folds.assign(tie(table(["1", "2", "3"]), "1", "2", "3"), split())


def in_folds(frames: pd.DataFrame, number: int = 5, **changes: object) -> list[pd.Series]:
    """The split of each frame, for each fold."""
    return [folds.assign(frames, split(folds=number, fold=fold, **changes)) for fold in range(number)]


def test_every_subject_is_in_one_test_and_one_validation_fold() -> None:
    frames = table(PEOPLE * 3)
    found = in_folds(frames)
    for name in ("test", "validation"):
        assert (np.sum([assigned == name for assigned in found], axis=0) == 1).all()
    for number, assigned in enumerate(found):
        assert folds.check_leaks(frames.assign(split=assigned)) == []
        assert ((found[(number + 1) % 5] == "test") == (assigned == "validation")).all(), (
            "the next fold is for validation"
        )


def test_folds_have_similar_numbers_of_frames_with_and_without_a_nerve() -> None:
    random = np.random.default_rng(70)
    subjects = [str(number) for number in range(47)]
    people = np.repeat(subjects, random.integers(20, 120, 47)).tolist()
    share = dict(zip(subjects, random.uniform(0, 1, 47), strict=True))
    frames = table(people).assign(mask_area=[int(random.random() > share[person]) for person in people])
    for assigned in in_folds(frames):
        tests = frames[assigned == "test"]["mask_area"]
        assert len(tests) == pytest.approx(len(frames) / 5, rel=0.15)
        assert tests.mean() == pytest.approx(frames["mask_area"].mean(), abs=0.06)


def test_folds_depend_on_the_seed_and_not_on_the_order_of_frames() -> None:
    frames = table(PEOPLE * 2)
    reverse = frames.iloc[::-1].reset_index(drop=True)
    params = split(folds=4, fold=1)
    drawn = dict(zip(frames["subject"], folds.assign(frames, params), strict=True))
    assert dict(zip(reverse["subject"], folds.assign(reverse, params), strict=True)) == drawn
    assert sides(frames, split(folds=4, fold=1, seed=2)) != drawn


def test_folds_keep_subjects_with_shared_clusters_together() -> None:
    for assigned in in_folds(tie(table(PEOPLE * 2), "3", "17")):
        by_subject = dict(zip(table(PEOPLE * 2)["subject"], assigned, strict=True))
        assert by_subject["3"] == by_subject["17"]


def test_more_folds_than_subjects_is_a_clear_error() -> None:
    with pytest.raises(NervesegError, match="Too few subjects: 20 cannot be divided into 21 folds"):
        folds.assign(table(PEOPLE), split(folds=21, fold=0))


def test_a_fold_that_would_be_empty_is_a_clear_error() -> None:
    people = [str(person) for person, frames in enumerate([5, 4, 3, 7, 1, 1]) for _ in range(frames)]
    frames = table(people).assign(mask_area=[int(person == "4") for person in people])
    for fold in range(6):
        with pytest.raises(NervesegError, match=r"Fold 3 of 6 would be empty.*Change split.seed"):
            folds.assign(frames, split(folds=6, fold=fold, seed=6765))


def test_fewer_frames_with_and_without_a_nerve_than_folds_is_a_clear_error() -> None:
    frames = table(PEOPLE[:6]).assign(mask_area=[0, 0, 0, 1, 1, 1])
    with pytest.raises(NervesegError, match="3 with a nerve and 3 without cannot be divided into 4 folds"):
        folds.assign(frames, split(folds=4, fold=0))


def test_frames_are_drawn_regardless_of_subject_with_a_warning() -> None:
    frames = table(PEOPLE * 5)
    assigned = folds.assign(frames, split(by="frame"))
    assert assigned.value_counts().to_dict() == {"train": 60, "validation": 20, "test": 20}
    (finding,) = folds.check_leaks(frames.assign(split=assigned), on_purpose=True)
    assert (finding.severity, finding.kind) == ("warning", "the split leaks")
    assert "19 of 20 subjects are on two sides" in finding.detail
    with pytest.raises(NervesegError, match="The split leaks"):
        folds.check_leaks(frames.assign(split=assigned))


def test_every_frame_is_in_one_random_test_and_one_validation_fold() -> None:
    frames = table(PEOPLE * 5)
    found = in_folds(frames, by="frame")
    for name in ("test", "validation"):
        assert (np.sum([assigned == name for assigned in found], axis=0) == 1).all()
    assert [(assigned == "test").sum() for assigned in found] == [20] * 5
    shuffled = frames.sample(frac=1, random_state=1)
    assert folds.assign(shuffled, split(by="frame", folds=5, fold=0)).sort_index().tolist() == found[0].tolist()
    with pytest.raises(NervesegError, match="Too few frames: 2 cannot be split"):
        folds.assign(frames.head(2), split(by="frame", folds=3, fold=0))


def in_development(frames: pd.DataFrame, whole: SplitParams, number: int = 4) -> list[pd.Series]:
    """The split of each fold of the subjects that `whole` does not test."""
    changes = {"folds": number, "folds_of": "development"}
    return [folds.assign(frames, whole.model_copy(update=changes | {"fold": fold})) for fold in range(number)]


@pytest.mark.parametrize("own_folds", [False, True])
def test_folds_of_development_set_the_same_test_subjects_aside_and_validate_each_other_subject_once(
    own_folds: bool,
) -> None:
    frames = table(PEOPLE * 3, [int(name) % 4 for name in PEOPLE * 3])
    whole = by_fold() if own_folds else split()
    test = folds.assign(frames, whole) == "test"
    found = in_development(frames, whole)
    for assigned in found:
        assert ((assigned == "test") == test).all()
        assert folds.check_leaks(frames.assign(split=assigned)) == []
        assert set(assigned) == {"train", "validation", "test"}
    validated = pd.concat([frames["subject"][assigned == "validation"] for assigned in found])
    assert sorted(validated) == sorted(frames["subject"][~test]), "each frame once"


def test_folds_of_development_need_no_test_subjects() -> None:
    for assigned in in_development(table(PEOPLE), split(test=0.0)):
        assert set(assigned) == {"train", "validation"}
    with pytest.raises(NervesegError, match="Too few subjects: 16 cannot be divided into 17 folds"):
        in_development(table(PEOPLE), split(), 17)


def test_uses_the_datasets_own_folds() -> None:
    frames = table(["1", "2", "3", "4"], [0, 1, 2, 3])
    assert folds.assign(frames, by_fold()).tolist() == ["validation", "test", "train", "train"]
    assert folds.assign(frames, by_fold(test_fold=None)).tolist() == ["validation", "train", "train", "train"]
    assert folds.assign(frames, by_fold(validation_fold=None)).tolist() == ["train", "test", "train", "train"]


@pytest.mark.parametrize(
    ("fold", "params", "reason"),
    [
        ([None] * 3, by_fold(), "no fold column"),
        ([0, None, 2], by_fold(), r"1 of 3 frames have no fold, such as 2_1.png. Existing folds: 0 \(1 frames\), 2"),
        ([0, 2, 3], by_fold(), r"split.test_fold is 1, but the existing folds are: 0 \(1 frames\), 2 .*, 3"),
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


def test_near_duplicates_of_two_subjects_are_a_warning() -> None:
    frames = tie(table(["1", "2", "3", "4"], [0, 1, 2, 3]), "1", "3")
    (finding,) = folds.check_leaks(frames.assign(split=folds.assign(frames, by_fold())))
    assert (finding.kind, finding.image) == ("near-identical across subjects", "1_0.png")
    assert finding.detail == "2 frames of the subjects 1, 3 are near-duplicates; they are in train, validation"


def test_the_table_counts_frames_subjects_masks_and_distinct_frames() -> None:
    frames = table(["1", "1", "2", "3"]).assign(mask_area=[5, 0, 5, 5], cluster=[0, 0, 1, 2])
    shown = folds.table(frames.assign(split=["train", "train", "train", "test"]))
    cells = list(zip(*(column.cells for column in shown.columns), strict=True))
    assert cells == [("train", "3", "2", "2", "2"), ("validation", "0", "0", "0", "0"), ("test", "1", "1", "1", "1")]


def test_too_few_subjects_says_how_they_were_read() -> None:
    read = "Subjects were read from the file names by data.subject, P."
    for params in (split(), split(folds=3, fold=0)):
        with pytest.raises(NervesegError, match="Too few subjects") as error:
            folds.assign(table(["IMG"] * 3), params, read)
        assert f"{read} For example: IMG from IMG_0.png. data.subject changes that." in str(error.value)


def test_unknown_subjects_are_a_warning_of_the_leak_check() -> None:
    """A frame of an unknown subject stands for itself, so nothing else can be on two sides."""
    frames = table(PEOPLE).assign(cluster=[0, 0, *range(2, 20)])
    frames["subject"] = frames["image"]
    (finding,) = folds.check_leaks(frames.assign(split=folds.assign(frames, split())), subjects_known=False)
    assert (finding.severity, finding.kind, finding.image) == ("warning", "unknown subjects", "1_0.png")
    assert "a person may be on two sides" in finding.detail
    assert "too narrow" in finding.detail
    _, on_purpose = folds.check_leaks(frames.assign(split="train"), on_purpose=True, subjects_known=False)
    assert "an unknown number of subjects are on two sides" in on_purpose.detail
