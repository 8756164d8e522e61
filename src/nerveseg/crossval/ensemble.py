"""Registers the networks of a cross-validation as one model, a version of `nerve-segmentation`.

An ensemble has seen every frame, so its metrics are the out-of-fold metrics of its members.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from nerveseg import logged_code, package, paths, tracking
from nerveseg.console import console
from nerveseg.data.frame_store import FrameStore, counts
from nerveseg.dvc_lock import read_lock
from nerveseg.evaluation import paired
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, write_json
from nerveseg.model.ensemble import join
from nerveseg.model.spec import read_spec
from nerveseg.modelcard import card, provenance, smoke
from nerveseg.modelcard.card import Card
from nerveseg.params import Params, flatten
from nerveseg.registry import comparison, description, verification, versions
from nerveseg.registry.comparison import Candidate
from nerveseg.report.page import Page
from nerveseg.settings import settings

_OUT_OF_FOLD = "out-of-fold"  # instead of `test`: the frames that were scored


@dataclass(frozen=True)
class Member:
    """The network of one fold and its records.

    Attributes:
        folder: contains models/, params.yaml and dvc.lock.
        run_id: its training, on this tracking server.
        split: `FrameStore.digest` of its frames.
    """

    folder: Path
    run_id: str
    split: str

    @classmethod
    def keep(cls, root: Path, folder: Path, run_id: str) -> Self:
        """Copies it from `root`, where the fold has just run, into `folder`, which must not exist."""
        shutil.copytree(root / paths.MODELS, folder / paths.MODELS)
        for path in (paths.PARAMS, paths.DVC_LOCK):
            shutil.copy(root / path, folder / path)
        return cls(folder, run_id, FrameStore.open(root / paths.PACKED).digest())


def register(
    members: Sequence[Member], root: Path, params: Params, render: Callable[[Mapping[str, Any], pd.DataFrame], Page]
) -> None:
    """Combines the members into one model and registers it, once, if the gate accepts the metrics in `crossval/`.

    The outcome is in `crossval/registration.json` and on the page, which is also logged to the ensemble's run.

    Args:
        members: one per fold, in order.
        root: a workspace in which one of the folds ran: all folds have the same frames.
        render: makes the page from the content of `crossval/registration.json` and of `champion.parquet`.

    Raises:
        NervesegError: the members are of different kinds, the champion cannot be loaded, or the tracking server failed.
    """
    console.rule(f"ensemble of {len(members)} networks", align="left")
    store = FrameStore.open(root / paths.PACKED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = _copy_figures(folder)
        _build(members, store, folder)
        source, trainings = read_json(root / paths.SOURCE_JSON), [_training(member) for member in members]
        record = _card(members, trainings, source, store, metrics, params, folder)
        card.write(record, folder / paths.CARD_JSON, folder / paths.CARD, folder / paths.METADATA_JSON)
        with tracking.reachable(
            "crossval/ is written: once the server is back, the same command registers the ensemble."
        ):
            run = tracking.ensure_logged(_run(members, trainings, record), [], folder / paths.MODELS)
            client = tracking.connect()
            tags = {
                **_tags(members),
                **verification.lineage([read_lock(member.folder) for member in members]),
                **versions.dataset_tags(source),
                **versions.hashes(folder, [member.folder for member in members]),
                logged_code.TAG: run["code"],
            }
            everything = np.arange(len(store))
            candidate = Candidate.read(run, tags, store, everything, folder / paths.PER_IMAGE_CSV)
            models, device = folder / paths.MODELS, settings().device
            verdict, champion = comparison.judge(
                client, candidate, metrics, models, params.evaluate, params.registration, device
            )
            paired.write(champion, folder / paths.CHAMPION_SCORES)
            tracking.log_evaluation(run, flatten(metrics.record), sorted((folder / paths.REPORTS).iterdir()))
            for member, part in zip(members, versions.recorded(len(members)), strict=True):
                for path in (paths.PARAMS, paths.DVC_LOCK):
                    client.log_artifact(run["run_id"], str(member.folder / path), str(versions.REPRODUCE / part))
            client.log_dict(run["run_id"], verdict.record, str(versions.VERDICT))
            said = description.text(client, run["run_id"], verdict, record)
            version = versions.settle(client, run, verdict, tags, tracking.git_tags(root), said)
            receipt = versions.receipt(client, run["run_id"], version, verdict.reasons, verdict.record)
            page = render(receipt, champion)
            page.write(folder / paths.REPORT)
            tracking.log_page(run["run_id"], folder / paths.REPORT, folder / paths.REPORT_FRAMES)
    page.write(paths.CROSSVAL / paths.REPORT.name)
    write_json(paths.CROSSVAL / paths.REGISTRATION_JSON.name, receipt)
    versions.print_outcome(verdict, version)


def run_id(weights: Iterable[str], trainings: Sequence[str]) -> str:
    """The id of an ensemble's run, 32 hexadecimal digits.

    Weights alone are not enough: a training at another commit may give the same ones, but a run names its commit.

    Args:
        weights: SHA-256 of each weights file.
        trainings: ids of the members' training runs, in order.
    """
    return hashlib.sha256("".join((*weights, *trainings)).encode()).hexdigest()[:32]


def _training(member: Member) -> dict[str, Any]:
    return tracking.read_record(member.folder / paths.MODELS)


def _tags(members: Sequence[Member]) -> dict[str, str]:
    return {
        versions.ENSEMBLE: str(len(members)),
        **{f"member_{number}": member.run_id for number, member in enumerate(members)},
    }


def _copy_figures(folder: Path) -> Metrics:
    """Copies the metrics in `crossval/` to where a single model has them; returns metrics.json."""
    (folder / paths.REPORTS).mkdir()
    for path in (paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.PREDICTIONS):
        shutil.copy(paths.CROSSVAL / path.name, folder / path)
    content = Metrics.read(paths.CROSSVAL / paths.METRICS_JSON.name).record
    content.pop("leakage", None)  # it is of other networks
    content["test"]["split"] = _OUT_OF_FOLD
    metrics = Metrics.model_validate(content)
    metrics.write(folder / paths.METRICS_JSON)
    return metrics


def _build(members: Sequence[Member], store: FrameStore, folder: Path) -> None:
    """Writes `models/`, the drift reference and the smoke frames."""
    from nerveseg.model.device import device_name
    from nerveseg.model.inference import Segmenter
    from nerveseg.modelcard import evidence  # they import torch

    parts, rows = [member.folder / paths.MODELS for member in members], np.arange(len(store))
    (folder / paths.MODELS).mkdir()
    join(parts, store, folder / paths.MODELS)
    segmenter = Segmenter.load(folder / paths.MODELS, device_name(settings().device))
    write_json(folder / paths.REFERENCE_JSON, evidence.reference(store, rows, segmenter))
    table = Scores.read(paths.CROSSVAL / paths.PREDICTIONS.name).table
    smoke.write(evidence.smoke_pairs(store, table, segmenter), folder / paths.SMOKE)


def _card(
    members: Sequence[Member],
    trainings: Sequence[dict[str, Any]],
    source: dict[str, Any],
    store: FrameStore,
    metrics: Metrics,
    params: Params,
    folder: Path,
) -> Card:
    tags = [training["tags"] for training in trainings]
    origins = provenance.Origins(
        dataset=source["sha256"],
        split=hashlib.sha256("".join(member.split for member in members).encode()).hexdigest(),
        params={**_shared(trainings[0]["params"]), **flatten({"evaluate": params.evaluate.model_dump()})},
        # If members were trained at different commits, all are listed.
        code=provenance.Code.of(
            {key: " ".join(dict.fromkeys(each[key] for each in tags if key in each)) for key in tags[0]},
            tracking.git_tags(),
            package.running(),
        ),
        weights=provenance.hashes(folder / paths.MODELS / name for name in ("model.safetensors", "model.json")),
        figures=provenance.hashes(folder / path for path in versions.FIGURES),
    )
    everything = counts(store.index.assign(split="train"))
    spec, aside = read_spec(folder / paths.MODELS), store.set_aside()
    return card.record(spec, everything, 0, metrics, source["uri"], origins, params.card, aside)


def _shared(params: dict[str, Any]) -> dict[str, Any]:
    """The params of a training that all members share, without its frame counts."""
    return {name: value for name, value in params.items() if name.startswith(("model.", "train."))}


def _run(members: Sequence[Member], trainings: Sequence[dict[str, Any]], record: Card) -> tracking.Record:
    shared = _shared(trainings[0]["params"])
    return {
        "run_id": run_id(record.origins.weights.values(), [training["run_id"] for training in trainings]),
        "params": shared,
        "tags": {
            **record.origins.code.training,
            **_tags(members),
            "mlflow.runName": f"ensemble {shared['model.architecture']} {shared['model.encoder']}",
        },
        "dataset": trainings[0]["dataset"],
    }
