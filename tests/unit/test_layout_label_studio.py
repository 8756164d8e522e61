import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_converter import brush
from label_studio_converter.converter import Converter
from PIL import Image
from pycocotools.coco import COCO

from dataset_zips import HEIGHT, WIDTH, mask, write_zip
from foreign_zips import nerve
from listed import PNG, find, kinds, refusal
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.layouts.dataset import Dataset

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="nerve"/><Label value="artery"/></BrushLabels>
<PolygonLabels name="outline" toName="image"><Label value="nerve"/><Label value="artery"/></PolygonLabels></View>"""


def result(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    facts = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"from_name": "tag", "to_name": "image", "type": kind, "value": value} | facts | more


def painted(pixels: np.ndarray, label: str = "nerve", **more: Any) -> dict[str, Any]:
    stream = brush.mask2rle(pixels.astype(np.uint8) * 200)
    return result("brushlabels", {"format": "rle", "rle": stream, "brushlabels": [label]}, **more)


def outlined(*points: list[float], label: str = "nerve", **more: Any) -> dict[str, Any]:
    value = {"points": list(points), "closed": True, "polygonlabels": [label]}
    return result("polygonlabels", value, from_name="outline", **more)


def annotated(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 5, "completed_by": 3, "was_cancelled": False, "ground_truth": False, "result": list(results), **more}


def task(number: int, *annotations: dict[str, Any], address: str | None = None, **data: Any) -> dict[str, Any]:
    address = address or f"/data/upload/1/73d7ef48-{number}_1.png"
    return {"id": number, "annotations": list(annotations), "data": {"image": address, **data}, "predictions": []}


def exported(*tasks: dict[str, Any]) -> bytes:
    return json.dumps(tasks).encode()


def zipped(*tasks: dict[str, Any]) -> dict[str, bytes]:
    """The export of tasks, each of an image in the zip."""
    images = {f"images/73d7ef48-{each['id']}_1.png": PNG for each in tasks}
    return images | {"project-1-at-2026-01-01.json": exported(*tasks)}


def masks(tmp_path: Path, members: dict[str, bytes], dataset: Dataset) -> list[np.ndarray]:
    with Archive(write_zip(tmp_path / "a.zip", members)) as archive:
        return [
            record.mask.read(archive, record.frame.read(archive).pixels).pixels
            for record in dataset.records
            if record.mask
        ]


TRIANGLE = ([10.5, 20], [70, 30.25], [40, 90])


def test_masks_are_those_of_the_converter(tmp_path: Path) -> None:
    tasks = [
        task(1, annotated(painted(nerve(1), id="a"))),
        task(2, annotated(painted(nerve(2), id="a"), painted(nerve(3), id="b"))),
        task(3, annotated(outlined(*TRIANGLE, id="a"), outlined([0, 0], [100, 0], [100, 20.5], id="b"))),
        task(4, annotated()),
    ]
    members = zipped(*tasks)
    (tmp_path / "tasks.json").write_bytes(exported(*tasks))
    converter = Converter(CONFIG, str(tmp_path), download_resources=False, upload_dir=str(tmp_path))
    (tmp_path / "out").mkdir()
    converter.convert(str(tmp_path / "tasks.json"), str(tmp_path / "out"), "BRUSH_TO_PNG", is_dir=False)
    converter.convert_to_coco(str(tmp_path / "tasks.json"), str(tmp_path / "coco"), is_dir=False)
    pngs = [
        [np.asarray(Image.open(path)) > 0 for path in sorted((tmp_path / "out").glob(f"task-{number}-*.png"))]
        for number in (1, 2)
    ]
    assert [len(of) for of in pngs] == [1, 2]
    coco = COCO(str(tmp_path / "coco/result.json"))

    dataset = find(tmp_path, members)
    assert (dataset.layout, dataset.findings) == ("label-studio", [])
    assert [record.image for record in dataset.records] == [f"73d7ef48-{number}_1.png" for number in (1, 2, 3, 4)]
    first, second, third, fourth = masks(tmp_path, members, dataset)
    np.testing.assert_array_equal(first, pngs[0][0])
    np.testing.assert_array_equal(second, pngs[1][0] | pngs[1][1])
    np.testing.assert_array_equal(third, np.max([coco.annToMask(each) for each in coco.anns.values()], axis=0))
    assert len(coco.anns) == 2
    assert not fourth.any(), "it was annotated, with nothing"


def test_a_region_may_have_its_label_in_a_result_of_its_own(tmp_path: Path) -> None:
    parts = []
    for number, label in enumerate(("nerve", "artery")):
        drawn = painted(nerve(number), id=label)["value"]
        parts += [
            result("brush", {"format": "rle", "rle": drawn["rle"]}, id=label),
            result("labels", {"format": "rle", "rle": drawn["rle"], "labels": [label]}, id=label, from_name="label"),
            result("choices", {"choices": ["good"]}, id=label, from_name="quality"),
        ]
    members = zipped(task(1, annotated(*parts, result("choices", {"choices": ["left"]}, id="x"))))
    dataset = find(tmp_path, members)
    assert dataset.classes == {"nerve": 1, "artery": 1}
    np.testing.assert_array_equal(masks(tmp_path, members, find(tmp_path, members, classes=["artery"]))[0], nerve(1))


def test_several_labels_need_a_choice(tmp_path: Path) -> None:
    members = zipped(task(1, annotated(painted(nerve(1)), outlined(*TRIANGLE, label="artery"))))
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("error", "several classes", "project-1-at-2026-01-01.json")]
    np.testing.assert_array_equal(masks(tmp_path, members, find(tmp_path, members, classes=["nerve"]))[0], nerve(1))


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([annotated(painted(nerve(1))), annotated(painted(nerve(2)), was_cancelled=True)], nerve(1)),
        ([annotated(painted(nerve(1))), annotated(painted(nerve(2)), ground_truth=True)], nerve(2)),
        ([annotated(painted(nerve(1))), annotated(painted(nerve(2)))], "several annotations"),
        ([annotated(painted(nerve(n)), ground_truth=True) for n in (1, 2)], "several annotations"),
        ([annotated(painted(nerve(1)), was_cancelled=True)], None),
        ([], None),
    ],
)
def test_one_annotation_of_a_task_is_read(tmp_path: Path, annotations: list[Any], expected: Any) -> None:
    members = zipped(task(1, *annotations), task(2, annotated(painted(nerve(5)))))
    dataset = find(tmp_path, members)
    if expected is None:
        assert kinds(dataset) == [("warning", "unlabelled frames", "images/")]
        assert [record.image for record in dataset.records] == ["73d7ef48-2_1.png"]
    elif isinstance(expected, str):
        assert kinds(dataset) == [("error", expected, "73d7ef48-1_1.png")]
    else:
        assert dataset.findings == []
        np.testing.assert_array_equal(masks(tmp_path, members, dataset)[0], expected)


def test_what_cannot_be_read_is_found_at_once(tmp_path: Path) -> None:
    box = result("rectanglelabels", {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["nerve"]})
    members = zipped(
        task(1, annotated(painted(nerve(1), image_rotation=90))),
        task(2, annotated(box)),
        task(3, annotated(painted(nerve(1)), painted(nerve(1), original_width=9))),
        task(4, annotated(outlined(*TRIANGLE, original_width=None))),
        task(5, annotated(painted(nerve(1)), result("bitmask", {"imageDataURL": "data:"}))),
    )
    del members["images/73d7ef48-5_1.png"]
    assert sorted(kinds(find(tmp_path, members))) == [
        ("error", "missing class", "project-1-at-2026-01-01.json"),
        ("error", "missing frame", "73d7ef48-5_1.png"),
        ("error", "missing size", "73d7ef48-4_1.png"),
        ("error", "no outline", "73d7ef48-2_1.png"),
        ("error", "rotated image", "73d7ef48-1_1.png"),
        ("error", "size mismatch", "73d7ef48-3_1.png"),
    ]


@pytest.mark.parametrize(
    ("address", "image"),
    [
        ("/data/upload/1/73d7ef48-12%20a.png", "images/73d7ef48-12 a.png"),
        ("/data/upload/1/73d7ef48-12_3.png", "12_3.png"),
        ("/data/local-files/?d=scans%2Fx/12_3.png", "x/12_3.png"),
        ("s3://bucket/scans/12_3.png", "scans/12_3.png"),
        ("https://host/scans/12_3.png?signature=a%2Fb", "12_3.png"),
        ("//[scans]/12_3.png", "12_3.png"),
    ],
)
def test_images_are_found_by_their_addresses(tmp_path: Path, address: str, image: str) -> None:
    members = {image: PNG, "a.json": exported(task(1, annotated(painted(nerve(1))), address=address, patient_id=12))}
    dataset = find(tmp_path, members)
    assert [(record.frame.member, record.subject) for record in dataset.records] == [(image, "12")]
    assert dataset.findings == []


def test_brush_exports_alone_are_refused_and_beside_the_json_left_out(tmp_path: Path) -> None:
    alone = {"task-1-annotation-5-by-3-tag-nerve-0.png": PNG, "a/task-1-annotation-5-by-3-tag-nerve-0.npy": b"x"}
    for member, data in alone.items():
        text = refusal(tmp_path, {member: data, "1.png": PNG})
        assert f"brush masks of Label Studio such as {member}" in text
        assert "Export the project as JSON" in text
    dataset = find(tmp_path, zipped(task(1, annotated(painted(nerve(1))))) | alone)
    assert len(dataset.records) == 1
    assert kinds(dataset) == [("warning", "ignored file", "a/task-1-annotation-5-by-3-tag-nerve-0.npy")]


def test_a_mask_of_another_size_or_damaged_is_an_error(tmp_path: Path) -> None:
    for region, reason in (
        (painted(mask(5, 9, 9), original_width=9, original_height=9), "the frame is 50x40, but 9x9 in project-1"),
        (painted(mask(5, 9, 9)), "has 324 values; the frame takes 8000"),
    ):
        members = zipped(task(1, annotated(region)))
        with pytest.raises(UnfitImageError, match=reason):
            masks(tmp_path, members, find(tmp_path, members))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (exported(task(1, annotated(painted(nerve(1)))))[:-3], "cannot be read"),
        (exported(task(1, annotated(was_cancelled=True))), "no task has an annotation"),
        (exported(task(1, annotated(), address="scan")), "has 0 addresses of images in its data"),
        (exported(task(1, annotated(), second="2.png")), "has 2 addresses of images in its data"),
        (b'[{"annotations": [], "data": 7}]', "is not Label Studio's JSON export: 0.data: Input should be"),
    ],
)
def test_a_damaged_export_is_a_clear_error(tmp_path: Path, document: bytes, reason: str) -> None:
    text = refusal(tmp_path, {"73d7ef48-1_1.png": PNG, "a.json": document})
    assert "a.json" in text
    assert reason in text
