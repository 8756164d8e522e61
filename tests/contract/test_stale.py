"""What each kind of edit makes stale, as DVC finds it. `pytest -s tests/contract/test_stale.py` prints the table."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import networkx
import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from rich.console import Console
from rich.table import Table

from workspace import Workspace

REPORT = ["report"]
REGISTER = ["register", *REPORT]
EVALUATE = ["evaluate", *REGISTER]
CALIBRATE = ["calibrate", *EVALUATE]
TRAIN = ["train", *CALIBRATE]
CHECK = ["check"]  # of every parameter, in tenths of a second
# What is edited: a file below src/nerveseg, or a parameter and its new value; and the stages that run again.
EDITS: dict[str, tuple[str | tuple[str, object], list[str]]] = {
    "stylesheet": ("report/page.css", REPORT),
    "report wording": ("report/sections.py", REPORT),
    "a chart": ("report/charts.py", REPORT),
    "a panel of a training": ("report/panels.py", REPORT),
    "outlines": ("model/shape.py", CALIBRATE),
    "card wording": ("modelcard/card.py", REGISTER),
    "the owner on the card": (("card.owner", "a hospital"), [*CHECK, *REGISTER]),
    "a criterion of the gate": ("registry/gate.py", REGISTER),
    "a metric": ("evaluation/surface.py", EVALUATE),
    "threshold": (("model.threshold", 0.4), [*CHECK, *CALIBRATE]),
    "threshold, chosen": (("model.threshold", "validation"), [*CHECK, *CALIBRATE]),
    "flips": (("model.flips", True), [*CHECK, *CALIBRATE]),
    "how a threshold is chosen": ("evaluation/calibration.py", CALIBRATE),
    "plausibility of masks": ("model/plausibility.py", CALIBRATE),
    "Dice, which the curve shows": ("evaluation/metrics.py", TRAIN),
    "augmentation": ("data/augment.py", [*CHECK, *TRAIN]),
    "how losses are computed": ("model/losses.py", TRAIN),
    "the loss": (("train.loss", "lovasz"), [*CHECK, *TRAIN]),
    "a recipe": ("training/recipes.py", [*CHECK, *TRAIN]),
    "how subjects are read": (("data.subject", "none"), [*CHECK, "split", *TRAIN]),
    "what a parameter may be": ("params.py", CHECK),
    "where a model is delivered": (("delivery.uri", "s3://bucket/delivery"), CHECK),
    "a console message": ("console.py", []),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that DVC finds up to date: its outputs are stand-ins, recorded without running a stage."""
    workspace = Workspace(tmp_path_factory.mktemp("stale") / "project")
    with chdir(workspace.root), Repo() as repo:
        for stage in repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(path.name)
        repo.commit(force=True)
    return workspace


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[Table]:
    """What was found, printed in the end."""
    table = Table("edit", "of", "stages that run again", title="What an edit makes stale")
    yield table
    Console(width=110).print("\n", table)


def stale(workspace: Workspace) -> list[str]:
    """The stages that `dvc status` finds changed, and those that depend on them, in the order they would run.

    The output of check is always the same, so that no stage runs again because check does.
    """
    with chdir(workspace.root), Repo() as repo:
        changed = set(repo.status())
        graph = repo.index.graph  # from a stage to those it depends on
        stages = [stage for stage in networkx.dfs_postorder_nodes(graph) if isinstance(stage, PipelineStage)]
        return [
            stage.name
            for stage in stages
            if stage.name in changed
            or (changed - {*CHECK}) & {other.name for other in networkx.descendants(graph, stage)}
        ]


def test_nothing_is_stale_without_an_edit(workspace: Workspace) -> None:
    assert stale(workspace) == []


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_reruns_what_depends_on_it_alone(workspace: Workspace, table: Table, edit: str) -> None:
    what, expected = EDITS[edit]
    path = workspace.root / ("src/nerveseg/" + what if isinstance(what, str) else "params.yaml")
    former = path.read_text()
    if isinstance(what, str):
        path.write_text(former + "\n")
    else:
        workspace.set(**{what[0]: what[1]})
    try:
        found = stale(workspace)
    finally:
        path.write_text(former)
    table.add_row(edit, what if isinstance(what, str) else f"{what[0]}: {what[1]}", ", ".join(found) or "none")
    assert found == expected
