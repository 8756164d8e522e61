"""Checks a model against its records: its hashes, the chain from its data to its metrics, its masks and its export."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from nerveseg import legacy, logged_code, paths
from nerveseg.arrays import Frame, Mask, Probability
from nerveseg.dvc_lock import Stages, locked_outs, read_lock
from nerveseg.errors import NervesegError, TransientError
from nerveseg.evaluation import metrics
from nerveseg.evaluation.results import Metrics
from nerveseg.files import read_json, sha256
from nerveseg.metric_names import of_value
from nerveseg.modelcard import card, provenance, smoke
from nerveseg.modelcard.card import Card
from nerveseg.params import flatten, read_yaml
from nerveseg.registry import gate, versions
from nerveseg.registry.gate import Verdict
from nerveseg.registry.versions import FILES, RECORDED, Model

_OUTS = {
    "dvc_data": paths.DATASET_ZIP,
    "dvc_split": paths.PACKED,
    "dvc_model": paths.MODEL_WEIGHTS,
    "dvc_spec": paths.MODEL_SPEC,
}
# Of versions that were registered when train wrote all of models/, one out.
_FORMER_OUTS = {"dvc_data": paths.DATASET_ZIP, "dvc_split": paths.PACKED, "dvc_model": paths.MODELS}
_ON_CARD = ("model", "train", "evaluate")  # the sections of params.yaml on a card
MIN_AGREEMENT = 0.98  # Dice with the masks from the evaluation, which may have run on another device
# Between the export and the network. Both compute in fp32, which leaves 0.00002; a CPU's bf16 differs by 0.01.
MAX_DIFFERENCE = 0.001  # of a probability
MAX_OTHER_PIXELS = 0.001  # share of all pixels, nerve for one of them only
_EXPORT_FRAMES = 16
OVERRIDE_CHECK = "gate override"  # that a person overrides the gate, which failed the version


_NOT_COVERED = (
    "no hash covers the code logged with it, because nerveseg recorded none then: MLflow would run whatever code is "
    "there. Verification, delivery and predictions use its weights only"
)


@dataclass(frozen=True)
class Check:
    """A check and its result."""

    name: str
    passed: bool
    found: str


def of_record(client: MlflowClient, wanted: str, folder: Path, *, is_delivered: bool = False) -> list[Check]:
    """Fetches a version's files into `folder` and checks its hashes and the chain on its card against the records.

    Only the tracking server is used: a delivery may run where the model was not trained.

    Args:
        wanted: a version number or an alias.
        is_delivered: it is what is delivered now, so nobody needs to override the gate again.

    Raises:
        TransientError: none of its files can be found, so the artifact store is probably unavailable.
    """
    try:
        model = versions.locate(client, wanted)
        untagged = [f"sha256_{name}" for name in (*FILES, *RECORDED) if f"sha256_{name}" not in model.tags]
        if untagged:
            raise NervesegError(
                f"has no tag {', '.join(untagged)}: it was not registered by the pipeline, or by an older one. "
                "If it is the model in this folder, `dvc repro -f -s evaluate register` registers it again"
            )
        versions.fetch(client, model, folder)
        run = client.get_run(model.run_id).data
    except NervesegError as error:
        return [Check("registration", False, str(error))]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return [Check("registration", False, f"its run or model is gone: {error.message}")]
    if not any((folder / file.name).exists() for file in FILES.values()):
        raise TransientError(f"MLflow's artifact store has no file of version {model.version}: is it mounted?")
    trainings = [folder / part for part in versions.recorded(model.members)]
    return [
        *_hashes(model, run.tags, {name: [folder / path.name] for name, path in FILES.items()}),
        *_hashes(model, run.tags, {name: [part / path for part in trainings] for name, path in RECORDED.items()}),
        *_logged_code(model, run.tags, folder),
        *_chain(model, run.tags, run.metrics, folder, trainings),
        *_verdict(model.tags, folder / versions.VERDICT.name, is_delivered),
    ]


def of_network(folder: Path) -> list[Check]:
    """Runs the network fetched by `of_record` on its smoke frames, and exports it there as `model.onnx`.

    Raises:
        OSError: the export cannot be written to disk.
    """
    checks = []
    for name, check in (("smoke test", _smoke), ("export", _export)):
        try:
            checks.append(check(name, folder))
        except OSError:
            raise
        except Exception as error:  # torch, the exporter and OpenVINO may raise anything: it cannot be delivered
            checks.append(Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0][:500]}"))
    return checks


def require_recorded(client: MlflowClient, model: Model, folder: Path) -> None:
    """Raises NervesegError if a fetched file that predictions depend on, or the code logged with the model, does not
    match its recorded hash.
    """
    run_tags = client.get_run(model.run_id).data.tags
    needed = {name: [folder / FILES[name].name] for name in ("weights", "spec", "reference")}
    if reason := failures([*_hashes(model, run_tags, needed), *_logged_code(model, run_tags, folder)]):
        raise NervesegError(f"Model {model.label} is not used: {reason}.")


def fetch_code(client: MlflowClient, model_id: str, digest: str, folder: Path) -> Path:
    """Downloads a logged model into `folder`, ready to be loaded: its code is what was logged.

    Args:
        digest: SHA-256 of the hashes of its code, from when it was logged.

    Returns:
        Its folder.

    Raises:
        NervesegError: its code, or the list of hashes, is something else.
    """
    model = client.get_logged_model(model_id)
    try:
        listed = Path(client.download_artifacts(str(model.source_run_id), str(logged_code.SUMS), str(folder)))
    except (MlflowException, OSError):  # it depends on the store
        raise NervesegError(f"{logged_code.SUMS} is missing from the artifacts of run {model.source_run_id}") from None
    if sha256(listed) != digest:
        raise NervesegError(f"{logged_code.SUMS} of run {model.source_run_id} is not what was recorded at its logging")
    logged = Path(mlflow.artifacts.download_artifacts(artifact_uri=model.artifact_location, dst_path=str(folder)))
    logged_code.require_same(listed, logged)
    logged_code.remove_compiled(logged)
    return logged


def require_figures(client: MlflowClient, model: Model, folder: Path) -> set[str]:
    """Checks the fetched card and the tables whose hashes it has.

    Returns:
        The names of these tables: cards of older versions have fewer.

    Raises:
        NervesegError: one does not match its recorded hash.
    """
    run_tags = client.get_run(model.run_id).data.tags
    path = folder / FILES["card"].name
    if reason := failures(_hashes(model, run_tags, {"card": [path]})):
        raise NervesegError(f"The recorded metrics of model {model.label} are not used: {reason}.")
    recorded = card.read(path).origins.figures
    _files(recorded, folder)
    return set(recorded)


def _hashes(model: Model, run_tags: dict[str, str], files: dict[str, list[Path]]) -> list[Check]:
    """Compares the files of a model, or of each of its trainings, with the version's tags, and those with its run's."""
    return [_hash(name, parts, model.tags, run_tags) for name, parts in files.items()]


def _hash(name: str, parts: list[Path], tags: dict[str, str], run_tags: dict[str, str]) -> Check:
    title, tag = f"hash of {parts[0].name}", f"sha256_{name}"
    if tag not in tags:
        return Check(title, False, f"it has no tag {tag}")
    if tags[tag] != run_tags.get(tag):
        return Check(title, False, f"the tag {tag} is {tags[tag]}, but its run says {run_tags.get(tag, 'nothing')}")
    if not all(path.exists() for path in parts):
        return Check(title, False, f"{parts[0].name} is missing from MLflow's artifact store")
    digest = versions.digest(parts)
    if digest != tags[tag]:
        return Check(title, False, f"{parts[0].name} has SHA-256 {digest}, but the tag {tag} says {tags[tag]}")
    return Check(title, True, digest)


def _logged_code(model: Model, run_tags: dict[str, str], folder: Path) -> list[Check]:
    """Checks the code logged with the model against the hashes recorded at its logging."""
    if logged_code.TAG not in model.tags and logged_code.TAG not in run_tags:
        return [Check("logged code", True, _NOT_COVERED)]
    listed = folder / logged_code.SUMS.name
    recorded = _hash("code", [listed], model.tags, run_tags)
    if not recorded.passed:
        return [recorded]
    return [
        recorded,
        checked("logged code", lambda: f"{logged_code.require_same(listed, folder / versions.LOGGED)} files as logged"),
    ]


def _chain(
    model: Model, run_tags: dict[str, str], run_metrics: dict[str, float], folder: Path, trainings: list[Path]
) -> list[Check]:
    """Checks the chain on the card, each of its links against what the registry has, and what the card states."""
    try:
        record = card.read(folder / FILES["card"].name)
    except NervesegError as error:
        return [Check("chain", False, str(error))]
    checks: dict[str, Callable[[], str]] = {
        "chain": lambda: _links(record),
        "dataset": lambda: _dataset(record, model.tags),
        "lineage": lambda: _lineage(model.tags, trainings),
        "params": lambda: _params(record, trainings),
        "code": lambda: _code(record, run_tags),
        "weights": lambda: _files(record.origins.weights, folder),
        "figures": lambda: _files(record.origins.figures, folder),
        "logged figures": lambda: _logged(record, run_metrics, folder / paths.METRICS_JSON.name),
        "card": lambda: _stated(record, trainings),
    }
    return [checked(name, check) for name, check in checks.items()]


def checked(name: str, check: Callable[[], str]) -> Check:
    """Runs a check, which returns its result and raises NervesegError if it fails."""
    try:
        return Check(name, True, check())
    except NervesegError as error:
        return Check(name, False, str(error))


def _links(record: Card) -> str:
    if wrong := provenance.differences(record.provenance, record.origins):
        raise NervesegError("; ".join(wrong))
    links = " → ".join(link.link for link in record.provenance)
    return f"{links}, ends with {record.provenance[-1].chain}"


def _dataset(record: Card, tags: dict[str, str]) -> str:
    recorded, tagged = record.origins.dataset, tags.get("dataset_sha256")
    if tagged != recorded:
        raise NervesegError(
            f"the card says {recorded}, but the tag dataset_sha256 says {tagged}; if the zip was replaced by one with "
            "the same frames, `dvc repro -f -s register` records that"
        )
    return recorded


def _lineage(tags: dict[str, str], trainings: list[Path]) -> str:
    """Compares DVC's hashes on the version, and those between stages, with every dvc.lock of the run."""
    locks = [read_lock(folder) for folder in trainings]
    for tag, recorded in lineage(locks).items():
        if tags.get(tag) != recorded:
            path = _outs(locks)[tag]
            raise NervesegError(f"the tag {tag} is {tags.get(tag)}, but its dvc.lock says {recorded} for {path}")
    for stages in locks:
        outs = locked_outs(stages)
        for name in ("split", "train", "calibrate", "evaluate"):  # register was yet to run
            for dep in stages.get(name, {}).get("deps", []):
                if dep["path"] in outs and dep.get("md5") != outs[dep["path"]]:
                    raise NervesegError(
                        f"in its dvc.lock, {name} read a different {dep['path']} from the one that was written"
                    )
    return "data, split and model match its dvc.lock" + (f" for each of {len(locks)} folds" if locks[1:] else "")


def lineage(locks: Sequence[Stages]) -> dict[str, str]:
    """The tags that tie a version to its inputs: DVC's hashes of data, split and model.

    Args:
        locks: from `read_lock`, one per training; if their hashes differ, they are separated by spaces.

    Raises:
        NervesegError: a hash is not recorded.
    """
    found = {}
    for tag, path in _outs(locks).items():
        recorded = dict.fromkeys(locked_outs(stages).get(str(path)) for stages in locks)
        if None in recorded:
            raise NervesegError(f"dvc.lock does not record {path}")
        found[tag] = " ".join(map(str, recorded))
    return found


def _outs(locks: Sequence[Stages]) -> dict[str, Path]:
    return _FORMER_OUTS if any(str(paths.MODELS) in locked_outs(stages) for stages in locks) else _OUTS


def _params(record: Card, trainings: list[Path]) -> str:
    """Compares the params on the card and in dvc.lock with every params.yaml of the run.

    What a params.yaml leaves to the recipe, which it names, is on the card alone.
    """
    on_card = {name: value for name, value in record.origins.params.items() if name.partition(".")[0] in _ON_CARD}
    for folder in trainings:
        path = folder / paths.PARAMS
        _require(path)
        given, locked = flatten(read_yaml(path)), _locked_params(read_lock(folder))
        # A recipe's values may change with the code, so those on the card cannot be compared with it.
        of_recipe = {name for name, value in given.items() if name.startswith("train.") and value is None}
        _require_same({name: value for name, value in on_card.items() if name not in of_recipe}, given, path.name)
        _require_same(locked, given, path.name)
    return f"{len(on_card | locked)} match {paths.PARAMS} of its run"


def _locked_params(stages: Stages) -> dict[str, Any]:
    """The params, with dotted names, of all stages up to evaluate.

    Raises:
        NervesegError: the params of a stage are not recorded.
    """
    found: dict[str, Any] = {}
    try:
        phantom = any(dep["path"] == str(paths.PHANTOM_ZIP) for dep in stages["download"]["deps"])
        calibrated = "calibrate" in stages  # older versions: train did it
        for name in (*["phantom"] * phantom, "download", "split", "train", *["calibrate"] * calibrated, "evaluate"):
            found |= flatten(stages[name]["params"][str(paths.PARAMS)])
    except (KeyError, TypeError, AttributeError) as error:
        raise NervesegError(f"its dvc.lock lacks {error} in the params of the stages") from None
    return found


def _verdict(tags: dict[str, str], path: Path, is_delivered: bool) -> list[Check]:
    """Checks that the version's tags and its run have the same verdict of the gate and, if the model failed, that a
    person overrides it.
    """
    try:
        verdict = _recorded_verdict(tags, path)
    except NervesegError as error:
        return [Check("gate", False, str(error))]
    found = [Check("gate", True, verdict.line)]
    if verdict.passed is False and not is_delivered:
        found.append(checked(OVERRIDE_CHECK, lambda: gate.overrider(tags, verdict)))
    return found


def _recorded_verdict(tags: dict[str, str], path: Path) -> Verdict:
    _require(path)
    try:
        verdict = Verdict.of(read_json(path))
    except ValueError as error:
        raise NervesegError(f"{path.name}: {error}") from None
    tagged = legacy.gate_tags(tags)
    _require_same(tagged, verdict.tags, path.name)
    _require_same(verdict.tags, tagged, "the version's tag")
    return verdict


def _code(record: Card, run_tags: dict[str, str]) -> str:
    training = record.origins.code.training
    _require_same(training, run_tags, "its run")
    return f"trained at {training['git_commit']}, as its run says" if training else "trained outside a git repository"


def _files(recorded: dict[str, str], folder: Path) -> str:
    for name, digest in recorded.items():
        _require(folder / name)
        if (found := sha256(folder / name)) != digest:
            raise NervesegError(f"{name} has SHA-256 {found}, but the card says {digest}")
    return f"{', '.join(recorded)} match the card"


def _logged(record: Card, run_metrics: dict[str, float], path: Path) -> str:
    """metrics.json against the metrics that MLflow logged, and those that the card shows."""
    _require(path)
    content = flatten(Metrics.read(path).record)
    figures = {key: value for key, value in content.items() if isinstance(value, int | float)}
    _require_same({of_value(key): value for key, value in figures.items()}, legacy.logged(run_metrics), "MLflow")
    shown = {one.key: one.value for one in (*record.figures, *record.baselines) if one.value is not None}
    _require_same(shown, figures, path.name)
    return f"{len(figures)} match those logged in MLflow"


def _stated(record: Card, trainings: list[Path]) -> str:
    """Whether the card states what only the model's owner can say; of a model of the phantom nobody asks it."""
    if not record.unstated:
        return "it states owner, contact, licence, intended use and terms of the data"
    if all(_is_of_phantom(read_lock(folder)) for folder in trainings):
        return "its data is the phantom, so owner and licence need not be stated"
    raise NervesegError(
        f"it does not state {', '.join(record.unstated)}: fill them in in params.yaml, then `dvc repro register` (or, "
        "for an ensemble, `nerveseg crossval --ensemble`) registers the model with them"
    )


def _is_of_phantom(stages: Stages) -> bool:
    """Whether the dataset is the zip that the stage phantom made, wherever it was read from."""
    outs = locked_outs(stages)
    phantom = outs.get(str(paths.PHANTOM_ZIP))
    return phantom is not None and phantom == outs.get(str(paths.DATASET_ZIP))


def _require(path: Path) -> None:
    if not path.exists():
        raise NervesegError(f"{path.name} is missing from MLflow's artifact store")


def _require_same(recorded: dict[str, Any], found: dict[str, Any], where: str) -> None:
    wrong = [
        f"{name} is {value}, but {where} says {found.get(name, 'nothing')}"
        for name, value in recorded.items()
        if name not in found or found[name] != value
    ]
    if wrong:
        raise NervesegError("; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""))


def _smoke(name: str, folder: Path) -> Check:
    from nerveseg.model.inference import Segmenter  # it imports torch

    segmenter = Segmenter.load(folder)
    pairs = _pairs(folder)
    found = [segmenter.mask(probability) for probability in segmenter.probabilities([frame for frame, _ in pairs])]
    return _agreement(name, found, [mask for _, mask in pairs], MIN_AGREEMENT, "the masks stored with it")


def _export(name: str, folder: Path) -> Check:
    from nerveseg.model.inference import Segmenter
    from nerveseg.prediction.export import export
    from nerveseg.prediction.openvino import ONNX_FILE, OpenVinoScorer

    segmenter = Segmenter.load(folder)
    export(segmenter.network, segmenter.spec, folder / ONNX_FILE)
    scorer = OpenVinoScorer(folder, streams=1, threads=0)
    frames = _with_flips([frame for frame, _ in _pairs(folder)])
    expected, found = segmenter.probabilities(frames), [scorer.probability(frame) for frame in frames]
    return _same_output(name, found, expected, segmenter.mask)


def _with_flips(frames: list[Frame]) -> list[Frame]:
    """The frames and, if they are too few, their flips: 16, unless there are fewer than 4."""
    flips = [np.flip(frame, axes) for axes in ((1,), (0,), (0, 1)) for frame in frames]
    return [*frames, *map(np.ascontiguousarray, flips)][: max(len(frames), _EXPORT_FRAMES)]


def _same_output(
    name: str, found: list[Probability], expected: list[Probability], mask: Callable[[Probability], Mask]
) -> Check:
    """Compares the probabilities of the export, and the masks that follow from them, with those of the network."""
    if not any(mask(probability).any() for probability in found):
        return Check(name, False, f"it segments nothing on {len(found)} frames")
    pairs = list(zip(found, expected, strict=True))
    difference = float(np.max([np.abs(one - other).max() for one, other in pairs]))
    others = sum(int((mask(one) != mask(other)).sum()) for one, other in pairs) / sum(one.size for one in found)
    difference, others = round(difference, 6), round(others, 6)  # what is shown is what is judged
    return Check(
        name,
        difference <= MAX_DIFFERENCE and others <= MAX_OTHER_PIXELS,  # NaN is not
        f"on {len(found)} frames, probabilities differ from the network's own by at most {difference:.6f} "
        f"(the limit is {MAX_DIFFERENCE:g}), and {others:.4%} of the pixels are in another class "
        f"(the limit is {MAX_OTHER_PIXELS:.1%})",
    )


def _pairs(folder: Path) -> list[smoke.Pair]:
    pairs = smoke.read(folder / FILES["smoke"].name)
    if not pairs:
        raise NervesegError("it segmented nothing in the evaluation, so there are no smoke frames")
    return pairs


def _agreement(name: str, found: list[Mask], expected: list[Mask], least: float, what: str) -> Check:
    if not any(mask.any() for mask in found):
        return Check(name, False, f"it segments nothing on {len(found)} smoke frames")
    dice = float(np.mean([metrics.score(*pair)[0] for pair in zip(found, expected, strict=True)]))
    dice = round(dice, 4)  # what is shown is what is judged
    return Check(name, dice >= least, f"Dice {dice:.4f} with {what} on {len(found)} frames; the minimum is {least:g}")


def failures(checks: list[Check]) -> str:
    """What failed, in one line; empty if nothing did."""
    return "; ".join(f"{check.name}: {check.found}" for check in checks if not check.passed)
