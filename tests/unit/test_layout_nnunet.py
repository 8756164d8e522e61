"""Datasets with nnU-Net's own dataset.json, images written by OpenCV and NIfTI files by nibabel."""

import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest

from dataset_zips import HEIGHT, WIDTH, frame, image
from listed import find, kinds, pixels, refusal
from nerveseg.data.archive import MAX_IMAGE_BYTES, Archive, UnfitImageError
from nerveseg.data.layouts.dataset import Dataset

ROOT = "nnUNet_raw/Dataset500_Nerves"
CASES = ["p1_1", "p1_2", "p2_1"]
TWO = {"background": 0, "nerve": 1, "artery": 2}


def labels(seed: int) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH): background, a nerve (1) and an artery (2), elsewhere for each seed."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[5 + seed : 12, 4:20] = 1
    found[20:30, 25 + seed : 40] = 2
    return found


def description(names: dict[str, Any], ending: str = ".png", **others: Any) -> bytes:
    """dataset.json of version 2."""
    keys = {"channel_names": {"0": "ultrasound"}, "labels": names, "numTraining": len(CASES), "file_ending": ending}
    return json.dumps(keys | others, indent=4).encode()


def written(pixels: np.ndarray, ending: str) -> bytes:
    if ending.startswith(".nii"):
        content = nibabel.Nifti1Image(pixels.T[..., np.newaxis], np.diag([-1, -1, 1, 1])).to_bytes()
        return gzip.compress(content) if ending.endswith("gz") else content
    return cv2.imencode(ending, pixels)[1].tobytes()


def nnunet(names: dict[str, Any] | None = None, ending: str = ".png", **others: Any) -> dict[str, bytes]:
    members = {f"{ROOT}/dataset.json": description(names or TWO, ending, **others)}
    for seed, case in enumerate(CASES):
        members[f"{ROOT}/imagesTr/{case}_0000{ending}"] = written(frame(seed), ending)
        members[f"{ROOT}/labelsTr/{case}{ending}"] = written(labels(seed), ending)
    return members


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".nii.gz", ".nii"])
@pytest.mark.parametrize(("classes", "numbers"), [(["nerve"], [1]), ([2], [2]), (["artery", 1], [1, 2])])
def test_reads_the_chosen_labels_exactly(
    tmp_path: Path, ending: str, classes: list[int | str], numbers: list[int]
) -> None:
    found = pixels(tmp_path, nnunet(ending=ending), classes=classes)
    assert list(found) == [f"{case}{ending.removesuffix('.gz')}" for case in CASES]
    for seed, (seen, mask) in enumerate(found.values()):
        np.testing.assert_array_equal(seen, frame(seed))
        np.testing.assert_array_equal(mask, np.isin(labels(seed), numbers))
        assert (seen.dtype, mask.dtype) == (np.uint8, np.uint8)


def test_several_labels_need_a_choice_of_those_that_there_are(tmp_path: Path) -> None:
    dataset = find(tmp_path, nnunet())
    assert dataset.layout == "nnunet"
    assert kinds(dataset) == [("error", "several classes", "dataset.json")]
    assert "nerve (1), artery (2)" in dataset.findings[0].detail
    assert "data.classes: [nerve]" in dataset.findings[0].detail
    for wrong in ("vein", "background", 0, 3):
        assert f"data.classes has {wrong}, but dataset.json has nerve (1), artery (2)" in refusal(
            tmp_path, nnunet(), classes=[wrong]
        )


def test_a_region_is_all_of_its_labels(tmp_path: Path) -> None:
    members = nnunet({"background": 0, "bundle": [1, 2], "artery": 2}, regions_class_order=[1, 2])
    found = pixels(tmp_path, members, classes=["bundle"])
    np.testing.assert_array_equal(found["p1_1.png"][1], labels(0) > 0)
    found = pixels(tmp_path, members, classes=["artery"])
    np.testing.assert_array_equal(found["p1_1.png"][1], labels(0) == 2)


def test_version_1_has_the_names_by_number_and_no_ending(tmp_path: Path) -> None:
    members = nnunet(ending=".nii.gz")
    members[f"{ROOT}/dataset.json"] = json.dumps(
        {
            "name": "Nerves",
            "modality": {"0": "US"},
            "labels": {"0": "background", "1": "nerve", "2": "artery"},
            "numTraining": 3,
            "numTest": 0,
            "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in CASES],
            "test": [],
        }
    ).encode()
    found = pixels(tmp_path, members, classes=["artery"])
    for seed, (seen, mask) in enumerate(found.values()):
        np.testing.assert_array_equal(seen, frame(seed))
        np.testing.assert_array_equal(mask, labels(seed) == 2)


def test_one_label_needs_no_choice_and_colours_of_frames_are_grey(tmp_path: Path) -> None:
    """With three channels in one file, as nnU-Net has natural images."""
    members = nnunet({"background": 0, "nerve": 1}, channel_names={"0": "R", "1": "G", "2": "B"})
    for seed, case in enumerate(CASES):
        members[f"{ROOT}/imagesTr/{case}_0000.png"] = image(np.dstack([frame(seed)] * 3), "png")
        members[f"{ROOT}/labelsTr/{case}.png"] = image((labels(seed) == 1).astype(np.uint8), "png")
    found = pixels(tmp_path, members)
    np.testing.assert_array_equal(found["p2_1.png"][0], frame(2))
    np.testing.assert_array_equal(found["p2_1.png"][1], labels(2) == 1)


def test_finds_what_is_missing_and_what_is_left_out(tmp_path: Path) -> None:
    members = nnunet(numTraining=5)
    del members[f"{ROOT}/labelsTr/p1_2.png"]
    members |= {f"{ROOT}/labelsTr/p9_1.png": image(labels(0), "png"), f"{ROOT}/imagesTr/p1_1.jpg": b"x"}
    members |= {f"{ROOT}/imagesTs/p{n}_1_0000.png": b"x" for n in range(5)}
    dataset = find(tmp_path, members, classes=["nerve"])
    assert sorted(kinds(dataset)) == [
        ("error", "missing frame", "dataset.json"),
        ("error", "missing frame", "p9_1.png"),
        ("error", "missing mask", "p1_2.png"),
        ("warning", "ignored file", "dataset.json"),
        ("warning", "unlabelled frames", f"{ROOT}/imagesTs/"),
    ]
    assert "numTraining: 5, but there are 4 cases" in " ".join(finding.detail for finding in dataset.findings)


def test_a_case_without_its_image_is_one_finding_which_can_be_set_aside(tmp_path: Path) -> None:
    members = nnunet()
    del members[f"{ROOT}/imagesTr/p1_2_0000.png"]
    assert kinds(find(tmp_path, members, classes=["nerve"])) == [("error", "missing frame", "p1_2.png")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imagesTr/p1_1_0001.png": b"x"}, "one channel, _0000"),
        ({"imagesTr/p3_1.png": b"x"}, "call it p3_1_0000.png"),
        ({"dataset.json": None}, "names the labels. Add it"),
        ({"dataset.json": b"{"}, "cannot be read"),
        ({"dataset.json": b"[" * 100_000}, "cannot be read"),
        ({"dataset.json": b"[1]"}, "is not a JSON object"),
        ({"dataset.json": description(TWO | {"nerve": "one"})}, "no usable labels"),
        ({"dataset.json": description({"nerve": 256})}, "no usable labels"),
        ({"dataset.json": description({"nerve": []})}, "no usable labels"),
        ({"dataset.json": b'{"labels": null}'}, "no usable labels"),
        ({"dataset.json": description(TWO, ".mha")}, "file_ending .mha; there are 3 .png in"),
        ({"dataset.json": description(TWO, dataset={"p1": {"images": ["/etc/passwd"]}})}, "under the key dataset"),
        ({"../Dataset501/imagesTr/a_0000.png": b"x", "../Dataset501/labelsTr/a.png": b"x"}, "Dataset501"),
    ],
)
def test_says_why_it_refuses(tmp_path: Path, changes: dict[str, bytes | None], words: str) -> None:
    members = nnunet()
    for name, content in changes.items():
        members.pop(f"{ROOT}/{name}", None)
        if content is not None:
            members[f"{ROOT}/{name}".replace("Dataset500_Nerves/../", "")] = content
    assert words in refusal(tmp_path, members, classes=["nerve"])


def unfit(tmp_path: Path, dataset: Dataset, row: int) -> list[tuple[str, str]]:
    """Kind and words of what is wrong with a frame and its mask."""
    found = []
    with Archive(tmp_path / "a.zip") as archive:
        for read in (
            lambda: dataset.records[row].frame.read(archive),
            lambda: dataset.records[row].mask.read(archive, frame(row)),
        ):
            try:
                read()
            except UnfitImageError as error:
                found.append((error.kind, str(error)))
    return found


def test_labels_without_a_name_are_not_taken_for_background(tmp_path: Path) -> None:
    members = nnunet({"background": 0, "nerve": 1, "ignore": 2})
    members[f"{ROOT}/labelsTr/p1_1.png"] = image(labels(0) * 3, "png")
    members[f"{ROOT}/labelsTr/p2_1.png"] = image(np.dstack([labels(0)] * 3), "png")
    dataset = find(tmp_path, members)
    found = [unfit(tmp_path, dataset, row) for row in range(3)]
    assert [[kind for kind, _ in each] for each in found] == [["mask values"]] * 3
    assert "has pixels of 3, 6, which dataset.json names as no label" in found[0][0][1]
    assert "has pixels of 2" in found[1][0][1]
    assert "colours" in found[2][0][1]


def test_volumes_are_one_slice_of_eight_bits(tmp_path: Path) -> None:
    def nifti(array: np.ndarray) -> bytes:
        return gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes())

    huge = bytearray(gzip.decompress(written(frame(0), ".nii.gz")))
    huge[42:46] = b"\xff\x7f\xff\x01"  # its columns and rows
    cases = {
        "a": (nifti(np.zeros((WIDTH, HEIGHT, 2), np.uint8)), "several pages"),
        "b": (nifti(np.full((WIDTH, HEIGHT, 1), 0.5, np.float32)), "bit depth"),
        "c": (nifti(np.full((WIDTH, HEIGHT), 300, np.int16)), "bit depth"),
        "d": (b"no volume", "unreadable"),
        "e": (written(frame(0), ".nii.gz")[:-500], "unreadable"),
        "f": (gzip.compress(bytes(huge)), "unreadable"),
        "g": (gzip.compress(bytes(MAX_IMAGE_BYTES + 1), 1), "too large"),
    }
    members = {f"{ROOT}/dataset.json": description({"nerve": 1}, ".nii.gz", numTraining=len(cases))}
    for case, (content, _) in cases.items():
        members[f"{ROOT}/imagesTr/{case}_0000.nii.gz"] = content
        members[f"{ROOT}/labelsTr/{case}.nii.gz"] = written(labels(0) // 2, ".nii.gz")
    dataset = find(tmp_path, members)
    assert dataset.findings == []
    for row, (_, kind) in enumerate(cases.values()):
        assert [each for each, _ in unfit(tmp_path, dataset, row)] == [kind], dataset.records[row].image
    whole = {f"{ROOT}/imagesTr/a_0000.nii.gz": nifti(frame(3).T.astype(np.float64))}
    members = {name: content for name, content in members.items() if "/a" in name or name.endswith("json")} | whole
    members[f"{ROOT}/dataset.json"] = description({"nerve": 1}, ".nii.gz", numTraining=1)
    np.testing.assert_array_equal(pixels(tmp_path, members)["a.nii"][0], frame(3))
