import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.errors import NervesegError

SPLITS = ["train", "validation", "train", "test"]


def frames_and_masks() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    shapes = [(40, 50), (60, 30), (33, 33), (40, 50)]
    return [(rng.integers(0, 256, s).astype(np.uint8), rng.integers(0, 2, s).astype(np.uint8)) for s in shapes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Writer(tmp_path) as writer:
        for number, (frame, mask) in enumerate(frames_and_masks()):
            writer.append(f"{number}_1.png", str(number), number if number % 2 else None, frame, mask)
        writer.write_index(pd.Series(SPLITS), np.arange(len(SPLITS)))
    return tmp_path


def test_returns_frames_of_any_size(folder: Path) -> None:
    store = FrameStore.open(folder)
    assert len(store) == 4
    for row, (frame, mask) in enumerate(frames_and_masks()):
        np.testing.assert_array_equal(store.frame(row), frame)
        np.testing.assert_array_equal(store.mask(row), mask)
        assert not store.frame(row).flags.writeable
        assert store.index["mask_area"][row] == mask.sum()


def test_index_keeps_types_and_splits(folder: Path) -> None:
    store = FrameStore.open(folder)
    assert store.index["fold"].dtype == "Int64"
    assert store.index["fold"].isna().tolist() == [True, False, True, False]
    assert store.index["image"].tolist() == ["0_1.png", "1_1.png", "2_1.png", "3_1.png"]
    assert store.index["sha256"].nunique() == 4
    assert store.rows("train").tolist() == [0, 2]
    assert store.rows("test").tolist() == [3]
    assert store.rows("train").dtype == np.int64


def test_arrays_are_ordinary_npy_files(folder: Path) -> None:
    frames = np.load(folder / "frames.npy")
    np.testing.assert_array_equal(frames, np.concatenate([frame.ravel() for frame, _ in frames_and_masks()]))


def test_pickles_without_its_pixels_and_reopens_in_another_process(folder: Path) -> None:
    store = FrameStore.open(folder)
    assert len(pickle.dumps(store)) < 1000
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(store.frame, 1).result(60), store.frame(1))


@pytest.mark.parametrize("name", ["frames.npy", "masks.npy", "index.parquet"])
def test_a_missing_file_is_a_clear_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NervesegError, match=rf"{name} missing: .*dvc"):
        FrameStore.open(folder)


@pytest.mark.parametrize("name", ["frames.npy", "masks.npy", "index.parquet"])
def test_a_truncated_file_is_a_clear_error(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(NervesegError, match="damaged"):
        FrameStore.open(folder)


def test_files_from_another_store_are_a_clear_error(folder: Path) -> None:
    np.save(folder / "masks.npy", np.zeros(10, np.uint8))
    with pytest.raises(NervesegError, match=r"masks.npy is uint8 \(10,\)"):
        FrameStore.open(folder)


def test_pickled_objects_are_not_loaded(folder: Path) -> None:
    np.save(folder / "frames.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(NervesegError, match="damaged"):
        FrameStore.open(folder)


@pytest.mark.parametrize("sites", [["", "", "", ""], ["ulm", "", "bonn", "ulm"]])
def test_sites_are_in_the_index_where_any_is_known(tmp_path: Path, sites: list[str]) -> None:
    """A store without sites is as those of versions that knew none, and keeps their digest."""
    with Writer(tmp_path) as writer:
        for (frame, mask), site in zip(frames_and_masks(), sites, strict=True):
            writer.append(f"{len(frame)}_{site}.png", "1", None, frame, mask, site)
        written = writer.write_index(pd.Series(SPLITS), np.arange(len(SPLITS)))
    index = FrameStore.open(tmp_path).index
    pd.testing.assert_frame_equal(index, written)
    assert ("site" in index) == any(sites)
    assert list(index.get("site", sites)) == sites


@pytest.mark.parametrize("known", [{}, {1: (0.1, 0.05), 3: (0.2, 0.2)}])
def test_spacings_are_in_the_index_where_any_is_known(tmp_path: Path, known: dict[int, tuple[float, float]]) -> None:
    """A store without spacings is as those of versions that knew none, and keeps their digest."""
    with Writer(tmp_path) as writer:
        for number, (frame, mask) in enumerate(frames_and_masks()):
            writer.append(f"{number}_1.png", "1", None, frame, mask, spacing_mm=known.get(number))
        written = writer.write_index(pd.Series(SPLITS), np.arange(len(SPLITS)))
    index = FrameStore.open(tmp_path).index
    pd.testing.assert_frame_equal(index, written)
    stored = {name: list(index[name].dropna().items()) for name in ("row_mm", "column_mm") if name in index}
    expected = [[(number, spacing[axis]) for number, spacing in known.items()] for axis in (0, 1)]
    assert stored == (dict(zip(("row_mm", "column_mm"), expected, strict=True)) if known else {})


def test_one_of_the_spacings_alone_is_a_clear_error(folder: Path) -> None:
    index = pd.read_parquet(folder / "index.parquet")
    index.insert(index.columns.get_loc("mask_area"), "row_mm", 0.1)
    index.to_parquet(folder / "index.parquet", index=False)
    with pytest.raises(NervesegError, match=r"inconsistent: index.parquet has the columns"):
        FrameStore.open(folder)


@pytest.mark.parametrize(("content", "known"), [({}, True), ({"subjects_known": False}, False)])
def test_subjects_are_known_unless_the_findings_deny_it(folder: Path, content: dict[str, bool], known: bool) -> None:
    (folder / "findings.json").write_text(json.dumps(content))
    assert FrameStore.open(folder).subjects_known() is known
