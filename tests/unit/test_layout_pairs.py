import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset_zips import HEIGHT, WIDTH, frame, image, kaggle, mask
from listed import PNG, TIF, find, kinds, pixels, refusal
from nerveseg.data import rle
from nerveseg.data.decoding import ImageFile, MaskFile, RunLengths, UnitedFiles

NERVE, ARTERY = mask(300), np.roll(mask(200), 1000)
NAMES = ["1_1", "1_2", "2_1"]


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


def test_names_that_differ_in_case_do_not_share_a_mask(tmp_path: Path) -> None:
    members = dict.fromkeys(
        ["images/1_1.png", "images/2_A.png", "images/2_a.png", "masks/1_1.png", "masks/2_a.png"], PNG
    )
    dataset = find(tmp_path, members)
    assert [record.image for record in dataset.records] == ["1_1.png"]
    assert kinds(dataset) == [("error", "duplicate name", "2_A")]


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (["anna/1.png", "anna/1_mask.png", "bea/1.png", "bea/1_mask.png"], ", such as anna_1.png"),
        (
            [f"{part}/{kind}/1.png" for part in ("train", "val") for kind in ("images", "masks")],
            ", such as train_1.png",
        ),
        (["a/1.png", "a/1.bmp", "a/1_mask.png"], ""),
        (["masks/1.png", "masks/1.bmp", "images/1.png"], ""),
    ],
)
def test_frames_of_one_name_get_advice(tmp_path: Path, names: list[str], example: str) -> None:
    (finding,) = find(tmp_path, dict.fromkeys(names, PNG)).findings
    assert finding.kind == "duplicate name"
    assert finding.detail.endswith(f"; give each frame its own name{example}")


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


@pytest.mark.parametrize(
    ("frames", "masks"),
    [
        ("{}.png", "{}_mask.png"),
        ("{}.jpg", "{}_seg.png"),
        ("scans/{}.bmp", "scans/{}_Label.TIFF"),
        ("images/{}.png", "images/{}_mask.png"),
        ("labels/{}.png", "labels/{}_mask.png"),
        ("images/{}.jpg", "masks/{}.png"),
        ("Images/{}.jpg", "Labels/{}_gt.png"),
        ("images/train/{}.png", "masks/train/{}.png"),
        ("us/train/images/{}.png", "us/train/masks/{}.png"),
        ("masks/images/{}.png", "masks/labels/{}.png"),
        ("{}.png", "mask/{}.png"),
        ("train/{}.png", "train/segmentation/{}_seg.png"),
        ("images/{}_label.png", "masks/{}_label.png"),
    ],
)
def test_finds_the_mask_of_each_frame(tmp_path: Path, frames: str, masks: str) -> None:
    members = {}
    for seed, name in enumerate(NAMES):
        members[frames.format(name)] = image(frame(seed), frames.rpartition(".")[2])
        members[masks.format(name)] = cv2.imencode(".png", np.roll(NERVE, seed) * 255)[1].tobytes()
    found = pixels(tmp_path, members)
    assert [name.rpartition(".")[0] for name in found] == [frames.format(name).split("/")[-1][:-4] for name in NAMES]
    for seed, (seen, truth) in enumerate(found.values()):
        np.testing.assert_array_equal(truth, np.roll(NERVE, seed))
        if not frames.endswith("jpg"):
            np.testing.assert_array_equal(seen, frame(seed))
    assert find(tmp_path, members).findings == []


def test_the_suffixes_are_a_parameter(tmp_path: Path) -> None:
    members = {f"{name}{end}.png": PNG for name in NAMES for end in ("", "-outline")}
    assert "x_mask.png (data.mask_suffixes names the suffixes)" in refusal(tmp_path, members)
    dataset = find(tmp_path, members, mask_suffixes=["-outline"])
    assert [record.mask for record in dataset.records] == [MaskFile(f"{name}-outline.png") for name in NAMES]
    folders = {f"{folder}/{name}.png": PNG for folder in ("images", "masks") for name in ("1_1", "1_10")}
    assert find(tmp_path, folders, mask_suffixes=[]).findings == []


def test_several_files_of_a_mask_are_united_as_in_busi(tmp_path: Path) -> None:
    """Al-Dhabyani et al. 2020: `benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png`."""
    members = {
        "Dataset_BUSI_with_GT/benign/benign (1).png": image(frame(1), "png"),
        "Dataset_BUSI_with_GT/benign/benign (1)_mask.png": image(NERVE.astype(bool), "png"),
        "Dataset_BUSI_with_GT/benign/benign (1)_mask_1.png": image(ARTERY.astype(bool), "png"),
        "Dataset_BUSI_with_GT/normal/normal (1).png": image(frame(2), "png"),
        "Dataset_BUSI_with_GT/normal/normal (1)_mask.png": image(np.zeros((HEIGHT, WIDTH), bool), "png"),
    }
    found = pixels(tmp_path, members)
    np.testing.assert_array_equal(found["benign (1).png"][1], NERVE | ARTERY)
    assert not found["normal (1).png"][1].any()
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("warning", "joined masks", "benign (1)_mask_1.png")], "the second may be an artery"
    assert dataset.findings[0].detail.startswith("1 masks with a number, such as Dataset_BUSI_with_GT/benign/")


def test_numbers_without_a_first_mask_may_be_classes(tmp_path: Path) -> None:
    members = {f"{name}{end}.png": PNG for name in NAMES for end in ("", "_label_1", "_label_2")}
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("error", "several classes", "a.zip")]
    assert "label_1 (3 masks), label_2 (3 masks)" in dataset.findings[0].detail
    dataset = find(tmp_path, members, classes=["label_1", "label_2"])
    files = tuple(MaskFile(f"1_1_label_{number}.png") for number in (1, 2))
    assert dataset.records[0].mask == UnitedFiles(files)
    assert dataset.findings == []


@pytest.mark.parametrize(
    ("masks", "changes"),
    [
        ("{name}_mask_{label}.png", {}),
        ("{name}_{label}_mask.png", {}),
        ("{name}_{label}.png", {"mask_suffixes": ["_nerve", "_artery"]}),
        ("masks/{name}_{label}.png", {}),
        ("masks/{label}/{name}.png", {}),
        ("masks/{label}/{name}_mask.png", {}),
    ],
)
def test_files_of_several_classes_need_a_choice(tmp_path: Path, masks: str, changes: dict[str, Any]) -> None:
    members = {f"{name}.png": image(frame(seed), "png") for seed, name in enumerate(NAMES)}
    for name in NAMES:
        for label, truth in (("nerve", NERVE), ("Artery", ARTERY)):
            members[masks.format(name=name, label=label)] = image(truth * 255, "png")
    del members[masks.format(name="2_1", label="nerve")]

    dataset = find(tmp_path, members, **changes)
    assert kinds(dataset) == [("error", "several classes", "a.zip")]
    assert "artery (3 masks), nerve (2 masks)" in dataset.findings[0].detail
    assert "data.classes: [nerve]" in dataset.findings[0].detail
    assert "data.classes has vein, which is no class of a.zip; by file name, it has artery" in refusal(
        tmp_path, members, classes=["vein"], **changes
    )

    both = pixels(tmp_path, members, classes=["nerve", "artery"], **changes)
    np.testing.assert_array_equal(both["1_1.png"][1], NERVE | ARTERY)
    nerve = pixels(tmp_path, members, classes=["nerve"], **changes)
    np.testing.assert_array_equal(nerve["1_1.png"][1], NERVE)
    assert not nerve["2_1.png"][1].any()
    assert kinds(find(tmp_path, members, classes=["nerve"], **changes)) == [
        ("warning", "no mask of the class", "2_1.png")
    ]


def test_two_kinds_of_masks_are_not_united_in_silence(tmp_path: Path) -> None:
    members = {f"{folder}/1_1.png": PNG for folder in ("images", "masks", "labels")}
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("error", "several classes", "a.zip")]
    assert find(tmp_path, members, classes=["labels"]).records[0].mask == MaskFile("labels/1_1.png")


def test_two_folders_are_checked_as_one_is(tmp_path: Path) -> None:
    members = {f"{folder}/p1/{name}.png": PNG for folder in ("images", "masks") for name in NAMES}
    members |= {"images/p1/3_1.png": PNG, "masks/p1/4_1.png": PNG, "masks/p1/1_1_mask_1.png": PNG}
    members |= {f"{folder}/p2/1_2.png": PNG for folder in ("images", "masks")}
    members |= {"images/p1/2_1.jpg": PNG, "images/p3/5_1.png": PNG, "masks/p1/2_1.bmp": PNG}
    dataset = find(tmp_path, members)
    assert sorted(kinds(dataset)) == [
        ("error", "duplicate name", "1_2"),
        ("error", "duplicate name", "2_1"),
        ("error", "missing frame", "4_1.png"),
        ("error", "missing mask", "3_1.png"),
        ("error", "several classes", "a.zip"),
        ("warning", "ignored file", "2_1.jpg"),
        ("warning", "unlabelled frames", "images/p3/"),
    ]


@pytest.mark.parametrize(
    "members",
    [
        {"images/1.png": PNG, "masks/2.png": PNG},
        {"images/1.png": PNG, "labels/1.txt": b""},
        {"1_1.png": PNG, "1_2.png": PNG, "1.png": PNG},
        {"1_seg_001.png": PNG, "1_seg_002.png": PNG},
        {"images/1_1.png": PNG, "masks/1_1_2.png": PNG},
    ],
)
def test_names_that_are_no_pairs_are_none(tmp_path: Path, members: dict[str, bytes]) -> None:
    assert "has none of the layouts" in refusal(tmp_path, members)


def test_values_in_masks_are_classes(tmp_path: Path) -> None:
    """Of grey label maps, palettes and colours, each as their owner would write them."""
    both = NERVE + 2 * ARTERY
    palette = Image.fromarray(both, "P")
    palette.putpalette([0, 0, 0, 255, 255, 0, 255, 0, 0])
    stored = io.BytesIO()
    palette.save(stored, "PNG")
    colours = np.array([(0, 0, 0), (255, 255, 0), (255, 0, 0)], np.uint8)[both]
    masks = {"1_1": image(both, "png"), "1_2": stored.getvalue(), "2_1": image(colours, "png")}
    members = {f"{name}.png": image(frame(seed), "png") for seed, name in enumerate(masks)}
    members |= {f"{name}_mask.png": content for name, content in masks.items()}
    for classes, truth in (([1, "#FFFF00"], NERVE), ([2, "#ff0000"], ARTERY), ([1, 2, "#ff0000", "#ffff00"], both > 0)):
        for _, found in pixels(tmp_path, members, classes=classes).values():
            np.testing.assert_array_equal(found, truth)


def test_kaggles_table_is_read_where_there_are_no_masks(tmp_path: Path) -> None:
    rows = [f"1,1,{rle.encode(NERVE)}", "1,2,", f"2,1,{rle.encode(ARTERY)}", "3,9,1 5"]
    members = {"train_masks.csv": "\n".join(["subject,img,pixels", *rows]).encode()}
    members |= {f"train/{name}.tif": image(frame(seed)) for seed, name in enumerate(NAMES)}
    members |= {"test/1.tif": TIF}
    dataset = find(tmp_path, members)
    assert [(r.image, r.subject, r.mask) for r in dataset.records] == [
        ("1_1.tif", "1", RunLengths((rle.encode(NERVE),))),
        ("1_2.tif", "1", RunLengths()),
        ("2_1.tif", "2", RunLengths((rle.encode(ARTERY),))),
    ]
    assert dataset.subject_from == "the column subject of train_masks.csv"
    assert kinds(dataset) == [("error", "missing frame", "3_9"), ("warning", "unlabelled frames", "test/")]
    assert "data.classes: null" in refusal(tmp_path, members, classes=[1])
    twice = members | {"again/1_2.tif": TIF}
    assert ("error", "duplicate name", "1_2") in kinds(find(tmp_path, twice))
    assert "Keep one of them" in refusal(tmp_path, members | {"b.csv": b"subject,img,pixels\n"})


def test_kaggles_table_beside_masks_is_ignored(tmp_path: Path) -> None:
    members = kaggle() | {"train_masks.csv": b"subject,img,pixels\n1,1,1 5\n"}
    assert isinstance(find(tmp_path, members).records[0].mask, MaskFile)
