"""What the predictor says of a frame: in words, in mm², as layers, and by the examples of its own documentation."""

import io
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image

from bright_predictor import HEIGHT, USUAL, WIDTH, ellipse, frame, serving, training
from nerveseg.data import rle

SEGMENT = "/v1/segment"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving(tmp_path_factory.mktemp("predictor"), training()) as client:
        yield client


def segment(client: httpx.Client, content: bytes, **fields: str) -> Any:
    answer = client.post(SEGMENT, files={"frame": ("frame [1].png", content)}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (USUAL, "typical", "This mask is like the training masks in area, position and shape. It can still be wrong."),
        (
            (20, 110, 18, 11),
            "atypical",
            "This mask is more atypical than 95 % of the training masks: check it before use.",
        ),
        (
            (),
            "empty",
            "No nerve was found in this frame, but every training frame shows one: check the frame by eye.",
        ),
    ],
)
def test_a_mask_is_assessed_in_a_sentence(
    client: httpx.Client, shape: tuple[float, ...], kind: str, message: str
) -> None:
    found = segment(client, frame(*shape))
    assert (found["assessment"], found["message"]) == (kind, message)
    assert (found["atypicality"] > 0.5) == (kind != "typical")
    png = client.post(SEGMENT, files={"frame": frame(*shape)}, params={"format": "overlay"})
    assert png.headers["x-assessment"] == kind


def test_a_frame_without_a_nerve_is_as_usual_as_in_training(tmp_path: Path) -> None:
    with serving(tmp_path, training(empty=10)) as client:
        found = segment(client, frame())
    assert found["message"] == (
        "No nerve was found in this frame; 20 % of the training frames show none: check the frame by eye."
    )


def test_a_version_without_statistics_says_that_it_cannot_tell(tmp_path: Path) -> None:
    with serving(tmp_path, None) as client:
        found, empty = segment(client, frame(*USUAL)), segment(client, frame())
    assert (found["assessment"], found["atypicality"]) == ("unknown", None)
    assert found["message"] == "This model version cannot tell an atypical mask: check every mask by eye."
    assert (empty["assessment"], empty["message"]) == (
        "empty",
        "No nerve was found in this frame: check the frame by eye.",
    )


def test_areas_are_in_mm2_where_the_spacing_is_given(client: httpx.Client) -> None:
    area = int(ellipse(*USUAL).sum())
    found = segment(client, frame(*USUAL), spacing_mm="0.08 0.1")
    assert (found["area"], found["spacing_mm"]) == (area, [0.08, 0.1])
    assert found["area_mm2"] == pytest.approx(area * 0.08 * 0.1)
    content = frame(*USUAL)
    png = client.post(SEGMENT, files={"frame": content}, data={"spacing_mm": "0.1"}, params={"format": "mask"})
    assert float(png.headers["x-area-mm2"]) == pytest.approx(area * 0.01, rel=1e-5)
    assert segment(client, content, spacing_mm="")["area_mm2"] is None, "as a form without scripts sends it"


def test_the_resolution_of_a_file_is_not_taken_for_a_spacing(client: httpx.Client) -> None:
    stream = io.BytesIO()
    Image.fromarray(cv2.imdecode(np.frombuffer(frame(*USUAL), np.uint8), cv2.IMREAD_GRAYSCALE)).save(
        stream, "TIFF", dpi=(72, 72)
    )
    found = segment(client, stream.getvalue())
    assert (found["area_mm2"], found["spacing_mm"]) == (None, None)


def test_a_spacing_that_is_none_is_refused(client: httpx.Client) -> None:
    answer = client.post(SEGMENT, files={"frame": frame(*USUAL)}, data={"spacing_mm": "0,08"})
    assert answer.status_code == 422
    assert "spacing_mm: '0,08' is not a pixel spacing. Give mm per pixel" in answer.json()["detail"]


def test_a_second_file_is_refused(client: httpx.Client) -> None:
    answer = client.post(SEGMENT, files={"frame": frame(*USUAL), "spacing_mm": b"0.1"})
    assert answer.status_code == 400
    assert "The form is damaged: Too many files" in answer.json()["detail"]


def test_layers_are_the_frame_and_the_mask(client: httpx.Client) -> None:
    found = segment(client, frame(*USUAL))
    layers = client.post(SEGMENT, files={"frame": ("frame [1].png", frame(*USUAL))}, params={"format": "layers"}).json()
    pictures = [
        cv2.imdecode(np.frombuffer(b64decode(layers.pop(name)), np.uint8), cv2.IMREAD_UNCHANGED)
        for name in ("frame_png", "mask_png")
    ]
    assert layers == found
    mask = ellipse(*USUAL)
    assert np.array_equal(pictures[0], 50 + 180 * mask)
    assert np.array_equal(pictures[1], 255 * mask)
    assert (rle.decode(found["rle_mask"], HEIGHT, WIDTH) == mask).all()


def test_the_example_of_the_schema_is_an_answer(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    model = schema["components"]["schemas"]["Segmentation"]
    example = model["example"]
    jsonschema.validate(example, model)
    found = segment(client, frame(*USUAL), spacing_mm="0.08")
    jsonschema.validate(found, model)
    assert set(example) == set(found)
    mask = rle.decode(example["rle_mask"], example["height"], example["width"])
    assert mask.sum() == example["area"]
    assert example["area_mm2"] == pytest.approx(example["area"] * np.prod(example["spacing_mm"]))


def test_the_examples_of_the_documentation_work(client: httpx.Client, tmp_path: Path) -> None:
    """As a reader runs them, so in processes: curl, and Python without nerveseg."""
    (tmp_path / "frame.png").write_bytes(frame(*USUAL))
    operation = client.get("/openapi.json").json()["paths"][SEGMENT]["post"]
    page, said = client.get("/docs").text, []
    for sample, command in zip(operation["x-codeSamples"], (["bash", "-e"], [sys.executable, "-I"]), strict=True):
        assert sample["source"].splitlines()[0] in page.replace("&quot;", '"')
        code = sample["source"].replace("HOST:8000", client.base_url.netloc.decode())
        done = subprocess.run(command, input=code, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    area = int(ellipse(*USUAL).sum())
    assert f'"area":{area}' in said[0]
    assert np.count_nonzero(cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)) == area
    assert "like the training masks" in said[1]
    assert f"{area} px" in said[1]
