"""`nerveseg compare` of two tables of predictions, in a workspace that holds their frames and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from nerveseg.cli import app
from nerveseg.compare.sides import Side, common, masks, remark
from paired_masks import EVALUATE, nerve, predictions, write_store
from workspace import ROOT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a root with 24 frames, and a.parquet and b.parquet, which is off by one pixel more."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    store = write_store(tmp_path / "data" / "packed")
    for name, right in (("a", 1), ("b", 2)):
        predictions(store, right).to_parquet(tmp_path / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


def said(result: Result) -> str:
    return " ".join(result.output.split())


def test_two_tables_are_compared_frame_by_frame(here: Path) -> None:
    result = compare("a.parquet", "b.parquet")
    assert result.exit_code == 0, result.output
    assert "24 frames that both were scored on" in said(result)
    assert "0.9500 │ 0.9000 │ -0.0500 │ -0.0500 to -0.0500 │ A" in said(result)
    summary = json.loads((here / "reports/compare/comparison.json").read_text())
    assert (summary["a"], summary["b"], summary["frames"], summary["remarks"]) == ("a.parquet", "b.parquet", 24, [])
    assert summary["figures"]["dice"]["difference"] == pytest.approx(-0.05)
    assert summary["figures"]["dice"]["difference_ci"] == pytest.approx([-0.05, -0.05])
    frames = pd.read_csv(here / "reports/compare/frames.csv")
    assert len(frames) == 24
    assert frames["agreement"].tolist() == sorted(frames["agreement"])


def test_a_table_with_all_frames_of_the_other_is_compared_on_those_of_the_other(here: Path) -> None:
    """As that of a cross-validation, beside that of one fold's test frames."""
    table = pd.read_parquet("b.parquet")
    table.iloc[5:11].to_parquet("b.parquet")
    assert "6 frames that both were scored on" in said(compare("a.parquet", "b.parquet"))


def test_tables_of_different_frames_are_an_error_that_says_which(here: Path) -> None:
    for name, part in (("a", slice(0, 12)), ("b", slice(6, 24))):
        pd.read_parquet(f"{name}.parquet").iloc[part].to_parquet(f"{name}.parquet")
    result = compare("a.parquet", "b.parquet")
    assert result.exit_code == 1
    assert "A, a.parquet, was scored on 12 frames (0_0.png, 0_1.png, 0_2.png, ...)" in said(result)
    assert "B, b.parquet, was scored on 18 frames (1_6.png, 1_7.png, 2_8.png, ...)" in said(result)
    assert not (here / "reports").exists()


@pytest.mark.parametrize("recorded", ["with the hashes of its frames", "by an older version"])
def test_masks_of_other_frames_with_the_same_names_are_refused(here: Path, recorded: str) -> None:
    shutil.rmtree("data")
    if recorded == "by an older version":  # only a different true mask shows that it is another frame
        write_store(here / "data" / "packed", empty=(4,))
        pd.read_parquet("b.parquet").drop(columns="sha256").to_parquet("b.parquet")
        pd.read_parquet("a.parquet").drop(columns="sha256").to_parquet("a.parquet")
    else:
        write_store(here / "data" / "packed", seed=1)
    result = compare("a.parquet", "b.parquet")
    assert result.exit_code == 1
    assert "A, a.parquet, has masks of other frames than data/packed" in said(result)
    assert ("1_4.png first" if recorded == "by an older version" else "24 of 24") in said(result)


def test_frames_that_are_not_here_are_an_error(here: Path) -> None:
    table = pd.read_parquet("b.parquet")
    table.assign(image=[f"other_{name}" for name in table["image"]]).to_parquet("b.parquet")
    result = compare("a.parquet", "b.parquet")
    assert result.exit_code == 1
    assert "B, b.parquet, was scored on 24 frames" in said(result)
    assert "data/packed lacks 24 of them" in said(result)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"not a table", "no table of predictions"),
        ("columns", "no table of predictions"),
        ("rows", "it has no rows"),
        ("twice", "it has a frame twice"),
        ("mask", "is damaged"),
    ],
)
def test_a_damaged_table_is_one_clear_error(here: Path, content: bytes | str, problem: str) -> None:
    table = pd.read_parquet("b.parquet")
    changed = {
        "columns": table.drop(columns="rle_mask"),
        "rows": table.iloc[:0],
        "twice": pd.concat([table, table.iloc[:1]]),
        "mask": table.assign(rle_mask="1 99999999"),
    }
    if isinstance(content, bytes):
        Path("b.parquet").write_bytes(content)
    else:
        changed[content].to_parquet("b.parquet")
    result = compare("a.parquet", "b.parquet")
    assert result.exit_code == 1
    assert "b.parquet" in said(result)
    assert problem in said(result)
    assert "Traceback" not in result.output


def test_a_folder_of_something_else_is_not_replaced(here: Path) -> None:
    result = compare("a.parquet", "b.parquet", "--out", "data")
    assert (result.exit_code, (here / "data/packed").exists()) == (1, True)
    assert "data would be replaced" in said(result)
    for _ in range(2):  # a former comparison is
        assert compare("a.parquet", "b.parquet", "--out", "mine").exit_code == 0
    assert (here / "mine/index.html").exists()


def test_what_does_not_exist_is_named(here: Path) -> None:
    for missing in ("nowhere.parquet", "delivery/3"):
        result = compare("a.parquet", missing)
        assert result.exit_code == 1
        assert missing in said(result)


NETWORK = Path("nowhere")  # of which nothing may be loaded


def test_networks_are_compared_on_the_frames_of_a_unless_all_of_one_are_the_others(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed")
    table = predictions(store, 1)
    first, second = Side("A", "version 1", table.iloc[:12], NETWORK), Side("B", "version 2", table.iloc[6:], NETWORK)
    rows, which = common((first, second), store, EVALUATE)
    assert (rows.tolist(), which) == (list(range(12)), "that A was scored on")
    assert remark(first, store, rows) == ""
    assert "B was not evaluated on these frames" in remark(second, store, rows)
    whole = Side("A", "version 1", table, NETWORK)
    rows, which = common((whole, second), store, EVALUATE)
    assert (rows.tolist(), which) == (list(range(6, 24)), "that both were scored on")
    masks_only = Side("B", "b.parquet", table.iloc[6:])
    rows, which = common((first, masks_only), store, EVALUATE)
    assert (rows.tolist(), which) == (list(range(6, 24)), "that B was scored on")


def test_networks_of_other_frames_are_compared_on_those_of_an_evaluation_here(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed")
    elsewhere = Side("A", "version 1", pd.DataFrame({"image": ["other.png"]}), NETWORK)
    bundle = Side("B", "bundle delivery/2", None, NETWORK, split=store.digest())
    rows, which = common((elsewhere, bundle), store, EVALUATE)
    assert rows.tolist() == list(range(24))
    assert which == "of data/packed for test: neither was scored on frames that are here"
    assert remark(elsewhere, store, rows) != ""
    assert remark(bundle, store, rows) == "", "none of them was in its training set"


def test_of_an_ensemble_the_masks_out_of_fold_count_where_they_are_recorded(tmp_path: Path) -> None:
    store = write_store(tmp_path / "packed")
    table = predictions(store, 3)
    recorded = Side("A", "version 1", table, NETWORK, ensemble=True)
    older = Side("A", "version 1", table[["image"]], NETWORK, ensemble=True)
    rows, _ = common((recorded, Side("B", "b.parquet", predictions(store, 0).iloc[:6])), store, EVALUATE)
    found = list(masks(recorded, store, rows, "cpu"))
    assert [row for row, _ in found] == list(range(6))
    np.testing.assert_array_equal(found[0][1], nerve(0, 3))
    assert remark(recorded, store, rows) == ""
    assert "A is an ensemble, which has learned from every frame of its dataset" in remark(older, store, rows)
