"""The page: its content, and that it needs no other files."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveseg.data.frame_store import FrameStore
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.params import load
from nerveseg.registry import versions
from nerveseg.registry.gate import Verdict
from nerveseg.report import browser, charts, overlays, page, parity
from nerveseg.report import sections as report
from nerveseg.report.page import Note, Pictures, Section, Table
from workspace import Workspace

LIMIT = 8 * 2**20


class Parsed(HTMLParser):
    """The text of a page, its tags, and every URL that it would load or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data", "action")
        ]
        self.addresses += [value or "" for name, value in attrs if value and "url(" in value and "url(#" not in value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def path_of(trained: Workspace, name: str) -> Any:
    return json.loads((trained.root / "reports" / name).read_text())


@pytest.fixture(scope="module")
def html(trained: Workspace) -> str:
    return (trained.root / "reports" / "index.html").read_text()


def test_the_page_contains_the_metrics(trained: Workspace, html: str) -> None:
    metrics, text = path_of(trained, "metrics.json"), Parsed(html).text
    test, baseline = metrics["test"], metrics["baseline"]
    for figures, name in ((test, "dice"), (test, "iou"), (test, "nsd"), (baseline["prior"], "dice")):
        low, high = figures[f"{name}_ci"]
        assert f"{figures[name]:.3f} ({low:.3f} to {high:.3f})" in text
    assert f"{test['frames']} test frames of {test['subjects']} subjects" in text
    for rule, means in metrics["by_empty_rule"].items():
        assert f"{rule} {means['dice']:.4f} {means['iou']:.4f}" in text
    for row in pd.read_csv(trained.root / "reports" / "per_subject.csv").itertuples():
        assert f"{row.subject} {row.frames} {row.dice:.3f} {row.dice_median:.3f} {row.dice_below_half:.0%}" in text
    spread = " ".join(f"{test[f'iou_{place}']:.3f}" for place in ("p05", "p25", "median", "p75", "p95"))
    low, high = test["iou_ci"]
    assert f"IoU {test['iou']:.3f} ({low:.3f} to {high:.3f}) {spread} {test['frames']}" in text
    low, high = test["pooled_dice_ci"]
    assert f"Dice, pooled over all pixels {test['pooled_dice']:.3f} ({low:.3f} to {high:.3f})" in text
    low, high = test["worst_subject_ci"]
    worst = f"Dice of the worst subject, {test['worst_subject_name']} {test['worst_subject']:.3f}"
    assert f"{worst} ({low:.3f} to {high:.3f}) lowest mean Dice of a subject" in text


def test_the_page_contains_the_verdict(trained: Workspace, html: str) -> None:
    receipt = path_of(trained, "registration.json")
    assert f"Registered as {versions.NAME} version {receipt['version']}." in Parsed(html).text


def test_every_panel_shows_its_frames(trained: Workspace, html: str) -> None:
    text = Parsed(html).text
    table = Scores.read(trained.root / "reports" / "predictions.parquet").table
    evaluate = load(trained.root / "params.yaml").evaluate
    chosen = overlays.choose(table, evaluate.overlays, evaluate.seed)
    for reason, rows in chosen.items():
        assert (overlays.TITLES[reason] in text) == bool(len(rows))
        assert all(f"{name} Dice" in text for name in table.loc[rows, "image"])
    assert Parsed(html).tags.count("image") == sum(map(len, chosen.values()))


def test_the_browser_has_every_scored_frame(trained: Workspace, html: str) -> None:
    scored = pd.read_csv(trained.root / "reports" / "per_image.csv")
    data = json.loads(re.search(r'id="frame-data">(.*?)</script>', html, re.DOTALL)[1])
    assert [each["name"] for each in data["frames"]] == scored["image"].tolist()
    dice = [field["key"] for field in data["fields"]].index("dice")
    assert [each["facts"][dice] for each in data["frames"]] == pytest.approx(scored["dice"].tolist())
    assert html.count('<script type="text/plain" id="frame-') == len(scored)
    assert [file.name for file in (trained.root / "reports" / "frames").iterdir()] == ["README.txt"]


def test_rows_of_tables_lead_to_their_frames(trained: Workspace, html: str) -> None:
    addresses = Parsed(html).addresses
    for subject in pd.read_csv(trained.root / "reports" / "per_subject.csv")["subject"]:
        assert browser.filter_link(subject=str(subject)) in addresses
    assert browser.filter_link(outcome="true positive") in addresses


def test_the_page_opens_offline(html: str) -> None:
    parsed = Parsed(html)
    assert len(html.encode()) < LIMIT
    assert not {"link", "iframe", "img", "object", "embed"} & set(parsed.tags)
    loaded = [address for address in parsed.addresses if not address.startswith(("#", "data:image/"))]
    assert loaded == []
    assert "@import" not in html
    assert "url(http" not in html


def test_names_are_escaped() -> None:
    name = "<script>alert('a')</script>&\"$x^"
    frame = np.zeros((40, 48), np.uint8)
    table = pd.DataFrame({"image": [name] * 3, "subject": name, "dice": [0.2, 0.5, 0.9]})
    frames = [browser.Scored(name, frame, frame, {"prediction": frame}, {"subject": name})]
    sections = [
        Section(name, name, [Table((name,), [(name,)], caption=name), Note(name)]),
        Section("", "", [Pictures(name, [page.picture(frame, frame, frame, name, name)])]),
        Section("", "", [page.Charts([charts.by_subject(table, name, name)])]),
        Section("", "", [browser.build(frames, [browser.Field("subject", name)])]),
    ]
    html = page.render(name, name, sections).html
    assert "<script>alert" not in html
    assert name in Parsed(html).words, "and is shown as it is"


def test_a_picture_is_small_and_its_outlines_have_the_frames_size() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (1500, 2000), np.uint8)
    mask = np.zeros_like(frame)
    mask[100:200, 1800:1900] = 1
    picture = page.picture(frame, mask, np.zeros_like(mask), "1_1.png", "")
    assert (picture.width, picture.height) == (2000, 1500)
    assert "1800.5,100.5" in picture.truth
    assert picture.prediction == ""
    assert len(picture.source) < 200_000
    assert picture.source.startswith("data:image/avif;base64,")


def test_the_largest_report_stays_within_its_limit(trained: Workspace) -> None:
    """All panels at their maximum, with frames of noise of 580x420 pixels."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (420, 580), np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 1.5)
    picture = page.picture(frame, None, None, "1_1.png", "")
    assert (6 * 24 + 8) * len(picture.source) < LIMIT


def test_a_refusal_says_why_and_which_criterion_failed() -> None:
    criteria = [
        {
            "name": "dice_lower_bound",
            "value": 0.51,
            "relation": ">=",
            "threshold": 0.6,
            "passed": False,
            "detail": "is <below> 0.6",
        },
        {
            "name": "worst_subject",
            "value": None,
            "relation": ">=",
            "threshold": 0.2,
            "passed": False,
            "detail": "undefined",
        },
        {"name": "scorer", "value": 0.0, "relation": "<=", "threshold": 1e-4, "passed": True, "detail": "within"},
    ]
    receipt = {
        "registered": False,
        "name": "n",
        "version": None,
        "run_id": "r",
        "reasons": ["is <below> 0.6"],
        "gate": {"mode": "enforce", "passed": False, "criteria": criteria, "note": "No version is champion."},
    }
    text = Parsed(page.render("", "", [report.verdict(receipt)]).html).text
    assert "Not registered: is <below> 0.6." in text
    assert "No version is champion." in text
    assert "dice_lower_bound 0.5100 >= 0.6000 failed" in text
    assert "worst_subject undefined >= 0.2000 failed" in text
    assert "scorer 0.0000 <= 0.0001 passed" in text


def test_subjects_on_both_sides_are_reported(trained: Workspace) -> None:
    store = FrameStore.open(trained.root / "data" / "packed")
    findings = store.findings()

    def text(index: pd.DataFrame) -> str:
        return Parsed(page.render("", "", [report.dataset(index, findings, "test")]).html).text

    assert "No scored subject has a frame in the training set." in text(store.index)
    mixed = store.index.assign(subject="1")
    assert "1 of the scored subjects have frames in the training set too" in text(mixed)


def test_parity_is_shown_only_under_the_profile(trained: Workspace, html: str, tmp_path: Path) -> None:
    assert parity.TITLE not in html
    root, models = trained.root, tmp_path / "models"
    shutil.copytree(root / "models", models)
    record = json.loads((models / "run.json").read_text())
    record["params"] |= {**parity.SETTINGS, "model.encoder_weights": "weights/resnet34.pth"}
    (models / "run.json").write_text(json.dumps(record))
    text = Parsed(
        report.render(
            path_of(trained, "registration.json"),
            load(root / "params.yaml").evaluate,
            FrameStore.open(root / "data" / "packed"),
            Scores.read(root / "reports" / "predictions.parquet"),
            models,
            root / "reports",
        ).html
    ).text
    assert "The encoder weights are from weights/resnet34.pth" in text
    assert "The data is not the published one: it is from data/phantom.zip" in text
    assert "The split is not the published one" in text
    ours = pd.read_csv(models / "curve.csv")["validation_iou"][4]
    assert f"validation IoU, epoch 5 {ours:.4f} 0.6321 {ours - 0.6321:+.4f}" in text


def test_a_cross_validation_has_a_page_too(trained: Workspace) -> None:
    root = trained.root
    metrics = path_of(trained, "metrics.json") | {"folds": 3}
    estimate = {"dice": 0.0312, "dice_ci": [0.0101, 0.0523], "iou": 0.04, "iou_ci": [0.02, 0.06]}
    parts = {part: {"dice": 0.7, "dice_ci": None, "iou": 0.6, "iou_ci": None} for part in ("by_subject", "by_frame")}
    folds = pd.DataFrame(
        {
            "by": ["subject", "frame"],
            "fold": [0, 2],
            "frames": [40, 41],
            "subjects": [3, 8],
            "dice": [0.71, 0.74],
            "iou": [0.61, 0.64],
            "validation_dice": [0.8, 0.9],
            "run_id": ["a" * 32, "b" * 32],
        }
    )

    def text(metrics: dict[str, Any], receipt: dict[str, Any] | None = None) -> str:
        return Parsed(
            report.render_crossval(
                Metrics.model_validate(metrics),
                load(root / "params.yaml"),
                FrameStore.open(root / "data" / "packed"),
                Scores.read(root / "reports" / "predictions.parquet"),
                pd.read_csv(root / "reports" / "curves" / "thresholds.csv"),
                folds,
                pd.read_csv(root / "reports" / "conflicts.csv"),
                receipt,
            ).html
        ).text

    audited = text(metrics | {"leakage": {**parts, "optimism": estimate}})
    assert "Optimism in Dice 0.0312 (0.0101 to 0.0523)" in audited
    assert f"3 by frame 41 8 0.740 0.640 0.900 {'b' * 32}" in audited
    assert "Verdict" not in audited
    receipt = {"registered": True, "name": versions.NAME, "version": "4", "reasons": [], "run_id": "c" * 32}
    judged = text(metrics, {**receipt, "experiment_id": "1", "gate": Verdict("off").record})
    assert "Optimism" not in judged
    assert f"Registered as {versions.NAME} version 4." in judged
    assert f"MLflow run {'c' * 32}" in judged


def test_unknown_subjects_are_stated_instead_of_a_clean_split(trained: Workspace) -> None:
    store = FrameStore.open(trained.root / "data" / "packed")
    scored = Scores.read(trained.root / "reports" / "predictions.parquet")
    metrics = path_of(trained, "metrics.json")
    metrics["test"] |= {"subjects_known": False, "worst_subject_name": None}
    evaluate, unknown = load(trained.root / "params.yaml").evaluate, Metrics.model_validate(metrics)
    findings = store.findings() | {"subjects_known": False, "subjects_read": "Subjects are unknown (data.subject)."}
    sections = [
        report.summary(unknown, evaluate, ""),
        report.dataset(store.index, findings, "test"),
        report.subjects(scored.table, unknown),
        *report.groups(scored, unknown, evaluate),
    ]
    text = Parsed(page.render("", "", sections).html).text
    assert f"{unknown.test.frames} test frames of unknown subjects" in text
    assert "by resampling frames, because the subjects are unknown: too narrow" in text
    assert "whether a scored person is in the training set cannot be told" in text
    assert "Subjects are unknown (data.subject)." in text
    assert "No scored subject has a frame in the training set" not in text
    assert "Each dot is a frame, each bar the mean of a subject" not in text
    assert [each.title for each in sections] == ["Summary", "Data", "Distribution"]


def test_sites_have_a_table_with_intervals_by_resampling_their_subjects(trained: Workspace) -> None:
    scored = Scores.read(trained.root / "reports" / "predictions.parquet")
    metrics = Metrics.model_validate(path_of(trained, "metrics.json"))
    evaluate = load(trained.root / "params.yaml").evaluate
    assert [each.title for each in report.groups(scored, metrics, evaluate)] == ["Subjects"]
    alone = scored.table["subject"] == scored.table["subject"].iloc[0]
    sited = Scores(scored.table.assign(site=np.where(alone, "", "ulm")), scored.histograms)
    _, sites = report.groups(sited, metrics, evaluate)
    text = Parsed(page.render("", "", [sites]).html).text
    dice = sited.table.groupby("site")["dice"].mean()
    assert f"unknown {alone.sum()} 1 {dice['']:.3f}" in text
    subjects = scored.table.loc[~alone, "subject"].nunique()
    assert f"ulm {(~alone).sum()} {subjects} {dice['ulm']:.3f}" in text
