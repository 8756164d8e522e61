"""register: the evaluated model becomes a version in the registry, or a receipt says why not."""

from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table
from ruamel.yaml import YAML

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data.packed import Packed
from nerveseg.errors import NervesegError
from nerveseg.evaluation import card, report
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, replacing, sha256, write_json
from nerveseg.params import Params, flatten
from nerveseg.registry import comparison, gate, versions
from nerveseg.registry.gate import Verdict
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    """Asks the gate and registers `models/`; writes `reports/registration.json` and, with its verdict, the report.

    On a tracking server that lacks the training's run, the run is made there first.

    Raises:
        NervesegError: missing inputs, scored subjects that were trained on, no lineage in dvc.lock, a champion that
            cannot be loaded, or a tracking server that failed.
    """
    metrics = read_json(paths.METRICS_JSON)
    if leaking := metrics["test"]["subjects_in_training"]:
        raise NervesegError(
            f"Not registered: {leaking} of {metrics['test']['subjects']} scored subjects were trained on, so that its "
            "figures are too good. A split by frame (split.by) serves the leakage audit only; set split.by: subject."
        )
    description = card.description(card.read(paths.CARD_JSON))
    packed, scores = Packed.open(paths.PACKED), Scores.read(paths.PREDICTIONS)
    lineage = _lineage()
    with tracking.reachable("Nothing is lost: once the server answers, `dvc repro` registers."):
        client = tracking.connect()
        record = tracking.ensure_run(paths.MODELS)
        verdict = _judge(record["model_id"], metrics, packed, lineage["dvc_split"], params)
        tracking.log_evaluation(
            record,
            flatten(metrics),
            paths.FIGURES,
            [
                *(paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.CONFLICTS_CSV, paths.CURVES, paths.METRICS_JSON),
                *(paths.CARD_JSON, paths.CARD, paths.METADATA_JSON, paths.REFERENCE_JSON, paths.SMOKE),
            ],
        )
        for path in (paths.DVC_LOCK, paths.PARAMS):
            client.log_artifact(record["run_id"], str(path), tracking.REPRODUCE)
        client.log_dict(record["run_id"], verdict.record, tracking.VERDICT)
        # The commit is that of the recorded dvc.lock; the training's own, which may be older, is on the run.
        tags = {**verdict.tags, **lineage, **_hashes()}
        for key in gate.outdated(client.get_run(record["run_id"]).data.tags, tags):
            client.delete_tag(record["run_id"], key)
        for key, value in tags.items():
            client.set_tag(record["run_id"], key, value)
        version = None
        if verdict.reasons:
            versions.withdraw(client, record["model_id"], tags)
        else:
            version = versions.register(
                client, record["run_id"], record["model_id"], tags | tracking.git_tags(), description
            )
        receipt = versions.receipt(record["run_id"], version, verdict.reasons, verdict.record)
        page = report.render(receipt, params.evaluate, packed, scores, paths.MODELS, paths.REPORT.parent)
        client.log_text(record["run_id"], page, str(paths.REPORT))
    with replacing(paths.REPORT) as beside:
        beside.write_text(page, encoding="utf-8")
    write_json(paths.REGISTRATION_JSON, receipt)
    _print(verdict)
    if version is None:
        console.print(f"[bold yellow]not registered[/]: {escape('; '.join(verdict.reasons))}", soft_wrap=True)
    else:
        console.print(f"[bold green]registered[/] {versions.NAME} version {version}, alias {versions.CHALLENGER}")


def _judge(model_id: str, metrics: dict[str, Any], packed: Packed, split: str, params: Params) -> Verdict:
    """The verdict on `models/`: what every model must reach, the logged scorer, the champion on the same frames."""
    register = params.registration
    if register.gate == "off":
        return Verdict("off")
    client = tracking.connect()
    candidate = comparison.Candidate.read(
        *(model_id, paths.MODELS, split),
        *(packed, pd.read_csv(paths.PER_IMAGE_CSV), params.evaluate),
    )
    beside, note = comparison.with_champion(client, candidate, params.evaluate, register, settings().device)
    criteria = [*gate.absolute(metrics, register), comparison.with_logged(client, candidate)]
    return Verdict(register.gate, (*criteria, beside) if beside else tuple(criteria), note)


def _print(verdict: Verdict) -> None:
    if verdict.mode == "off":
        console.print("The gate is off: no criterion was asked.")
        return
    shown = Table(
        title=f"gate, register.gate: {verdict.mode}",
        caption=verdict.note or None,
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("criterion", no_wrap=True)
    shown.add_column("")
    shown.add_column("value", justify="right")
    shown.add_column("threshold", no_wrap=True)
    shown.add_column("found")
    for one in verdict.criteria:
        result = "[green]passed[/]" if one.passed else "[bold red]FAILED[/]"
        shown.add_row(one.name, result, one.figure, f"{one.relation} {one.threshold:.4g}", escape(one.detail))
    console.print(shown)


def _lineage() -> dict[str, str]:
    """Tags that tie a version to its inputs: DVC's hashes of data, split and model, and the dataset's source."""
    try:
        stages = YAML(typ="safe", pure=True).load(paths.DVC_LOCK)["stages"]
        outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
        hashes = {
            "dvc_data": outs[str(paths.DATASET_ZIP)],
            "dvc_split": outs[str(paths.PACKED)],
            "dvc_model": outs[str(paths.MODELS)],
        }
    except (FileNotFoundError, KeyError, TypeError):
        raise NervesegError(
            "dvc.lock does not record data, split and model: run `dvc repro`, not the stage alone."
        ) from None
    source: dict[str, Any] = read_json(paths.SOURCE_JSON)
    return hashes | {f"dataset_{key}": str(value) for key, value in source.items() if value is not None}


def _hashes() -> dict[str, str]:
    """Tags by which `nerveseg verify` knows that a version's files are those that were evaluated."""
    return {f"sha256_{name}": sha256(path) for name, path in versions.FILES.items()}


if __name__ == "__main__":
    main(run)
