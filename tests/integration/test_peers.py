"""benchmarks.peers: the sides whose libraries are installed for development train on a few frames, a second each.

The others need environments of their own, which only the benchmark makes.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import lightning, monai, monai_resnet34, nerveseg
from benchmarks.peers.common import Curve, Task, dice
from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.errors import NervesegError
from nerveseg.evaluation import metrics
from nerveseg.params import load
from nerveseg.phantom import dataset as phantom

ROOT = Path(__file__).parents[2]


def task_with(frames: int = 8, epochs: int = 2) -> Task:
    """Noise, brighter in the square that is the mask."""
    random = np.random.default_rng(0)
    masks = np.zeros((frames, 32, 64), np.uint8)
    masks[:, 8:24, 20:40] = 1
    noise = random.integers(0, 100, masks.shape, np.uint8) + 100 * masks
    return Task(noise, masks, noise[:3], masks[:3], batch=4, epochs=epochs, seed=1)


def side_with(dices: list[float], rates: list[float]) -> peers.Side:
    rows = [
        {"epoch": number + 1, "seconds": 60.0 * (number + 1), "images_per_second": rate, "dice": value}
        for number, (value, rate) in enumerate(zip(dices, rates, strict=True))
    ]
    return peers.Side(version="1.2", precision="fp32", parameters=24_000_000, epochs=rows)


@pytest.mark.parametrize("train", [nerveseg.train, lightning.train, monai.train, monai_resnet34.train])
def test_a_side_trains_and_writes_its_curve(
    train: Callable[[Task, Curve], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    task = task_with()
    train(task, Curve(task, tmp_path / "curve.jsonl"))
    side = peers.Side.read(tmp_path / "curve.jsonl")
    assert (side.parameters < 2e6) if train is monai.train else (20e6 < side.parameters < 30e6)
    assert [row["epoch"] for row in side.epochs] == [1, 2]
    assert 0 < side.epochs[0]["seconds"] < side.epochs[1]["seconds"]
    assert side.epochs[0]["images_per_second"] == pytest.approx(8 / side.epochs[0]["seconds"])
    assert all(0 <= row["dice"] <= 1 for row in side.epochs)


def test_the_score_is_that_of_the_project() -> None:
    random = np.random.default_rng(0)
    masks, truths = random.random((2, 5, 8, 8)) > 0.6
    masks[0] = truths[0] = truths[1] = False
    expected = np.mean([metrics.score(mask, truth)[0] for mask, truth in zip(masks, truths, strict=True)])
    assert dice(masks, truths) == pytest.approx(expected)
    with pytest.raises(ValueError, match="cannot be scored"):
        dice(masks[:4], truths)


def test_all_sides_read_the_frames_that_were_written(tmp_path: Path) -> None:
    task = task_with()
    task.write(tmp_path / "task.npz")
    read = Task.read(tmp_path / "task.npz")
    assert (read.batch, read.epochs, read.seed, read.steps) == (4, 2, 1, 2)
    assert np.array_equal(read.frames, task.frames)
    assert np.array_equal(read.truths, task.truths)


def test_the_task_has_no_test_frames(tmp_path: Path) -> None:
    frame = np.full((60, 90), 7, np.uint8)
    with Writer(tmp_path) as writer:
        for number in range(6):
            writer.append(f"{number}.png", str(number), None, frame + number, frame > 0)
        index = writer.frames()
        writer.write_index(
            index["image"].map(lambda name: ["train", "validation", "test"][int(name[0]) % 3]), [*range(6)]
        )
    store = FrameStore.open(tmp_path)
    task = peers.task_of(store, (32, 64), batch=2, epochs=1, seed=1)
    assert task.frames.shape == task.masks.shape == (2, 32, 64)
    assert np.unique(task.frames).tolist() == [7, 10]
    assert np.unique(task.unseen).tolist() == [8, 11]
    with pytest.raises(NervesegError, match="do not fill one batch"):
        peers.task_of(store, (32, 64), batch=3, epochs=1, seed=1)


def test_the_table_has_rates_and_minutes_to_the_same_dice() -> None:
    sides = {"nerveseg": side_with([0.5, 0.8, 0.9], [1, 20, 22]), "monai": side_with([0.1, 0.2, 0.3], [1, 10, 11])}
    ours, monai_row = peers.table(sides, 0.7).splitlines()[2:]
    assert ours == "| nerveseg | 1.2 | 24.0 M | fp32 | 21.0 | 1.00 | 2.00 | 0.900 | 3.00 |"
    assert monai_row == "| MONAI | 1.2 | 24.0 M | fp32 | 10.5 | 0.50 | not reached | 0.300 | 3.00 |"


def test_a_side_that_cannot_be_installed_is_told_and_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fastai.txt").write_text("./missing\n")
    small = {"subjects": 8, "frames_per_subject": 5, "height": 70, "width": 96}
    phantom.write(tmp_path / "phantom.zip", load(ROOT / "params.yaml").phantom.model_copy(update=small))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    skipped = [part for name in peers.NAMES if name != "fastai" for part in ("--skip", name)]
    with pytest.raises(SystemExit, match="1"):
        peers.main([*skipped, "--cache", str(tmp_path / "cache"), "--dataset", str(tmp_path / "phantom.zip")])
    said = capsys.readouterr().out
    assert "fastai did not train: exit code" in said
    assert "missing" in (tmp_path / "cache" / "fastai.log").read_text()
    assert "MONAI was skipped." in said


def test_a_library_may_pin_what_it_cannot_have_from_the_lock() -> None:
    lock = "timm==1.0.31\n    # via smp\ntorch==2.15.0\n"
    assert peers.others(lock, "nnunetv2==2.8.1\ntimm==1.0.22\n") == "    # via smp\ntorch==2.15.0\n"


def test_every_peer_has_a_script_and_pinned_versions() -> None:
    for name in peers.NAMES:
        assert (peers.FOLDER / f"{name}.py").exists()
    for name in set(peers.NAMES) - {peers.OURS}:
        pinned = (peers.FOLDER / f"{name.partition('_')[0]}.txt").read_text().splitlines()
        assert pinned
        assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in pinned)
