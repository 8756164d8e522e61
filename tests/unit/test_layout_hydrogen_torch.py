from pathlib import Path

import numpy as np
import pytest

from dataset_zips import frame, image, parquet
from listed import PNG, find, kinds, refusal
from nerveseg.data import rle
from nerveseg.data.decoding import ImageFile, RunLengths


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "PNG"])
@pytest.mark.parametrize("value", ["{}", "images/{}", "C:\\data\\{}"])
def test_hydrogen_torch_with_any_image_type_and_folder(tmp_path: Path, suffix: str, value: str) -> None:
    name = f"1_1.{suffix}"
    table = parquet(image=[value.format(name)], class_id=["0"], rle_mask=["1 5"])
    dataset = find(tmp_path, {"train.pq": table, f"images/{name}": image(frame(1), suffix)})
    assert dataset.layout == "hydrogen-torch"
    assert [(r.image, r.frame, r.mask, r.fold) for r in dataset.records] == [
        (name, ImageFile(f"images/{name}"), RunLengths(("1 5",)), None)
    ]


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
    assert [(r.image, r.mask, r.fold) for r in dataset.records] == [
        ("1_1.png", RunLengths(("1 5", "9 2")), 4),
        ("2_1.png", RunLengths(), 0),
        ("3_1.png", RunLengths(), 0),
    ]
    assert dataset.findings == []


def test_rows_of_images_in_several_folders_are_not_one_mask(tmp_path: Path) -> None:
    """Only one of the images is in the zip: it must not have the masks of both."""
    table = parquet(image=["a/1_1.png", "b/1_1.png", "a/2_1.png"], rle_mask=["1 5", "9 2", "1 5"])
    dataset = find(tmp_path, {"train.pq": table} | dict.fromkeys(["a/1_1.png", "a/2_1.png"], PNG))
    assert [record.image for record in dataset.records] == ["2_1.png"]
    assert kinds(dataset) == [("error", "duplicate name", "1_1.png")]
    assert "a/1_1.png, b/1_1.png" in dataset.findings[0].detail


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
        dataset = find(tmp_path, members, classes=classes)
        assert [record.mask for record in dataset.records] == list(map(RunLengths, runs))
        assert dataset.findings == []
    together = [record.mask for record in find(tmp_path, members, classes=[0, 1]).records]
    assert together == [RunLengths(("1 5", "9 2")), RunLengths(("3 4",)), RunLengths()]


def test_a_class_without_masks_is_no_second_class(tmp_path: Path) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=["nerve", "nerve", "nerve", "none here"])}
    assert find(tmp_path, members).findings == []


def test_a_mask_without_a_class_among_others_is_an_error(tmp_path: Path) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=["nerve", None, "nerve", None])}
    assert kinds(find(tmp_path, members)) == [("error", "missing class", "train.pq")]
    assert kinds(find(tmp_path, members, classes=["nerve"])) == [("error", "missing class", "train.pq")]


def test_unknown_classes_are_refused(tmp_path: Path) -> None:
    members = THREE | {"train.pq": parquet(**SEVERAL, class_id=["nerve", "artery", "artery", "artery"])}
    text = refusal(tmp_path, members, classes=["vein"])
    assert "data.classes has vein" in text
    assert "it has artery (2 masks), nerve (1 masks)" in text
    assert "data.classes: null" in refusal(tmp_path, THREE | {"train.pq": parquet(**SEVERAL)}, classes=[0])


def test_tables_for_training_and_validation_are_joined_and_those_without_masks_are_not(tmp_path: Path) -> None:
    tables = {
        "nerves/train.pq": parquet(image=["1_1.png", "2_1.png"], rle_mask=["1 5", None], patient_id=[1, 2]),
        "nerves/validation.csv": b"image,rle_mask,patient_id\n3_1.png,9 2,3\n",
        "nerves/test.pq": parquet(image=["4_1.png"]),
        "nerves/test_placeholders.csv": b"image,rle_mask\n5_1.png,\n",
        "nerves/sample_submission.csv": b"image,rle_mask\n4_1.png,1 1\n",
    }
    dataset = find(tmp_path, tables | {f"nerves/images/{number}_1.png": PNG for number in range(1, 6)})
    assert [(record.image, record.mask, record.subject) for record in dataset.records] == [
        ("1_1.png", RunLengths(("1 5",)), "1"),
        ("2_1.png", RunLengths(), "2"),
        ("3_1.png", RunLengths(("9 2",)), "3"),
    ]
    joined = "nerves/train.pq, nerves/validation.csv"
    assert dataset.subject_from == f"the column patient_id of {joined}"
    assert kinds(dataset) == [
        ("warning", "joined files", joined),
        ("warning", "ignored file", "nerves/sample_submission.csv"),
        ("warning", "ignored file", "nerves/test_placeholders.csv"),
        ("warning", "unlabelled frames", "nerves/images/"),
    ]


def test_an_image_in_two_tables_is_an_error(tmp_path: Path) -> None:
    table = parquet(image=["1_1.png"], rle_mask=["1 5"])
    dataset = find(tmp_path, {"a.pq": table, "b.pq": table, "1_1.png": PNG})
    assert ("error", "duplicate name", "1_1.png") in kinds(dataset)
    assert "is listed in a.pq and in b.pq" in str(dataset.findings)


def test_classes_of_joined_tables_are_those_of_all(tmp_path: Path) -> None:
    tables = {
        f"{label}.pq": parquet(image=[f"{number}_1.png"], rle_mask=["1 5"], class_id=[label])
        for number, label in ((1, "nerve"), (2, "artery"))
    }
    dataset = find(tmp_path, THREE | tables)
    assert ("error", "several classes", "artery.pq, nerve.pq") in kinds(dataset)
    assert [record.mask for record in find(tmp_path, THREE | tables, classes=["nerve"]).records] == [
        RunLengths(("1 5",)),
        RunLengths(),
    ]


def test_a_path_in_the_table_decides_between_images_of_one_name(tmp_path: Path) -> None:
    table = parquet(image=["train/1_1.png"], rle_mask=["1 5"])
    dataset = find(tmp_path, {"t.pq": table, "x/train/1_1.png": PNG, "x/test/1_1.png": PNG})
    assert [(record.image, record.frame) for record in dataset.records] == [("1_1.png", ImageFile("x/train/1_1.png"))]


def test_paths_of_two_images_of_one_name_are_not_one_image(tmp_path: Path) -> None:
    table = parquet(image=["train/1_1.png", "test/1_1.png"], rle_mask=["1 5", "9 2"])
    dataset = find(tmp_path, {"t.pq": table, "x/train/1_1.png": PNG, "x/test/1_1.png": PNG})
    assert kinds(dataset) == [("error", "duplicate name", "1_1.png")]


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
    assert dataset.subject_from == f"the column {column} of train.pq"


def test_two_columns_for_the_subject_are_rejected(tmp_path: Path) -> None:
    table = parquet(image=["1_1.png"], rle_mask=["1 5"], subject=["1"], patient_id=["2"])
    text = refusal(tmp_path, {"t.pq": table, "1_1.png": PNG})
    assert "names the person scanned twice, as subject and as patient_id. Keep one of them" in text


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
    assert dataset.records[0].mask == RunLengths((text,))
