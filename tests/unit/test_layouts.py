import unicodedata
from pathlib import Path

import numpy as np
import pytest

from dataset_zips import frame, image, kaggle, parquet, write_zip
from nerveseg.data import layouts, rle
from nerveseg.data.archive import Archive
from nerveseg.data.names import natural_key
from nerveseg.errors import NervesegError

PNG = image(frame(1), "png")
TIF = image(frame(1))


def find(tmp_path: Path, members: dict[str, bytes], classes: list[int | str] | None = None) -> layouts.Dataset:
    with Archive(write_zip(tmp_path / "a.zip", members)) as archive:
        return layouts.find(archive, classes)


def refusal(tmp_path: Path, members: dict[str, bytes], classes: list[int | str] | None = None) -> str:
    with pytest.raises(NervesegError) as error:
        find(tmp_path, members, classes)
    return str(error.value)


def kinds(dataset: layouts.Dataset) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.kind, finding.image) for finding in dataset.findings]


def test_kaggle_pairs_are_sorted_naturally_for_any_order_in_the_zip(tmp_path: Path) -> None:
    names = ["x/10_1", "x/2_10", "x/2_9"]
    dataset = find(tmp_path, {f"{name}{end}.tif": TIF for name in names for end in ("_mask", "")})
    assert dataset.layout == "kaggle"
    assert [(r.image, r.member, r.mask_member) for r in dataset.records] == [
        ("2_9.tif", "x/2_9.tif", "x/2_9_mask.tif"),
        ("2_10.tif", "x/2_10.tif", "x/2_10_mask.tif"),
        ("10_1.tif", "x/10_1.tif", "x/10_1_mask.tif"),
    ]
    assert dataset.findings == []


@pytest.mark.parametrize("suffix", ["tif", "TIF", "tiff", "Tiff"])
@pytest.mark.parametrize("folder", ["", "train/", "deep/down/here/"])
def test_kaggle_in_any_folder_and_any_case(tmp_path: Path, suffix: str, folder: str) -> None:
    dataset = find(tmp_path, {f"{folder}1_1.{suffix}": TIF, f"{folder}1_1_mask.{suffix}": TIF})
    assert [record.image for record in dataset.records] == [f"1_1.{suffix}"]
    assert dataset.findings == []


def test_kaggle_skips_the_unlabelled_test_folder_with_one_warning(tmp_path: Path) -> None:
    dataset = find(tmp_path, kaggle() | {f"test/{number}.tif": TIF for number in range(7)})
    assert len(dataset.records) == 12
    assert kinds(dataset) == [("warning", "unlabelled frames", "test/")]
    assert "7 frames" in dataset.findings[0].detail


def test_kaggle_finds_every_broken_pair_at_once(tmp_path: Path) -> None:
    members = kaggle() | {"train/7_1.tif": TIF, "train/8_1_mask.tif": TIF}
    members |= {"more/1_1.tif": TIF, "more/1_1_mask.tif": TIF, "train/1_2.png": PNG}
    dataset = find(tmp_path, members)
    assert sorted(kinds(dataset)) == [
        ("error", "duplicate name", "1_1"),
        ("error", "missing frame", "8_1_mask.tif"),
        ("error", "missing mask", "7_1.tif"),
        ("warning", "ignored file", "1_2.png"),
    ]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "PNG"])
@pytest.mark.parametrize("value", ["{}", "images/{}", "C:\\data\\{}"])
def test_hydrogen_torch_with_any_image_type_and_folder(tmp_path: Path, suffix: str, value: str) -> None:
    name = f"1_1.{suffix}"
    table = parquet(image=[value.format(name)], class_id=["0"], rle_mask=["1 5"])
    dataset = find(tmp_path, {"train.pq": table, f"images/{name}": image(frame(1), suffix)})
    assert dataset.layout == "hydrogen-torch"
    assert [(r.image, r.member, r.runs, r.fold) for r in dataset.records] == [(name, f"images/{name}", ("1 5",), None)]


CSV = b'image,class_id,rle_mask,fold\n1_1.png,0,"1 5",4\n1_1.png,0,"9 2",4\n2_1.png,0,,0\n3_1.png,0,NaN,0.0\n'
COLUMNS = {
    "image": ["1_1.png", "1_1.png", "2_1.png", "3_1.png"],
    "class_id": [0, 0, 0, 0],
    "rle_mask": ["1 5", "9 2", None, "nan"],
}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("train.csv", CSV),
        ("train.csv", b"\xef\xbb\xbf" + CSV),
        ("sub/train.parquet", parquet(**COLUMNS, fold=[4, 4, 0, 0])),
        ("train.pq", parquet(**COLUMNS, fold=[4.0, 4.0, 0.0, 0.0])),
        ("TRAIN.PQ", parquet(**COLUMNS, fold=["4", "4", "0", "0"])),
    ],
)
def test_rows_of_an_image_merge_and_nulls_are_empty_masks(tmp_path: Path, name: str, table: bytes) -> None:
    dataset = find(tmp_path, {name: table} | dict.fromkeys(["i/1_1.png", "i/2_1.png", "i/3_1.png"], PNG))
    assert [(r.image, r.runs, r.fold) for r in dataset.records] == [
        ("1_1.png", ("1 5", "9 2"), 4),
        ("2_1.png", (), 0),
        ("3_1.png", (), 0),
    ]
    assert dataset.findings == []


SEVERAL = {
    "image": ["1_1.png", "1_1.png", "2_1.png", "3_1.png"],
    "rle_mask": ["1 5", "9 2", "3 4", None],
}
THREE = dict.fromkeys(["1_1.png", "2_1.png", "3_1.png"], PNG)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], ["0", "1", "1", "0"], [0.0, 1.0, 1.0, None]])
def test_several_classes_need_a_choice(tmp_path: Path, labels: list[object]) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=labels)}
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("error", "several classes", "train.pq")]
    assert "1 (2 masks), 0 (1 masks). Set data.classes" in dataset.findings[0].detail
    for classes, runs in (([0], [("1 5",), (), ()]), (["1"], [("9 2",), ("3 4",), ()])):
        dataset = find(tmp_path, members, classes)
        assert [record.runs for record in dataset.records] == runs
        assert dataset.findings == []
    assert [record.runs for record in find(tmp_path, members, [0, 1]).records] == [("1 5", "9 2"), ("3 4",), ()]


def test_a_class_without_masks_is_no_second_class(tmp_path: Path) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=["nerve", "nerve", "nerve", "none here"])}
    assert find(tmp_path, members).findings == []


def test_a_mask_without_a_class_among_others_is_an_error(tmp_path: Path) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=["nerve", None, "nerve", None])}
    assert kinds(find(tmp_path, members)) == [("error", "missing class", "train.pq")]
    assert kinds(find(tmp_path, members, ["nerve"])) == [("error", "missing class", "train.pq")]


def test_unknown_classes_are_refused(tmp_path: Path) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=["nerve", "artery", "artery", "artery"])}
    text = refusal(tmp_path, members, ["vein"])
    assert "data.classes has vein" in text
    assert "it has artery (2 masks), nerve (1 masks)" in text
    assert "data.classes: null" in refusal(tmp_path, THREE | {"train.pq": parquet(**SEVERAL)}, [0])
    assert "data.classes: null" in refusal(tmp_path, kaggle(), [0])


def test_names_match_in_either_form_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "1_ä.png") for form in ("NFC", "NFD"))
    for in_zip, in_table in ((composed, decomposed), (decomposed, composed)):
        dataset = find(tmp_path, {in_zip: PNG, "t.pq": parquet(image=[in_table], rle_mask=["1 5"])})
        assert [record.image for record in dataset.records] == [composed]
        assert dataset.findings == []


def test_numbers_in_names_may_have_any_length() -> None:
    long = "1" * 5000
    names = [f"{long}_1", f"2{long}_1", "10_1", "9_1", "009_1", "9_01"]
    assert sorted(names, key=natural_key) == ["009_1", "9_01", "9_1", "10_1", f"{long}_1", f"2{long}_1"]


def test_a_null_fold_means_no_fold(tmp_path: Path) -> None:
    table = parquet(image=["1_1.png", "2_1.png"], rle_mask=[None, None], fold=[1, None])
    dataset = find(tmp_path, {"train.pq": table, "1_1.png": PNG, "2_1.png": PNG})
    assert [record.fold for record in dataset.records] == [1, None]


def test_hydrogen_torch_finds_everything_at_once(tmp_path: Path) -> None:
    table = parquet(
        image=["1_1.png", "1_1.png", "gone_1.png", "2_1.png", None, "3_1.png"],
        class_id=[0] * 6,
        rle_mask=["1 5"] * 6,
        fold=["0", "1", "0", "0", "0", "first"],
        patient_id=["p", "q", "p", "p", "p", "p"],
        site=["x", None, "x", "x", "x", "x"],
    )
    images = ["a/1_1.png", "a/2_1.png", "b/2_1.png", "a/3_1.png", "c/4_1.png", "c/4_2.png"]
    dataset = find(tmp_path, {"train.pq": table} | dict.fromkeys(images, PNG))
    assert sorted(kinds(dataset)) == [
        ("error", "conflicting folds", "1_1.png"),
        ("error", "conflicting sites", "1_1.png"),
        ("error", "conflicting subjects", "1_1.png"),
        ("error", "duplicate name", "2_1.png"),
        ("error", "fold", "3_1.png"),
        ("error", "missing frame", "gone_1.png"),
        ("error", "missing frame", "train.pq"),
        ("warning", "unlabelled frames", "c/"),
    ]
    assert "has rows with the subjects p, q" in str(dataset.findings)
    assert "has rows with the sites x, (empty)" in str(dataset.findings)


@pytest.mark.parametrize("column", ["subject", "patient_id"])
def test_a_table_may_name_subject_and_site(tmp_path: Path, column: str) -> None:
    table = parquet(image=["a.png", "b.png"], rle_mask=["1 5", None], site=["x", " "], **{column: [7, 8]})
    dataset = find(tmp_path, {"train.pq": table, "a.png": PNG, "b.png": PNG})
    assert [(r.subject, r.site) for r in dataset.records] == [("7", "x"), ("8", "")]
    assert dataset.subject_column == column


def test_two_columns_for_the_subject_are_rejected(tmp_path: Path) -> None:
    table = parquet(image=["1_1.png"], rle_mask=["1 5"], subject=["1"], patient_id=["2"])
    assert "has the columns subject and patient_id. Keep the one" in refusal(tmp_path, {"t.pq": table, "1_1.png": PNG})


def test_neither_layout_lists_what_was_found(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"a/1.dcm": b"x", "a/2.dcm": b"x", "readme": b"", "labels.csv": b"file,label\na,b\n"})
    assert "2 .dcm in a/" in text
    assert "1 (no suffix) in ./" in text
    assert "labels.csv with the columns file, label" in text
    assert "image, rle_mask" in text


def test_both_layouts_and_two_tables_are_rejected(tmp_path: Path) -> None:
    table = parquet(image=["1_1.png"], rle_mask=["1 5"])
    assert "both layouts" in refusal(tmp_path, kaggle() | {"train.pq": table})
    assert "a.pq, b.csv" in refusal(tmp_path, {"a.pq": table, "b.csv": CSV, "1_1.png": PNG})


def test_an_unrelated_table_is_ignored(tmp_path: Path) -> None:
    members = kaggle() | {"train_masks.csv": b"subject,img,pixels\n1,1,1 5\n", "sample_submission.csv": b"img,pixels\n"}
    assert find(tmp_path, members).layout == "kaggle"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("train.pq", b"not parquet"),
        ("train.csv", b"\xff\xfe\x00\x01"),
        ("train.csv", b""),
        ("train.csv", b"image,rle_mask,image\n1_1.png,1 5,1_1.png\n"),
        ("train.csv", b"image,rle_mask\n1_1.png,1 5\n1_2.png,1 5,6,7\n"),
        ("train.pq", parquet(image=["1_1.png"], rle_mask=[[1, 5]])),
    ],
)
def test_a_damaged_table_is_a_clear_error(tmp_path: Path, name: str, table: bytes) -> None:
    assert f"{name} in " in (text := refusal(tmp_path, {name: table, "1_1.png": PNG}))
    assert "cannot be read" in text


def test_a_table_without_rows_is_a_clear_error(tmp_path: Path) -> None:
    assert "has no rows" in refusal(tmp_path, {"train.csv": b"image,rle_mask\n", "1_1.png": PNG})


def test_long_run_lengths_survive_csv(tmp_path: Path) -> None:
    checkerboard = (np.indices((400, 400)).sum(axis=0) % 2).astype(np.uint8)
    text = rle.encode(checkerboard)
    dataset = find(tmp_path, {"t.csv": f"image,rle_mask\n1_1.png,{text}\n".encode(), "1_1.png": PNG})
    assert dataset.records[0].runs == (text,)
