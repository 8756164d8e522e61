"""report: figures, pictures and verdict as one page, and the headline on the terminal."""

from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, replacing_folder
from nerveseg.model.spec import read_spec
from nerveseg.params import Params
from nerveseg.report import figures, headline, parity, sections
from nerveseg.stages import main


def run(params: Params) -> None:
    """Draws `reports/figures`, writes the page `reports/index.html`, and adds all to the model's run.

    Frames that are too many for the page go into `reports/frames`.

    Raises:
        NervesegError: missing or damaged inputs, or a tracking server that failed.
    """
    store, scores = FrameStore.open(paths.PACKED), Scores.read(paths.PREDICTIONS)
    curve, metrics = pd.read_csv(paths.CURVE_CSV), Metrics.read(paths.METRICS_JSON)
    recorded, receipt = tracking.read_record(paths.MODELS), read_json(paths.REGISTRATION_JSON)
    record = recorded["params"]
    contradictions = pd.read_csv(paths.CONFLICTS_CSV, dtype={"subject": str, "other_subject": str})
    table = scores.by_rule(params.evaluate.empty).table
    with replacing_folder(paths.FIGURES) as folder:
        figures.draw(store, table, contradictions, curve, params.evaluate, folder)
    page = sections.render(receipt, params.evaluate, store, scores, paths.MODELS, paths.REPORTS)
    page.write(paths.REPORT)
    _print(metrics, record)
    if parity.applies(record):
        conditions = parity.conditions(record, recorded["dataset"]["uri"], store.index)
        _print_parity(record, curve, read_json(paths.TIMINGS_JSON), conditions)
    with tracking.reachable("reports/ is written: once the server answers, `dvc repro` reports again."):
        tracking.log_report(receipt["run_id"], paths.FIGURES, paths.REPORT, paths.REPORT_FRAMES)


def _print(metrics: Metrics, record: dict[str, Any]) -> None:
    test = metrics.test
    console.print(headline.table(metrics, f"{test.frames} {test.split} frames {test.of_subjects}"))
    chosen = record["model.threshold"] == "validation"
    if remark := headline.better_threshold(metrics, read_spec(paths.MODELS).threshold, chosen):
        console.print(remark, soft_wrap=True)


def _print_parity(record: dict[str, Any], curve: pd.DataFrame, timings: dict[str, float], conditions: str) -> None:
    """The training's figures beside the published run's, whose settings it had."""
    note = escape(f"{conditions} {parity.NOTE}")
    shown = Table(title=parity.TITLE, caption=note, title_justify="left", caption_justify="left")
    for number, column in enumerate(parity.COLUMNS):
        shown.add_column(column, justify="right" if number else "left")
    for row in parity.rows(record, curve, timings):
        shown.add_row(*row)
    console.print(shown)


if __name__ == "__main__":
    main(run)
