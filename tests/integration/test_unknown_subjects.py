"""A dataset of unknown subjects, with sites: what every place from the findings to the page says about it."""

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows import summary
from nerveseg import params, paths
from nerveseg.crossval.run import crossval
from nerveseg.errors import NervesegError
from nerveseg.stages import evaluate, register, report, split
from workspace import Workspace, entered

UNKNOWN = "by resampling frames, because the subjects are unknown"


@pytest.fixture(scope="module")
def workspace(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A trained workspace, the current folder, whose dataset then lost its subjects and gained sites. Four stages run
    in this process: only they show that what split finds out reaches metrics, card, verdict and page."""
    workspace = trained.copy(tmp_path_factory.mktemp("unknown") / "project")
    with entered(workspace):
        add_sites(workspace.root / paths.DATASET_ZIP)
        workspace.set(**{"data.subject": "none"})
        for stage in (split, evaluate, register, report):
            stage.run(params.load())
        yield workspace


def add_sites(path: Path) -> None:
    """Adds a column site to the table of a dataset zip: ulm for frames with an even number, unknown for others."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in members if name.endswith(".pq")]
    table = pd.read_parquet(io.BytesIO(members[name]))
    even = table["image"].str.extract(r"([0-9]+)\.", expand=False).astype(int) % 2 == 0
    members[name] = table.assign(site=even.map({True: "ulm", False: None})).to_parquet(index=False)
    path.unlink()  # DVC may have linked it
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def test_findings_metrics_card_verdict_and_page_say_that_subjects_are_unknown(workspace: Workspace) -> None:
    findings = content(paths.PACKED / "findings.json")
    assert findings["subjects_known"] is False
    assert "unknown subjects" in {each["kind"] for each in findings["findings"]}
    test = content(paths.METRICS_JSON)["test"]
    assert (test["subjects_known"], test["worst_subject"]) == (False, None)
    assert "The subjects of the frames are unknown" in content(paths.CARD_JSON)["limits"][0]
    assert UNKNOWN in paths.CARD.read_text()
    assert "subjects are unknown" in content(paths.REGISTRATION_JSON)["gate"]["note"]
    page = paths.REPORT.read_text()
    assert UNKNOWN in page
    assert f"{test['frames']} test frames of unknown subjects" in page
    assert "No scored subject has a frame in the training set" not in page


def test_sites_are_in_the_index_the_scores_and_the_page(workspace: Workspace) -> None:
    scored = pd.read_csv(paths.PER_IMAGE_CSV, keep_default_na=False)
    assert set(scored["site"]) == {"ulm", ""}
    by_site = scored.groupby("site")["dice"].agg(["size", "mean"])
    page = " ".join(re.sub("<[^>]+>", " ", paths.REPORT.read_text()).split())
    for site, name in (("ulm", "ulm"), ("", "unknown")):
        size, mean = by_site.loc[site]
        assert f"{name} {size:.0f} unknown {mean:.3f}" in page


def test_the_page_of_a_flow_says_it_too(workspace: Workspace) -> None:
    page = summary.markdown(workspace.root, {}, "registered version 1", time.time())
    assert "frames of unknown subjects" in page
    assert content(paths.REGISTRATION_JSON)["gate"]["note"] in page


def test_drift_counts_every_frame_of_a_batch(workspace: Workspace) -> None:
    assert content(paths.REFERENCE_JSON)["subject_rule"] == "none"


def test_a_split_by_frame_of_unknown_subjects_is_not_registered(workspace: Workspace) -> None:
    """No scored subject is in training, since each frame is its own; only the split tells that frames may leak."""
    workspace.set(**{"split.by": "frame"})
    with pytest.raises(NervesegError, match=r"Not registered: split\.by is frame and the subjects are unknown"):
        register.run(params.load())
    workspace.set(**{"split.by": "subject"})


def test_a_leakage_audit_needs_subjects(workspace: Workspace) -> None:
    with pytest.raises(NervesegError, match=r"data\.subject is none, but a leakage audit compares"):
        crossval(3, leakage=True, ensemble=False)
