"""The built-in dataset: what someone who knows ultrasound sees in it, and what the pipeline relies on."""

import io
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from limits import largest_file
from nerveseg.data import rle
from nerveseg.errors import NervesegError
from nerveseg.params import PhantomParams
from nerveseg.phantom import dataset
from nerveseg.phantom.sweep import sweep as simulate

SMALL = PhantomParams(
    subjects=5, frames_per_subject=5, empty_share=0.2, height=96, width=128, layout="hydrogen-torch", seed=70
)
FULL = SMALL.model_copy(update={"height": 210, "width": 290})


@cache
def sweeps(params: PhantomParams) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    return [simulate(subject, params) for subject in range(1, params.subjects + 1)]


def with_nerve(params: PhantomParams) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(frame, mask) for sweep in sweeps(params) for frame, mask in sweep if mask.any()]


def written(tmp_path: Path, **changes: object) -> bytes:
    path = tmp_path / "phantom.zip"
    dataset.write(path, SMALL.model_copy(update={"subjects": 3, "frames_per_subject": 2} | changes))
    return path.read_bytes()


def contents(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def image(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    former = written(tmp_path)
    with largest_file(len(former) // 2), pytest.raises(NervesegError, match=r"phantom\.zip cannot be written"):
        written(tmp_path, seed=71)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("phantom.zip", former)]


@pytest.mark.parametrize("layout", ["hydrogen-torch", "kaggle"])
def test_same_params_give_same_bytes_and_another_seed_gives_others(tmp_path: Path, layout: str) -> None:
    archive = written(tmp_path, layout=layout)
    assert written(tmp_path, layout=layout) == archive
    frames = {name: content for name, content in contents(archive).items() if "mask" not in name}
    others = contents(written(tmp_path, layout=layout, seed=71))
    assert all(others[name] != content for name, content in frames.items())


def test_both_layouts_have_the_same_frames_and_masks(tmp_path: Path) -> None:
    hydrogen, kaggle = (contents(written(tmp_path, layout=layout)) for layout in ("hydrogen-torch", "kaggle"))
    table = pd.read_parquet(io.BytesIO(hydrogen["train.pq"]))
    assert list(table.columns) == ["image", "class_id", "rle_mask", "fold"]
    assert hydrogen.keys() == {"train.pq"} | {f"images/{name}" for name in table["image"]}
    assert table["image"].tolist() == [f"{subject}_{frame}.png" for subject in (1, 2, 3) for frame in (1, 2)]
    assert len(kaggle) == 2 * len(table)
    assert (table["rle_mask"] == "").sum() == 1
    for row in table.itertuples():
        stem = row.image.removesuffix(".png")
        frame, mask = image(kaggle[f"train/{stem}.tif"]), image(kaggle[f"train/{stem}_mask.tif"])
        np.testing.assert_array_equal(frame, image(hydrogen[f"images/{row.image}"]))
        np.testing.assert_array_equal(mask, 255 * rle.decode(row.rle_mask, 96, 128))


def test_folds_hold_whole_subjects(tmp_path: Path) -> None:
    table = pd.read_parquet(io.BytesIO(contents(written(tmp_path, subjects=7))["train.pq"]))
    folds = table.groupby(table["image"].str.split("_").str[0])["fold"]
    assert (folds.nunique() == 1).all()
    assert set(table["fold"]) == set(range(5))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_share_of_frames_without_a_nerve(share: float) -> None:
    params = SMALL.model_copy(update={"empty_share": share, "height": 64, "width": 64})
    present = np.array([[mask.any() for _, mask in sweep] for sweep in sweeps(params)])
    assert (~present).sum() == round(share * present.size)
    assert np.ptp(present.sum(axis=1)) <= 1, "spread evenly over the subjects"
    assert (np.abs(np.diff(present, axis=1)).sum(axis=1) <= 1).all(), "at one end of the sweep"


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97), (480, 640), (64, 2048), (2048, 64)])
def test_any_size(height: int, width: int) -> None:
    params = SMALL.model_copy(update={"height": height, "width": width, "frames_per_subject": 1, "empty_share": 0.0})
    [(frame, mask)] = simulate(1, params)
    assert frame.shape == mask.shape == (height, width)
    assert frame.dtype == mask.dtype == np.uint8
    assert 40 < frame.mean() < 140
    assert 0.03 <= mask.mean() <= 0.08


def test_anatomy_scales_with_frame_size() -> None:
    [frame, mask], [large, large_mask] = with_nerve(SMALL)[0], with_nerve(FULL)[0]
    assert correlation(cv2.resize(large, (128, 96), interpolation=cv2.INTER_AREA), frame) > 0.8
    scaled = cv2.resize(255 * large_mask, (128, 96), interpolation=cv2.INTER_AREA) > 127
    assert (scaled & mask).sum() / (scaled | mask).sum() > 0.95


def test_a_frame_depends_only_on_seed_subject_and_number() -> None:
    long = SMALL.model_copy(update={"empty_share": 0.0})
    short = long.model_copy(update={"frames_per_subject": 2, "subjects": 3, "layout": "kaggle"})
    for (frame, mask), (same_frame, same_mask) in zip(simulate(3, short), sweeps(long)[2], strict=False):
        np.testing.assert_array_equal(frame, same_frame)
        np.testing.assert_array_equal(mask, same_mask)


def test_neighbours_in_a_sweep_are_near_duplicates_and_subjects_differ() -> None:
    neighbours = [correlation(a, b) for sweep in sweeps(FULL) for (a, _), (b, _) in pairwise(sweep)]
    different = [correlation(a[0][0], b[0][0]) for a, b in pairwise(sweeps(FULL))]
    assert min(neighbours) > 0.6
    assert max(neighbours) < 0.999, "speckle and anatomy change"
    assert max(different) < min(neighbours) - 0.1


def test_masks_are_one_bundle_away_from_the_border() -> None:
    many = SMALL.model_copy(update={"subjects": 30, "frames_per_subject": 1, "empty_share": 0.0})
    centres = []
    for _, mask in with_nerve(many):
        assert 0.03 <= mask.mean() <= 0.08
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()
        assert cv2.connectedComponents(mask)[0] == 2
        centres.append(np.argwhere(mask).mean(axis=0))
    assert (np.std(centres, axis=0) > 3).all(), "every subject has its own anatomy"


def test_the_nerve_has_a_bright_rim_around_a_darker_inside() -> None:
    for frame, mask in with_nerve(FULL):
        inside = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=5)
        assert frame[(mask > 0) & (inside == 0)].mean() > frame[inside > 0].mean() + 15


def test_a_frame_without_a_nerve_shows_other_tissue_instead() -> None:
    params = FULL.model_copy(update={"empty_share": 0.4})
    empty = sweeps(params)[0]
    present = simulate(1, params.model_copy(update={"empty_share": 0.0}))
    [gone, *_] = [number for number in (0, 4) if not empty[number][1].any()]
    nerve = present[gone][1] > 0
    difference = np.abs(present[gone][0].astype(float) - empty[gone][0])
    assert difference[nerve].mean() > 30
    assert difference[: nerve.any(axis=1).argmax() - 12].mean() < 1, "tissue above the nerve stays the same"


def test_brightness_falls_with_depth() -> None:
    rows = np.mean([frame for sweep in sweeps(FULL) for frame, _ in sweep], axis=(0, 2))
    thirds = [part.mean() for part in np.array_split(rows, 3)]
    assert thirds[0] > thirds[1] + 5 > thirds[2] + 10
    assert rows[0] < 30, "the dark film between probe and skin"


def test_speckle_is_wider_than_tall_and_widens_with_depth() -> None:
    def similarity(part: np.ndarray, axis: int) -> float:
        fine = part - cv2.GaussianBlur(part, (0, 0), 4)
        ends = (slice(None, -3), slice(3, None))
        first, second = (fine[:, end] if axis else fine[end] for end in ends)
        return correlation(first, second)

    # Anatomy is subtracted: what differs between neighbouring frames is mostly speckle.
    params = SMALL.model_copy(
        update={"height": 420, "width": 580, "subjects": 3, "frames_per_subject": 2, "empty_share": 0.0}
    )
    speckle = [second.astype(np.float32) - first for (first, _), (second, _) in sweeps(params)]
    shallow, deep = ([part[rows] for part in speckle] for rows in (slice(60, 150), slice(250, 340)))
    assert np.mean([similarity(part, 1) for part in shallow]) > np.mean([similarity(part, 0) for part in shallow]) + 0.2
    assert np.mean([similarity(part, 1) for part in deep]) > np.mean([similarity(part, 1) for part in shallow]) + 0.03
