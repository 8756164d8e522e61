"""register: the evaluated model gets its card and becomes a version in the registry, or a receipt says why not."""

from pathlib import Path
from typing import Any

from nerveseg import logged_code, paths, tracking
from nerveseg.data.frame_store import FrameStore, counts
from nerveseg.dvc_lock import read_lock
from nerveseg.errors import NervesegError
from nerveseg.evaluation import paired
from nerveseg.evaluation.results import Metrics
from nerveseg.files import read_json, write_json
from nerveseg.model.spec import read_spec
from nerveseg.modelcard import card, provenance
from nerveseg.modelcard.card import Card
from nerveseg.params import CardParams, EvaluateParams, Params, flatten
from nerveseg.registry import comparison, description, verification, versions
from nerveseg.registry.comparison import Candidate
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    """Writes the model's card, asks the gate and registers `models/`; `reports/registration.json` says what came of it.

    On a tracking server that lacks the model's run, the run is made there first.

    Raises:
        NervesegError: missing inputs, scored subjects that were trained on, unknown subjects and a split by frame, no
            lineage in dvc.lock, a champion that cannot be loaded, or a tracking server that failed.
    """
    metrics = Metrics.read(paths.METRICS_JSON)
    if params.split.by == "frame" and not metrics.test.subjects_known:
        raise NervesegError(
            "Not registered: split.by is frame and the subjects are unknown, so that near-duplicates of scored frames "
            "may have been trained on. Set split.by: subject; with data.subject: none, it draws frames, too, but "
            "keeps near-duplicates together."
        )
    if leaking := metrics.test.subjects_in_training:
        raise NervesegError(
            f"Not registered: {leaking} of {metrics.test.subjects} scored subjects were trained on, so that its "
            "figures are too good. A split by frame (split.by) serves the leakage audit only; set split.by: subject."
        )
    store, source = FrameStore.open(paths.PACKED), read_json(paths.SOURCE_JSON)
    record_card = _card(store, source, metrics, params.evaluate, params.card)
    card.write(record_card, paths.CARD_JSON, paths.CARD, paths.METADATA_JSON)
    lineage = _lineage(source)
    with tracking.reachable("Nothing is lost: once the server answers, `dvc repro` registers."):
        client = tracking.connect()
        record = tracking.ensure_run(paths.MODELS)
        rows = store.rows(params.evaluate.split)
        candidate = Candidate.read(record, lineage, store, rows, paths.PER_IMAGE_CSV)
        verdict, champion = comparison.judge(
            client, candidate, metrics, paths.MODELS, params.evaluate, params.registration, settings().device
        )
        paired.write(champion, paths.CHAMPION_SCORES)
        tracking.log_evaluation(
            record,
            flatten(metrics.record),
            [
                *(paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.PREDICTIONS),
                *(paths.CONFLICTS_CSV, paths.CURVES, paths.METRICS_JSON, paths.CHAMPION_SCORES),
                *(paths.CARD_JSON, paths.CARD, paths.METADATA_JSON, paths.REFERENCE_JSON, paths.SMOKE),
            ],
        )
        for path in (paths.DVC_LOCK, paths.PARAMS):
            client.log_artifact(record["run_id"], str(path), str(versions.REPRODUCE))
        client.log_dict(record["run_id"], verdict.record, str(versions.VERDICT))
        # The commit is that of the recorded dvc.lock; the training's own, which may be older, is on the run.
        tags = lineage | versions.hashes(Path(), [Path()]) | {logged_code.TAG: record["code"]}
        said = description.text(client, record["run_id"], verdict, record_card)
        version = versions.settle(client, record, verdict, tags, tracking.git_tags(), said)
        receipt = versions.receipt(client, record["run_id"], version, verdict.reasons, verdict.record)
    write_json(paths.REGISTRATION_JSON, receipt)
    versions.print_outcome(verdict, version)


def _card(
    store: FrameStore, source: dict[str, Any], metrics: Metrics, evaluate: EvaluateParams, stated: CardParams
) -> Card:
    recorded, evaluated = tracking.read_record(paths.MODELS), read_json(paths.EVALUATION_JSON)
    origins = provenance.Origins(
        dataset=source["sha256"],
        split=store.digest(),
        params={**recorded["params"], **flatten({"evaluate": evaluate.model_dump()})},
        code=provenance.Code.of(recorded["tags"], evaluated["tags"], evaluated["source"]),
        weights=provenance.hashes((paths.MODEL_WEIGHTS, paths.MODEL_SPEC)),
        figures=provenance.hashes(versions.FIGURES),
    )
    shared = int((store.index.groupby("subject")["split"].nunique() > 1).sum())
    spec, aside = read_spec(paths.MODELS), store.set_aside()
    return card.record(spec, counts(store.index), shared, metrics, source["uri"], origins, stated, aside)


def _lineage(source: dict[str, Any]) -> dict[str, str]:
    """Tags that tie a version to its inputs: DVC's hashes of data, split and model, and the dataset's source."""
    try:
        hashes = verification.lineage([read_lock(Path())])
    except NervesegError:
        raise NervesegError(
            "dvc.lock does not record data, split and model: run `dvc repro`, not the stage alone."
        ) from None
    return hashes | versions.dataset_tags(source)


if __name__ == "__main__":
    main(run)
