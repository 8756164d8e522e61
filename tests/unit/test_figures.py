"""The registry of figures: a new one shows up everywhere, and metrics.json holds what is registered."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_card import SPEC, STATED
from test_provenance import ORIGINS
from test_scores import FRAMES, of_scores, scored

from nerveseg import legacy
from nerveseg.errors import NervesegError
from nerveseg.evaluation import figures, scores
from nerveseg.evaluation.figures import Figure
from nerveseg.evaluation.results import Metrics
from nerveseg.modelcard import card
from nerveseg.params import load
from nerveseg.report import headline, page
from nerveseg.report import sections as report

PARAMS = load(Path(__file__).parents[2] / "params.yaml").evaluate
SPLITS = pd.DataFrame({"frames": 8, "subjects": 3, "with_mask": 6, "distinct": 8}, index=["test", "train"])
EVERYWHERE = frozenset(("terminal", "card", "report", "flow"))
EXCESS = Figure(
    "test.excess",
    "Excess area",
    "predicted minus true area",
    "lower",
    unit="px",
    digits=1,
    shown=EVERYWHERE,
    of=lambda frame: float(frame.mask.sum()) - float(frame.truth.sum()),
)
LARGEST = Figure(
    "test.largest",
    "Largest mask",
    "area of the largest predicted mask",
    digits=0,
    interval=False,
    shown=EVERYWHERE,
    over=lambda sample: float(sample.column("predicted_area").max()),
)


def measured(**changes: Any) -> Metrics:
    return Metrics.model_validate(of_scores(scored(FRAMES), **changes))


def test_a_new_figure_of_frames_shows_up_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", (*figures.FIGURES, EXCESS, LARGEST))
    excess = [float(mask.sum()) - float(truth.sum()) for _, truth, mask in FRAMES]
    mean = np.mean(excess)
    found = scored(FRAMES)
    assert scores.per_image(found.table)["excess"].tolist() == excess
    by_subject = scores.per_subject(found.table).set_index("subject")
    assert by_subject.loc["2", "excess"] == pytest.approx(np.mean(excess[3:7]))
    assert by_subject.loc["2", "excess_median"] == pytest.approx(np.median(excess[3:7]))

    metrics = measured()
    test = metrics.record["test"]
    low, high = test["excess_ci"]
    assert test["excess"] == pytest.approx(mean)
    assert low < mean < high
    assert test["excess_p25"] == pytest.approx(np.percentile(excess, 25))
    assert test["largest"] == 600
    assert "largest_ci" not in test

    names, values, intervals = ([str(cell) for cell in column.cells] for column in headline.table(metrics, "").columns)
    row = names.index("Excess area, px, mean over frames")
    assert (values[row], intervals[row]) == (f"{mean:.4f}", f"{low:.4f} to {high:.4f}")
    assert "Largest mask" in names

    sections = [report.summary(metrics, PARAMS, ""), report.subjects(found.table, metrics)]
    html = page.render("", "", [*sections, report.subject_table(found.table, metrics)]).html
    assert "predicted minus true area; lower is better" in html
    assert html.count("Excess area, px") == 3, "in the summary, the distribution and the table of subjects"
    for shown in (f"({low:.1f} to {high:.1f})", f"{by_subject.loc['2', 'excess']:.1f}", "area of the largest"):
        assert shown in html

    record = card.record(SPEC, SPLITS, 0, metrics, "nerves.zip", ORIGINS, STATED, "")
    assert record.figure("test.excess").value == pytest.approx(mean)
    assert f"| Excess area, px, mean over frames | {mean:.4f} | {low:.4f} to {high:.4f} |" in card.markdown(record)
    assert "| Largest mask | 600.0000 |  |" in card.markdown(record)
    assert card.bundle_metadata(record)["eval_metrics"]["test.largest"] == 600


def test_what_metrics_json_holds_is_registered_and_what_is_registered_is_there() -> None:
    metrics = measured()
    spread = {f"{figure.key}_{place}" for figure in figures.of_frames(False) for place in figures.SPREAD}
    registered = {figure.key for figure in figures.FIGURES if (figure.of or figure.over) and not figure.in_mm}
    sections = {
        "test": metrics.test,
        "test.presence": metrics.test.presence,
        **{f"baseline.{name}": section for name, section in metrics.baseline.items()},
    }
    there = {f"{section}.{key}" for section, content in sections.items() for key in content.__pydantic_extra__}
    intervals = {f"{figure.key}_ci" for figure in figures.FIGURES if figure.interval and figure.key in registered}
    assert there == registered | spread | intervals
    assert len({figure.key for figure in figures.FIGURES}) == len(figures.FIGURES)


def test_the_summary_leads_to_the_frames_that_were_set_aside() -> None:
    html = page.render("", "", [report.summary(measured(), PARAMS, "1 of 30")]).html
    assert "Frames set aside because of errors: 1 of 30." in html
    assert '<a href="#set-aside">Which ones, and why</a>' in html
    assert "set aside" not in page.render("", "", [report.summary(measured(), PARAMS, "")]).html


def test_metrics_survive_their_file(tmp_path: Path) -> None:
    metrics = measured(min_frames=5)
    path = tmp_path / "metrics.json"
    metrics.write(path)
    assert Metrics.read(path) == metrics
    content = json.loads(path.read_text())
    assert content["test"]["worst_subject"] is None
    assert isinstance(content["test"]["frames"], int)
    assert "folds" not in content
    assert "subjects_in_training" not in content["test"]


def test_files_of_older_versions_are_read_by_their_former_names(tmp_path: Path) -> None:
    metrics = measured()
    former = {today: name for name, today in legacy.TODAY.items()}
    content = json.loads(json.dumps(metrics.record))
    old = {former.get(key, key): value for key, value in content["test"].items()}
    assert old.keys() != content["test"].keys()
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(content | {"test": old}))
    assert Metrics.read(path) == metrics
    del old["brier"], old["brier_ci"], old["without_outline"], content["by_empty_rule"]
    del old["presence"]["missed"], old["dice_by_ranked_subject"], old["dice_by_ranked_subject_ci"]
    path.write_text(json.dumps(content | {"test": old}))
    found = Metrics.read(path)
    assert (found.measured("test.brier").value, found.measured("test.brier").interval) == (None, None)
    assert found.measured("test.presence.missed").value is None
    shown = [str(cell) for cell in headline.table(found, "").columns[0].cells]
    assert "Dice, mean over subjects with enough frames, 2 of 3 subjects" in shown
    assert found.measured("test.selective_gain") == metrics.measured("test.selective_gain")
    assert found.measured("ceiling.dice").value is None

    record = card.record(SPEC, SPLITS, 0, metrics, "nerves.zip", ORIGINS, STATED, "")
    text = record.model_dump_json().replace("test.selective_gain", f"test.{former['selective_gain']}")
    (tmp_path / "card.json").write_text(text)
    assert card.read(tmp_path / "card.json") == record


@pytest.mark.parametrize(("content", "wrong"), [("{}", "test, validation"), ('{"test": 1}', "test")])
def test_what_holds_no_metrics_is_a_clear_error(tmp_path: Path, content: str, wrong: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(NervesegError, match=rf"metrics\.json holds no metrics \({wrong}"):
        Metrics.read(path)


def test_numbers_are_shown_with_their_interval_or_as_undefined() -> None:
    assert figures.with_interval(0.77, (0.7, 0.8), 2) == "0.77 (0.70 to 0.80)"
    assert figures.with_interval(0.77, None) == "0.7700"
    assert figures.number(float("nan")) == figures.number(None) == "undefined"
    assert replace(EXCESS, unit="").title == "Excess area, mean over frames"
