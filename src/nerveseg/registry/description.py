"""The description of a version, as MLflow shows it where a person promotes: the gate's verdict first."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient

from nerveseg import mlflow_pages, paths
from nerveseg.evaluation import figures
from nerveseg.files import sha256
from nerveseg.modelcard import card
from nerveseg.modelcard.card import Card
from nerveseg.registry import gate, versions
from nerveseg.registry.gate import Verdict

_BESIDE = ("test.dice", "test.iou", "test.dice_by_subject", "test.worst_subject")


def text(client: MlflowClient, run_id: str, verdict: Verdict, record: Card) -> str:
    """The verdict, a link to the report, the champion's figures beside the model's, and the card, as Markdown.

    Args:
        run_id: has the report, or will have it.
        record: the card of the model.
    """
    page = mlflow_pages.artifact(client.get_run(run_id).info.experiment_id, run_id, paths.REPORT.as_posix())
    lines = [f"**Gate {verdict.headline}.** [Report]({page})", ""]
    if verdict.passed is False:
        lines += [*(f"- {one.detail}" for one in verdict.criteria if not one.passed), ""]
        lines += [f"It is delivered only if the tag `{gate.OVERRIDE}` says `NAME: REASON`.", ""]
    if verdict.set_aside:
        lines += [gate.set_aside_note(verdict.set_aside), ""]
    compared = next((one for one in verdict.criteria if one.name == gate.OVER_CHAMPION), None)
    if compared is not None:
        lines += [*_beside_champion(client, record), "", f"Compared by the gate: {compared.detail}.", ""]
    return "\n".join([*lines, card.description(record)])


def _beside_champion(client: MlflowClient, record: Card) -> list[str]:
    """A table of the figures on both cards, each as measured when its model was registered."""
    held = versions.holder(client, versions.CHAMPION)
    if held is None:  # the alias was removed just now
        return []
    version, run_id = held
    champion = _recorded_card(client, version, run_id)
    if champion is None:
        return [f"The card of the {versions.CHAMPION}, version {version}, is not the one that was recorded."]
    sides = (record, champion)
    return [
        f"| | this version | {versions.CHAMPION}, version {version} |",
        "|---|---|---|",
        *(f"| {figures.get(key).title} | {' | '.join(_figure(side, key) for side in sides)} |" for key in _BESIDE),
        f"| scored on | {' | '.join(_scored(side) for side in sides)} |",
    ]


def _recorded_card(client: MlflowClient, version: str, run_id: str) -> Card | None:
    """The card of a version; None if it is missing or has not the recorded hash."""
    name = paths.CARD_JSON.as_posix()
    recorded = client.get_model_version(versions.NAME, version).tags.get("sha256_card")
    if name not in (each.path for each in client.list_artifacts(run_id, paths.REPORTS.as_posix())):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(client.download_artifacts(run_id, name, folder))
        return card.read(path) if sha256(path) == recorded else None


def _figure(side: Card, key: str) -> str:
    one = side.figure(key)
    return figures.with_interval(one.value, one.interval, 3)


def _scored(side: Card) -> str:
    return f"{side.scored.frames} {side.scored.split} frames {side.scored.of_subjects}"
