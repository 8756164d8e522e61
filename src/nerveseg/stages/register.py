"""register: the evaluated model becomes a version in the registry, or a receipt says why not."""

from typing import Any

from ruamel.yaml import YAML

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data.packed import Packed
from nerveseg.errors import NervesegError
from nerveseg.evaluation import report
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, replacing, sha256, write_json
from nerveseg.params import Params, flatten
from nerveseg.registry import gate, versions
from nerveseg.stages import main


def run(params: Params) -> None:
    """Asks the gate and registers `models/`; writes `reports/registration.json` and, with its verdict, the report.

    On a tracking server that lacks the training's run, the run is made there first.

    Raises:
        NervesegError: missing inputs, no lineage in dvc.lock, or a tracking server that failed.
    """
    metrics = read_json(paths.METRICS_JSON)
    packed, scores = Packed.open(paths.PACKED), Scores.read(paths.PREDICTIONS)
    lineage = _lineage()
    reasons = gate.reasons_against(metrics, params.registration)
    with tracking.reachable("Nothing is lost: once the server answers, `dvc repro` registers."):
        client = tracking.connect()
        record = tracking.ensure_run(paths.MODELS)
        tracking.log_evaluation(
            record,
            flatten(metrics),
            paths.FIGURES,
            [
                *(paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.CONFLICTS_CSV, paths.CURVES, paths.METRICS_JSON),
                *(paths.CARD, paths.REFERENCE_JSON, paths.SMOKE),
            ],
        )
        for path in (paths.DVC_LOCK, paths.PARAMS):
            client.log_artifact(record["run_id"], str(path), tracking.REPRODUCE)
        verdict = f"refused: {'; '.join(reasons)}" if reasons else "passed"
        # The commit is that of the recorded dvc.lock; the training's own, which may be older, is on the run.
        tags = {"gate": verdict, **lineage, **_hashes()}
        for key, value in tags.items():
            client.set_tag(record["run_id"], key, value)
        version = None
        if reasons:
            versions.withdraw(client, record["model_id"], tags)
        else:
            version = versions.register(
                client, record["run_id"], record["model_id"], tags | tracking.git_tags(), _description(metrics)
            )
        receipt = versions.receipt(record["run_id"], version, reasons)
        page = report.render(receipt, params.evaluate, packed, scores, paths.MODELS, paths.REPORT.parent)
        client.log_text(record["run_id"], page, str(paths.REPORT))
    with replacing(paths.REPORT) as beside:
        beside.write_text(page, encoding="utf-8")
    write_json(paths.REGISTRATION_JSON, receipt)
    if reasons:
        console.print(f"[bold yellow]not registered[/]: {'; '.join(reasons)}", soft_wrap=True)
    else:
        console.print(f"[bold green]registered[/] {versions.NAME} version {version}, alias {versions.CHALLENGER}")


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
    files = {
        "weights": paths.MODELS / "model.safetensors",
        "spec": paths.MODELS / "model.json",
        "reference": paths.REFERENCE_JSON,
        "smoke": paths.SMOKE,
        "card": paths.CARD,
    }
    return {f"sha256_{name}": sha256(path) for name, path in files.items()}


def _description(metrics: dict[str, Any]) -> str:
    test = metrics["test"]
    dice, iou = (f"{test[name]:.3f}{_interval(test[f'{name}_ci'])}" for name in ("dice", "iou"))
    return f"Dice {dice}, IoU {iou} on {test['frames']} {test['split']} frames of {test['subjects']} subjects."


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f" ({bounds[0]:.3f} to {bounds[1]:.3f})"


if __name__ == "__main__":
    main(run)
