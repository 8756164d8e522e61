"""What CVAT and Label Studio export, through the split stage: the store holds the masks of their own libraries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_converter import brush
from pycocotools import mask as coco_mask

from dataset_zips import HEIGHT, WIDTH, frame, image, write_zip
from foreign_zips import NAMES, nerve
from nerveseg import params, paths
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.files import read_json
from nerveseg.stages import split

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(members: dict[str, bytes], **data: Any) -> FrameStore:
    write_zip(paths.DATASET_ZIP, members)
    content = params.read_yaml(REPOSITORY / paths.PARAMS)
    content["data"] |= {"frames": "all"} | data
    split.run(params.parse(content, "params"))
    return FrameStore.open(paths.PACKED)


def require_exact(store: FrameStore) -> None:
    assert len(store) == len(NAMES)
    for row in range(len(store)):
        np.testing.assert_array_equal(store.frame(row), frame(row))
        np.testing.assert_array_equal(store.mask(row), nerve(row))


def frames(folder: str, prefix: str = "") -> dict[str, bytes]:
    return {f"{folder}{prefix}{name}.png": image(frame(seed), "png") for seed, name in enumerate(NAMES)}


def coco(**sizes: int) -> dict[str, bytes]:
    """As CVAT writes masks: compressed run lengths and polygons, two categories, subjects in the images."""
    runs = [coco_mask.encode(np.asfortranarray(nerve(seed))) for seed in range(len(NAMES))]
    shapes = [{"size": [HEIGHT, WIDTH], "counts": each["counts"].decode()} for each in runs]
    size = {"width": WIDTH, "height": HEIGHT} | sizes
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "categories": [{"id": number, "name": name} for number, name in ((1, "artery"), (2, "nerve"))],
        "images": [
            {"id": seed + 1, "file_name": f"{name}.png", "patient_id": name.split("_")[0], **size}
            for seed, name in enumerate(NAMES)
        ],
        "annotations": [
            {"id": number, "image_id": seed + 1, "category_id": category, "segmentation": shape, "iscrowd": 0}
            for seed, runs in enumerate(shapes)
            for number, (category, shape) in enumerate([(2, runs), (1, [[0, 0, 9, 0, 9, 9]])], start=2 * seed)
        ],
    }
    return {"annotations/instances_default.json": json.dumps(content).encode()} | frames("images/default/")


def test_coco_as_cvat_exports_it() -> None:
    store = run(coco(), classes=["nerve"])
    require_exact(store)
    assert store.index["subject"].tolist() == [name.split("_")[0] for name in NAMES]
    report = read_json(paths.PACKED / "findings.json")
    assert report["layout"] == "coco"
    key = "the key patient_id of annotations/instances_default.json"
    assert report["subjects_read"] == f"Subjects were read from {key}."
    assert run(coco(), classes=[2]).digest() == store.digest()


def test_an_artery_of_coco_does_not_become_nerve() -> None:
    with pytest.raises(NervesegError, match="1 error"):
        run(coco())
    assert "nerve (6 masks), artery (6 masks)" in read_json(paths.FINDINGS_JSON)["findings"][0]["detail"]


def test_coco_of_other_sizes_than_the_files_is_refused() -> None:
    with pytest.raises(NervesegError, match="6 errors"):
        run(coco(width=WIDTH * 2, height=HEIGHT * 2), classes=["nerve"])
    found = read_json(paths.FINDINGS_JSON)["findings"]
    assert {finding["kind"] for finding in found} == {"size mismatch"}
    assert "the frame is 50x40, but 100x80 in annotations/instances_default.json" in found[0]["detail"]


def test_brush_masks_of_label_studio() -> None:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    tasks = []
    for seed, name in enumerate(NAMES):
        value = {"format": "rle", "rle": brush.mask2rle(nerve(seed) * 255), "brushlabels": ["nerve"]}
        region = {"id": "a", "type": "brushlabels", "from_name": "tag", "to_name": "image", "value": value, **size}
        address = f"/data/upload/7/73d7ef48-{name}.png"
        tasks.append({"id": seed, "data": {"image": address}, "annotations": [{"id": seed, "result": [region]}]})
    members = {"project.json": json.dumps(tasks).encode()}
    require_exact(run(members | frames("")))
    assert read_json(paths.PACKED / "findings.json")["warnings"] == 0

    uploaded = members | frames("images/", "73d7ef48-")
    require_exact(run(uploaded, subject="[0-9a-f]{8}-(?P<subject>[0-9]+)_[0-9]"))
    assert read_json(paths.PACKED / "findings.json")["warnings"] == 0
    require_exact(run(uploaded))
    doubt = read_json(paths.PACKED / "findings.json")["findings"][0]
    assert doubt["kind"] == "doubtful subjects", "the prefix is read as a part of the subject"
    assert "set data.subject to [0-9a-f]{8}-(?P<subject>[^_]+)_.+, which skips a prefix such as" in doubt["detail"]
