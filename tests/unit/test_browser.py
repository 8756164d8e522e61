"""The frame browser's data, and which frames the panels beside it show."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nerveseg.report import browser, overlays, page
from nerveseg.report.browser import Field, Scored

FIELDS = [Field("subject", "Subject"), Field("dice", "Dice", 3)]


def scored(number: int, dice: float | None = 0.5, label: str = "prediction") -> Scored:
    frame = np.full((30, 40), 10 * number, np.uint8)
    mask = np.zeros_like(frame)
    mask[5:15, 10:20] = 1
    return Scored(f"{number}.png", frame, mask, {label: mask[::-1].copy()}, {"subject": None, "dice": dice})


def test_frames_that_are_too_many_lie_beside_the_page(tmp_path: Path) -> None:
    found = browser.build([scored(number) for number in range(3)], FIELDS, limit=100)
    rendered = page.render("", "", [page.Section("", "", [found])])
    assert 'id="frame-0"' not in rendered.html
    rendered.write(tmp_path / "index.html")
    assert sorted(file.name for file in (tmp_path / "frames").glob("*.avif")) == ["0.avif", "1.avif", "2.avif"]
    page.render("", "", []).write(tmp_path / "index.html")
    assert not list((tmp_path / "frames").glob("*.avif")), "none is left of an earlier page"


def test_undefined_and_unknown_facts_stay_valid_json() -> None:
    found = browser.build([scored(1, float("nan")), scored(2, None), scored(3, 0.25)], FIELDS)
    assert [frame["facts"] for frame in found.data["frames"]] == [["", None], ["", None], ["", 0.25]]


def test_frames_with_different_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="champion"):
        browser.build([scored(1), scored(2, label="champion")], FIELDS)


def table(**columns: list[object]) -> pd.DataFrame:
    count = len(columns["dice"])
    return pd.DataFrame({"true_area": 9, "predicted_area": 9, "atypicality": 0.0, "cluster": range(count)} | columns)


def test_a_panel_takes_one_frame_of_a_subject_and_of_near_duplicates_first() -> None:
    """Sorted by Dice alone, all of the best four would be of subject a."""
    frames = table(
        subject=["a", "a", "a", "a", "b", "c", "d"],
        cluster=[0, 0, 1, 2, 3, 1, 4],
        dice=[0.9, 0.89, 0.88, 0.87, 0.5, 0.4, 0.3],
    )
    best = overlays.choose(frames, 5, seed=0)["best"]
    assert frames.loc[best, "dice"].tolist() == [0.9, 0.5, 0.4, 0.3, 0.87]


def test_frames_without_a_nerve_are_neither_best_nor_worst_and_errors_of_presence_have_panels() -> None:
    frames = table(
        subject=list("abcdef"),
        dice=[1.0, 0.0, 0.0, 0.0, 0.7, 0.3],
        true_area=[0, 0, 0, 50, 90, 80],
        predicted_area=[0, 10, 20, 0, 70, 60],
    )
    chosen = {reason: rows.tolist() for reason, rows in overlays.choose(frames, 6, seed=0).items()}
    assert chosen["best"] == [4, 5, 3]
    assert chosen["worst"] == [3, 5, 4]
    assert chosen["false_positives"] == [2, 1]
    assert chosen["false_negatives"] == [3]
