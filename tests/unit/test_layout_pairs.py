from pathlib import Path

import pytest

from dataset_zips import kaggle
from listed import PNG, TIF, find, kinds
from nerveseg.data.decoding import ImageFile, MaskFile


def test_kaggle_pairs_are_sorted_naturally_for_any_order_in_the_zip(tmp_path: Path) -> None:
    names = ["x/10_1", "x/2_10", "x/2_9"]
    dataset = find(tmp_path, {f"{name}{end}.tif": TIF for name in names for end in ("_mask", "")})
    assert dataset.layout == "pairs"
    assert [(r.image, r.frame, r.mask) for r in dataset.records] == [
        ("2_9.tif", ImageFile("x/2_9.tif"), MaskFile("x/2_9_mask.tif")),
        ("2_10.tif", ImageFile("x/2_10.tif"), MaskFile("x/2_10_mask.tif")),
        ("10_1.tif", ImageFile("x/10_1.tif"), MaskFile("x/10_1_mask.tif")),
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
