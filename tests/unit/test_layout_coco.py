import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_converter.converter import Converter
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset_zips import HEIGHT, WIDTH, frame, image, mask, write_zip
from foreign_zips import nerve
from listed import PNG, find, kinds, refusal
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.layouts.dataset import Dataset

NERVE, ARTERY = {"id": 1, "name": "nerve", "supercategory": ""}, {"id": 4, "name": "artery", "supercategory": ""}
TRIANGLE = [[5, 5, 30, 8.5, 12.25, 33]]


def entry(number: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}_1.png", "width": WIDTH, "height": HEIGHT, **more}


def annotation(image_id: int, segmentation: Any = TRIANGLE, category: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": image_id, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def content(images: list[Any], annotations: list[Any], categories: Any = (NERVE,)) -> dict[str, Any]:
    return {"info": {}, "images": images, "annotations": annotations, "categories": list(categories)}


def written(*arguments: Any) -> bytes:
    return json.dumps(content(*arguments)).encode()


def compressed(pixels: np.ndarray) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def uncompressed(pixels: np.ndarray) -> dict[str, Any]:
    starts = np.flatnonzero(np.diff(pixels.T.ravel(), prepend=0))
    return {"size": list(pixels.shape), "counts": np.diff([0, *starts, pixels.size]).tolist()}


def masks(tmp_path: Path, members: dict[str, bytes], dataset: Dataset) -> dict[str, np.ndarray]:
    """The masks of a zip that `find` has listed, by the names of the images."""
    with Archive(write_zip(tmp_path / "a.zip", members)) as archive:
        return {
            record.image: record.mask.read(archive, record.frame.read(archive).pixels).pixels
            for record in dataset.records
            if record.mask
        }


SEGMENTATIONS = {
    "polygon": TRIANGLE,
    "two polygons": [[2, 2, 9, 2, 9, 9, 2, 9], [20.5, 20.5, 40, 22, 33, 39]],
    "compressed": compressed(nerve(1)),
    "uncompressed": uncompressed(nerve(2)),
    "crowd": uncompressed(mask(70)),
    "rectangle": [[0, 0, WIDTH, 0, WIDTH, 20, 0, 20]],
}


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    images = [entry(number) for number in range(len(SEGMENTATIONS))]
    annotations = [
        annotation(number, shape, iscrowd=int(name == "crowd"), id=number)
        for number, (name, shape) in enumerate(SEGMENTATIONS.items())
    ]
    annotations.append(annotation(0, compressed(nerve(5)), id=len(annotations)))  # united with the triangle
    members = {"annotations/instances_default.json": written(images, annotations)}
    members |= {f"images/default/{each['file_name']}": PNG for each in images}
    coco = COCO()
    coco.dataset = content(images, annotations)
    coco.createIndex()

    dataset = find(tmp_path, members)
    assert dataset.layout == "coco"
    assert dataset.findings == []
    read = masks(tmp_path, members, dataset)
    assert len(read) == len(images)
    for each in images:
        expected = np.max([coco.annToMask(a) for a in coco.imgToAnns[each["id"]]], axis=0)
        np.testing.assert_array_equal(read[each["file_name"]], expected)
        assert expected.any()


def test_an_export_of_label_studios_converter(tmp_path: Path) -> None:
    (tmp_path / "media/upload/1").mkdir(parents=True)
    (tmp_path / "media/upload/1/73d7ef48-12_3.png").write_bytes(PNG)
    points = [[10.5, 20], [70, 30.25], [40, 90]]
    tasks = [
        task(
            "/data/upload/1/73d7ef48-12_3.png", [polygon(points, "nerve"), polygon([[0, 0], [9, 0], [9, 9]], "artery")]
        )
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    config = """<View><Image name="image" value="$image"/><PolygonLabels name="tag" toName="image">
    <Label value="nerve"/><Label value="artery"/></PolygonLabels></View>"""
    converter = Converter(config, str(tmp_path), upload_dir=str(tmp_path / "media/upload"))
    converter.convert_to_coco(str(tmp_path / "tasks.json"), str(tmp_path / "out"), is_dir=False)
    members = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert sorted(members) == ["images/73d7ef48-12_3.png", "result.json"]

    dataset = find(tmp_path, members, classes=["nerve"])
    read = masks(tmp_path, members, dataset)
    coco = COCO(str(tmp_path / "out/result.json"))
    np.testing.assert_array_equal(read["73d7ef48-12_3.png"], coco.annToMask(coco.anns[0]))
    assert "nerve (1 masks)" in find(tmp_path, members).findings[0].detail
    members["12_3.png"] = members.pop("images/73d7ef48-12_3.png")  # as it was before the upload
    assert [record.image for record in find(tmp_path, members, classes=["nerve"]).records] == ["12_3.png"]


def task(address: str, results: list[Any]) -> dict[str, Any]:
    return {"id": 1, "data": {"image": address}, "annotations": [{"id": 2, "completed_by": 3, "result": results}]}


def polygon(points: list[list[float]], label: str) -> dict[str, Any]:
    value = {"points": points, "closed": True, "polygonlabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": label, "from_name": "tag", "to_name": "image", "type": "polygonlabels", "value": value, **size}


SEVERAL = written(
    [entry(1), entry(2)],
    [annotation(1), annotation(1, category=4), annotation(2, category=4), annotation(2, [], category=9)],
    [NERVE, ARTERY, {"id": 9, "name": "probe"}],
)
TWO = {"1_1.png": PNG, "2_1.png": PNG}


def test_several_categories_need_a_choice(tmp_path: Path) -> None:
    members = TWO | {"a.json": SEVERAL}
    found = find(tmp_path, members)
    assert kinds(found)[0] == ("error", "several classes", "a.json")
    assert "artery (2 masks), nerve (1 masks), probe (1 masks). Set data.classes" in found.findings[0].detail
    for classes, nerves in (([1], [True, False]), (["artery"], [True, True]), (["4", 1], [True, True])):
        dataset = find(tmp_path, members, classes=classes)
        assert dataset.findings == []
        assert [mask.any() for mask in masks(tmp_path, members, dataset).values()] == nerves
    assert kinds(find(tmp_path, members, classes=["probe"])) == [("error", "no outline", "2_1.png")]
    assert "data.classes has vein, which is no class of a.json; by category, it has artery" in refusal(
        tmp_path, members, classes=["vein"]
    )


def test_a_class_that_means_several_categories_is_refused(tmp_path: Path) -> None:
    confusing = written([entry(1)], [annotation(1)], [NERVE, {"id": 2, "name": "1"}])
    text = refusal(tmp_path, {"1_1.png": PNG, "a.json": confusing}, classes=[1])
    assert "data.classes has 1, which is the name or id of several categories of a.json: 1, nerve" in text


def test_images_without_annotations_are_empty_with_one_warning(tmp_path: Path) -> None:
    members = TWO | {"3_1.png": PNG, "a.json": written([entry(1), entry(2)], [annotation(1)])}
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("warning", "unlabelled frames", "./"), ("warning", "no annotation", "a.json")]
    assert "1 of 2 images have no annotation" in dataset.findings[1].detail
    assert [mask.any() for mask in masks(tmp_path, members, dataset).values()] == [True, False]


def test_files_are_joined_and_one_without_annotations_is_skipped(tmp_path: Path) -> None:
    members = {
        "annotations/instances_Train.json": written([entry(1, "frame_0.png")], [annotation(1)]),
        "annotations/instances_Validation.json": written(
            [entry(1, "frame_0.png")], [annotation(1, compressed(nerve(2)), category=3)], [NERVE | {"id": 3}]
        ),
        "annotations/instances_Test.json": written([entry(1, "frame_9.png")], []),
        "images/Train/frame_0.png": PNG,
        "images/Validation/frame_0.png": PNG,
        "images/Test/frame_9.png": PNG,
    }
    dataset = find(tmp_path, members)
    joined = "annotations/instances_Train.json, annotations/instances_Validation.json"
    assert kinds(dataset) == [("warning", "joined files", joined), ("warning", "unlabelled frames", "images/Test/")]
    read = masks(tmp_path, members, dataset)
    assert list(read) == ["images/Train/frame_0.png", "images/Validation/frame_0.png"], "their own names are not unique"
    np.testing.assert_array_equal(read["images/Validation/frame_0.png"], nerve(2))


@pytest.mark.parametrize(
    ("path", "images", "found"),
    [
        ("1.png", ["a/b/1.png"], "a/b/1.png"),
        ("C:\\data\\b\\1.png", ["b/1.png", "c/1.png"], "b/1.png"),
        ("./b/1.png", ["x/a/b/1.png", "x/b/1.png", "x/c/1.png"], None),
        ("a/b/1.png", ["x/a/b/1.png", "x/b/1.png"], "x/a/b/1.png"),
        ("1.png", ["b/1.png", "c/1.png"], None),
        ("1.png", ["x/1.png", "train/1.png"], "train/1.png"),  # beside the JSON, as Roboflow has it
    ],
)
def test_images_are_found_by_file_name_and_path(
    tmp_path: Path, path: str, images: list[str], found: str | None
) -> None:
    members = dict.fromkeys(images, PNG) | {"train/labels.json": written([entry(1, path)], [annotation(1)])}
    dataset = find(tmp_path, members)
    if found:
        assert [record.frame.member for record in dataset.records] == [found]
    else:
        assert ("error", "duplicate name", "1.png") in kinds(dataset)


def test_of_many_images_of_one_name_a_few_are_shown(tmp_path: Path) -> None:
    members = {f"{number}/1.png": PNG for number in range(9)} | {
        "a.json": written([entry(1, "1.png")], [annotation(1)])
    }
    assert "is in the zip as 0/1.png, 1/1.png, 2/1.png, 3/1.png, 4/1.png and 4 more;" in str(find(tmp_path, members))


def test_everything_wrong_with_images_is_found_at_once(tmp_path: Path) -> None:
    images = [entry(1), entry(2), entry(3), entry(4, "1_1.png"), entry(5, width=None)]
    members = dict.fromkeys(("1_1.png", "2_1.png", "5_1.png"), PNG) | {
        "a.json": written(images, [annotation(number) for number in range(1, 6)]),
        "b.json": written([entry(1, "2_1.png")], [annotation(1)]),
    }
    dataset = find(tmp_path, members)
    assert sorted(kinds(dataset)) == [
        ("error", "duplicate name", "1_1.png"),
        ("error", "duplicate name", "2_1.png"),
        ("error", "missing frame", "3_1.png"),
        ("error", "missing size", "5_1.png"),
        ("warning", "joined files", "a.json, b.json"),
    ]
    assert "listed twice, in a.json and b.json" in str(dataset.findings)


def test_another_size_than_that_of_the_file_is_an_error(tmp_path: Path) -> None:
    members = {"1_1.png": image(frame(1), "png"), "a.json": written([entry(1, width=WIDTH - 1)], [annotation(1)])}
    dataset = find(tmp_path, members)
    with pytest.raises(UnfitImageError, match="the frame is 50x40, but 49x40 in a"):
        masks(tmp_path, members, dataset)


def test_keys_of_images_name_subject_and_site(tmp_path: Path) -> None:
    images = [entry(1, patient_id=7, site="x"), entry(2, patient_id=" p8 ")]
    members = TWO | {"a.json": written(images, [annotation(1), annotation(2)])}
    dataset = find(tmp_path, members)
    assert [(record.subject, record.site) for record in dataset.records] == [("7", "x"), ("p8", "")]
    assert dataset.subject_from == "the key patient_id of a.json"
    members["a.json"] = written([entry(1, patient_id=7, subject=7)], [annotation(1)])
    assert "names the person scanned twice, as subject and as patient_id" in refusal(tmp_path, members)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (written([entry(1)], [annotation(1)])[:-9], "cannot be read"),
        (written([entry(1)], [annotation(1, [[1, 2, float("nan")]])]), "contains NaN, which is no number"),
        (written([entry(1)], [annotation(1, [["x"] * 6])]), "the segmentation of annotation 7 consists neither"),
        (written([entry(1)], [annotation(1, [1, 2, 3, 4, 5, 6])]), "the segmentation of annotation 7 consists neither"),
        (written([entry(1)], [annotation(1, {"counts": "1"})]), "the segmentation of annotation 7 consists neither"),
        (written([entry(1)], [annotation(1, {"size": [1, 1], "counts": [0.5]})]), "annotation 7 consists neither"),
        (written([entry(1)], [annotation(1, {"size": [1, 1], "counts": [1e400]})]), "cannot be read"),
        (written([entry(1)], [annotation(1, {"size": [1, 1], "counts": [2**80]})]), "annotation 7 consists neither"),
        (written([entry(1)], [annotation(1, [])]), "no annotation has an outline"),
        (written([entry(1)], []), "no annotation has an outline"),
        (written([entry(1)], [annotation(1), annotation(8)]), "1 annotations of images that it does not list, such as"),
        (written([entry(1), entry(1)], [annotation(1)]), "has several images of the id 1"),
        (written([entry(1)], [annotation(1)], [NERVE, NERVE]), "has several categories of the id 1"),
        (written([{"id": 1}], [annotation(1)]), "is not COCO's JSON: images.0.file_name: Field required"),
        (b'{"images": [{"file_name": ' + b"[" * 100_000, "cannot be read"),
        (b'{"images": [{"file_name": "\xff"}]}', "cannot be read"),
    ],
)
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, document: bytes, reason: str) -> None:
    text = refusal(tmp_path, {"1_1.png": PNG, "a.json": document})
    assert "a.json in " in text
    assert reason in text


def test_other_json_is_no_coco(tmp_path: Path) -> None:
    members = {"a.png": PNG, "dataset.json": b'{"labels": {"nerve": 1}}', "b.json": b'{"images": [], "x": [1]}'}
    assert "has none of the layouts" in refusal(tmp_path, members)
