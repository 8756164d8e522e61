"""Figures in mm: where they stand if pixel spacings are known, and that nothing changes where none is."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_card import SPEC, STATED
from test_figures import SPLITS
from test_provenance import ORIGINS
from test_scores import FRAMES, of_scores, params, scored

from nerveseg.evaluation import figures, scores
from nerveseg.evaluation.paired import Pair
from nerveseg.evaluation.results import Metrics
from nerveseg.modelcard import card
from nerveseg.report import headline, page
from nerveseg.report import sections as report
from paired_masks import EVALUATE, predictions, write_store

UNKNOWN = (float("nan"), float("nan"))
HEIGHT_MM, WIDTH_MM = 0.1, 0.2
# Known but for the second frame of subject 1 and the last of subject 2; FRAMES says what lies where.
SPACINGS = [(HEIGHT_MM, WIDTH_MM)] * len(FRAMES)
SPACINGS[1] = SPACINGS[6] = UNKNOWN
COLUMNS = {"nsd_mm", "hd95_mm", "centroid_error_mm", "true_area_mm2", "predicted_area_mm2"}


def test_each_frame_with_a_spacing_has_its_figures_in_mm() -> None:
    table = scores.per_image(scored(FRAMES, spacings=SPACINGS).table)
    assert table.loc[[1, 6], [*COLUMNS]].isna().all(axis=None)
    assert table["true_area_mm2"].dropna().tolist() == pytest.approx([12, 12, 0, 0, 12, 12])
    assert table["predicted_area_mm2"].dropna().tolist() == pytest.approx([12, 0, 0, 0.5, 12, 0])
    lower = table.loc[5]  # by 5 rows
    assert (lower["centroid_error_mm"], lower["hd95_mm"], lower["hd95"]) == pytest.approx((0.5, 0.5, 5))
    assert (lower["nsd_mm"], lower["nsd"] < 1) == (1, True), "1 mm is 10 rows"
    assert table["nsd_mm"].fillna(-1).tolist() == [1, -1, 0, -1, 0, 1, -1, 0], "as in pixels, 0 if one mask is empty"


def test_subjects_and_the_means_count_only_frames_with_a_spacing() -> None:
    found = scored(FRAMES, spacings=SPACINGS)
    by_subject = scores.per_subject(found.table).set_index("subject")
    assert by_subject["with_spacing"].to_dict() == {"1": 2, "2": 3, "3": 1}
    assert by_subject.loc["2", "centroid_error_mm"] == pytest.approx(0.5)
    assert by_subject.loc["2", "predicted_area_mm2_median"] == pytest.approx(0.5)
    test = of_scores(found)["test"]
    assert (test["frames"], test["with_spacing"]) == (8, 6)
    assert test["centroid_error_mm"] == pytest.approx((0 + 0.5) / 2)
    assert test["nsd_mm"] == pytest.approx(2 / 5)
    assert test["true_area_mm2_p95"] == pytest.approx(12)
    low, high = test["hd95_mm_ci"]
    assert low <= test["hd95_mm"] <= high


def test_all_that_shows_figures_shows_those_in_mm_and_how_many_frames_have_a_spacing(tmp_path: Path) -> None:
    found = scored(FRAMES, spacings=SPACINGS)
    path = tmp_path / "metrics.json"
    Metrics.model_validate(of_scores(found)).write(path)
    metrics = Metrics.read(path)
    known = "pixel spacing known on 6 of 8"
    record = card.record(SPEC, SPLITS, 0, metrics, "nerves.zip", ORIGINS, STATED, "")
    names = [str(cell) for cell in headline.table(metrics, "").columns[0].cells]
    for figure in ("HD95, mm", "NSD, tolerance in mm", "Centroid error, mm", "True area, mm²", "Predicted area, mm²"):
        assert f"{figure}, mean over frames, {known}" in names
        assert f"| {figure}, mean over frames, {known} |" in card.markdown(record)
    sections = [report.summary(metrics, params(), ""), report.subjects(found.table, metrics)]
    html = page.render("", "", [*sections, report.subject_table(found.table, metrics)]).html
    assert "a tolerance of 3 pixels, or of 1 mm. The pixel spacing of 6 of the 8 frames is known" in html
    assert html.count("HD95, mm") == 3, "in the summary, the distribution and the table of subjects"


def test_without_any_spacing_nothing_changes(tmp_path: Path) -> None:
    found = scored(FRAMES)
    metrics = Metrics.model_validate(of_scores(found))
    record = card.record(SPEC, SPLITS, 0, metrics, "nerves.zip", ORIGINS, STATED, "")
    html = page.render("", "", [report.summary(metrics, params(), ""), report.subjects(found.table, metrics)]).html
    tables = (found.table, scores.per_image(found.table), scores.per_subject(found.table))
    columns = [name for table in tables for name in table.columns]
    assert [name for name in columns if "mm" in name or "spacing" in name] == []
    for text in (json.dumps(metrics.record), card.markdown(record), record.model_dump_json(), html):
        assert not any(term in text for term in ("mm²", "_mm", "in mm", "with_spacing", "pixel spacing"))
    assert metrics.shown("terminal") == figures.shown("terminal", spaced=False)


@pytest.mark.parametrize("spaced", [False, True])
def test_two_models_are_compared_in_mm_where_spacings_are_known(tmp_path: Path, spaced: bool) -> None:
    store = write_store(tmp_path / "packed", spacings={0: (0.1, 0.25), 1: (0.1, 0.5)} if spaced else {})
    pair = Pair.of(store, ("A", "B"), predictions(store, 2), predictions(store, 4), EVALUATE)
    compared = {each.figure.column: each for each in pair.differences}
    assert set(compared) & COLUMNS == ({"nsd_mm", "hd95_mm", "centroid_error_mm"} if spaced else set())
    if spaced:
        centroid = compared["centroid_error_mm"]
        assert centroid.frames == (2, 2)
        assert (centroid.first, centroid.second) == pytest.approx((np.mean([0.5, 1]), np.mean([1, 2])))
        assert compared["centroid_error"].frames == (24, 24)
