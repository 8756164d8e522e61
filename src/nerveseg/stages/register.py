"""register: the evaluated model becomes a version in the registry, or a receipt says why not."""

from pathlib import Path

from nerveseg import paths, tracking
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.files import read_json, replacing, write_json
from nerveseg.modelcard import card
from nerveseg.params import Params, flatten
from nerveseg.registry import comparison, verification, versions
from nerveseg.registry.comparison import Candidate
from nerveseg.report import sections as report
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    """Asks the gate and registers `models/`; writes `reports/registration.json` and, with its verdict, the report.

    On a tracking server that lacks the training's run, the run is made there first.

    Raises:
        NervesegError: missing inputs, scored subjects that were trained on, no lineage in dvc.lock, a champion that
            cannot be loaded, or a tracking server that failed.
    """
    metrics = Metrics.read(paths.METRICS_JSON)
    if leaking := metrics.test.subjects_in_training:
        raise NervesegError(
            f"Not registered: {leaking} of {metrics.test.subjects} scored subjects were trained on, so that its "
            "figures are too good. A split by frame (split.by) serves the leakage audit only; set split.by: subject."
        )
    description = card.description(card.read(paths.CARD_JSON))
    store, scores = FrameStore.open(paths.PACKED), Scores.read(paths.PREDICTIONS)
    lineage = _lineage()
    with tracking.reachable("Nothing is lost: once the server answers, `dvc repro` registers."):
        client = tracking.connect()
        record = tracking.ensure_run(paths.MODELS)
        rows = store.rows(params.evaluate.split)
        candidate = Candidate.read(record["model_id"], lineage, store, rows, paths.PER_IMAGE_CSV)
        verdict = comparison.judge(
            client, candidate, metrics, paths.MODELS, params.evaluate, params.registration, settings().device
        )
        tracking.log_evaluation(
            record,
            flatten(metrics.record),
            paths.FIGURES,
            [
                *(paths.PER_IMAGE_CSV, paths.PER_SUBJECT_CSV, paths.CONFLICTS_CSV, paths.CURVES, paths.METRICS_JSON),
                *(paths.CARD_JSON, paths.CARD, paths.METADATA_JSON, paths.REFERENCE_JSON, paths.SMOKE),
            ],
        )
        for path in (paths.DVC_LOCK, paths.PARAMS):
            client.log_artifact(record["run_id"], str(path), str(versions.REPRODUCE))
        client.log_dict(record["run_id"], verdict.record, str(versions.VERDICT))
        # The commit is that of the recorded dvc.lock; the training's own, which may be older, is on the run.
        tags = lineage | versions.hashes(Path(), [Path()])
        version = versions.settle(client, record, verdict, tags, tracking.git_tags(), description)
        receipt = versions.receipt(record["run_id"], version, verdict.reasons, verdict.record)
        page = report.render(receipt, params.evaluate, store, scores, paths.MODELS, paths.REPORT.parent)
        client.log_text(record["run_id"], page, str(paths.REPORT))
    with replacing(paths.REPORT) as beside:
        beside.write_text(page, encoding="utf-8")
    write_json(paths.REGISTRATION_JSON, receipt)
    versions.print_outcome(verdict, version)


def _lineage() -> dict[str, str]:
    """Tags that tie a version to its inputs: DVC's hashes of data, split and model, and the dataset's source."""
    try:
        hashes = verification.lineage([verification.read_lock(Path())])
    except NervesegError:
        raise NervesegError(
            "dvc.lock does not record data, split and model: run `dvc repro`, not the stage alone."
        ) from None
    return hashes | versions.dataset_tags(read_json(paths.SOURCE_JSON))


if __name__ == "__main__":
    main(run)
