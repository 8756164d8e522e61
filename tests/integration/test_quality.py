"""benchmarks/quality.py on a small phantom. It trains, because what it compares are trainings: a second each."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import plain_loop, quality
from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.errors import NervesegError

ROOT = Path(__file__).parents[2]
SMALL = [
    *("phantom.subjects=6", "phantom.frames_per_subject=5", "phantom.height=70", "phantom.width=96"),
    *("train.batch_size=4", "train.epochs=1", "evaluate.resamples=100", "evaluate.min_frames=1"),
]
SIZE = ["--encoder", "tu-test_resnet", "--size", "32x64"]


def run(cache: Path, *more: str, seeds: str = "1") -> None:
    changes = [part for change in SMALL for part in ("--set", change)]
    quality.main(
        [*changes, *SIZE, "--folds", "3", "--only-folds", "1,2", "--seeds", seeds, "--cache", str(cache), *more]
    )


def trained(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in ("networks", "plain") for path in (cache / folder).glob("*")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_recipe_beside_the_plain_loop(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(cache, seeds="1,2")
    table = capsys.readouterr().out
    assert table.startswith("| | plain | train.batch_size=4 train.epochs=1 | difference |")
    assert "| Dice by subject |" in table
    assert "| share of frames with Dice 0 |" in table
    assert "better on" in table
    before = trained(cache)
    assert len(before) == 4 + 2 * 4, "two seeds on two folds; of the loop, scores and minutes"
    run(cache, seeds="1,2")
    assert capsys.readouterr().out == table
    assert trained(cache) == before, "nothing is trained twice"


def test_sides_train_on_the_same_people_and_test_on_others(cache: Path) -> None:
    stores = [FrameStore.open(path) for path in sorted(cache.glob("datasets/*/data/fold-*"))]
    tested = [set(store.index["subject"][store.rows("test")]) for store in stores]
    assert not tested[0] & tested[1]
    for store, people in zip(stores, tested, strict=True):
        assert not people & set(store.index["subject"][store.rows("train")])
        for scores in [*cache.glob("networks/*/*.csv"), *cache.glob("plain/*.csv")]:
            subjects = set(pd.read_csv(scores, dtype={"subject": str})["subject"])
            assert subjects in tested, "each side is scored on the people of a fold, and on all of them"


def test_a_change_of_scoring_does_not_train(cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = tmp_path / "ablation.yaml"
    plan.write_text("base: {}\nchanges:\n  flips: {model.flips: true}\n  no change: {train.recipe: nerveseg}\n")
    before = trained(cache)
    run(cache, "--ablation", str(plan))
    tables = capsys.readouterr().out.split("folds")
    assert len(tables) == 3, "one after each fold"
    assert "| no change | +0.000 (0.000 to 0.000) |" in tables[2]
    assert trained(cache).keys() == before.keys()
    plan.write_text(plan.read_text() + "  not trained: {train.epochs: 2}\n")
    run(cache, "--ablation", str(plan), "--cached")
    assert capsys.readouterr().out == tables[2].partition("\n\n")[2]
    assert trained(cache).keys() == before.keys()


def test_no_setting_is_chosen_on_fold_0(cache: Path) -> None:
    with pytest.raises(NervesegError, match="Fold 0 is for the final comparison"):
        run(cache, "--ablation", "benchmarks/ablation.yaml", "--only-folds", "0,1")


def test_a_misspelt_parameter_is_a_clear_error(cache: Path) -> None:
    with pytest.raises(NervesegError, match=r"did you mean train\.loss"):
        run(cache, "--set", "train.los=focal")
    with pytest.raises(NervesegError, match=r"use section\.key=value"):
        run(cache, "--set", "loss=focal")


def test_the_plain_loop_learns_a_bright_disc(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    with Writer(tmp_path) as writer:
        for number, (row, column) in enumerate(random.uniform(16, 48, (16, 2))):
            disc = ((y - row) ** 2 + (x - column) ** 2 < 12**2).astype(np.uint8)
            frame = random.integers(0, 60, disc.shape, np.uint8) + disc * np.uint8(150)
            writer.append(f"{number}_1.png", str(number), None, frame, disc)
        writer.write_index(pd.Series(["train"] * 16), np.arange(16))
    store, size = FrameStore.open(tmp_path), (32, 32)
    trained = plain_loop.train(store, "tu-test_resnet", None, size, epochs=30, batch_size=8, seed=0)
    found = plain_loop.score(trained, store, store.rows("train"), size)
    assert found["dice"].mean() > 0.8
    assert (found["iou"] <= found["dice"]).all()
    assert found["subject"].tolist() == [str(number) for number in range(16)]
