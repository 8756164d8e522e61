"""Whether a model is what was recorded of it: its hashes, its lineage, its masks, and its exported form."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML, YAMLError

from nerveseg import paths
from nerveseg.errors import NervesegError, TransientError
from nerveseg.evaluation import metrics, smoke
from nerveseg.files import sha256
from nerveseg.registry import versions
from nerveseg.registry.versions import Model

FILES = {  # by the name of the tag `sha256_NAME` that holds its hash
    "weights": "model.safetensors",
    "spec": "model.json",
    "reference": "reference.json",
    "smoke": "smoke.npz",
    "card": "card.md",
}
_OUTS = {"dvc_data": paths.DATASET_ZIP, "dvc_split": paths.PACKED, "dvc_model": paths.MODELS}
MIN_AGREEMENT = 0.98  # Dice with the masks of the evaluation, which may have run on another device
MIN_EXPORT_AGREEMENT = 0.998  # Dice with the network's own masks; the scorer may compute in bf16


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was found."""

    name: str
    passed: bool
    found: str


def of_record(client: MlflowClient, wanted: str, folder: Path) -> list[Check]:
    """Brings a version's files into `folder` and checks hashes and lineage against what is recorded of it.

    Args:
        wanted: a version's number or an alias.

    Raises:
        TransientError: none of its files are to be seen, which says more of the store than of the version.
    """
    try:
        model = versions.locate(client, wanted)
        untagged = [f"sha256_{name}" for name in FILES if f"sha256_{name}" not in model.tags]
        if untagged:
            raise NervesegError(
                f"has no tag {', '.join(untagged)}: it was not registered by the pipeline, or by an older one"
            )
        versions.fetch(client, model, folder)
        run_tags = client.get_run(model.run_id).data.tags
    except NervesegError as error:
        return [Check("registration", False, str(error))]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return [Check("registration", False, f"its run or model is gone: {error.message}")]
    if not any((folder / file).exists() for file in FILES.values()):
        raise TransientError(f"MLflow's artifact store shows no file of version {model.version}: is it mounted?")
    return [*_hashes(model, run_tags, folder, FILES), _lineage(model, folder)]


def of_network(folder: Path) -> list[Check]:
    """Runs the network that `of_record` brought on its smoke frames, and exports it there as `model.onnx`.

    Raises:
        OSError: the disk cannot take the export.
    """
    checks = []
    for name, check in (("smoke test", _smoke), ("export", _export)):
        try:
            checks.append(check(name, folder))
        except OSError:
            raise
        except Exception as error:  # whatever torch, the exporter or OpenVINO meet in it, it cannot be delivered
            checks.append(Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0][:500]}"))
    return checks


def require_recorded(client: MlflowClient, model: Model, folder: Path) -> None:
    """Raises NervesegError where a fetched file that predictions depend on is not what was recorded."""
    run_tags = client.get_run(model.run_id).data.tags
    needed = {name: FILES[name] for name in ("weights", "spec", "reference")}
    if reason := failures(_hashes(model, run_tags, folder, needed)):
        raise NervesegError(f"Model {model.label} is not used: {reason}.")


def _hashes(model: Model, run_tags: dict[str, str], folder: Path, files: dict[str, str]) -> list[Check]:
    """Each file of a model against the hash on the version, and that against the one on its run."""
    return [_hash(name, folder / file, model.tags, run_tags) for name, file in files.items()]


def _hash(name: str, path: Path, tags: dict[str, str], run_tags: dict[str, str]) -> Check:
    title, tag = f"hash of {path.name}", f"sha256_{name}"
    if tag not in tags:
        return Check(title, False, f"it has no tag {tag}")
    if tags[tag] != run_tags.get(tag):
        return Check(title, False, f"the tag {tag} is {tags[tag]}, but its run says {run_tags.get(tag, 'nothing')}")
    if not path.exists():
        return Check(title, False, f"{path.name} is missing in MLflow's artifact store")
    digest = sha256(path)
    if digest != tags[tag]:
        return Check(title, False, f"{path.name} has SHA-256 {digest}, but the tag {tag} says {tags[tag]}")
    return Check(title, True, digest)


def _lineage(model: Model, folder: Path) -> Check:
    """DVC's hashes of data, split and model on the version against the dvc.lock that its run recorded."""
    try:
        stages = YAML(typ="safe", pure=True).load(folder / paths.DVC_LOCK)["stages"]
        outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    except (OSError, YAMLError, KeyError, TypeError, AttributeError) as error:
        return Check("lineage", False, f"its run holds no readable dvc.lock ({type(error).__name__})")
    for tag, path in _OUTS.items():
        recorded = outs.get(str(path))
        if recorded is None or model.tags.get(tag) != recorded:
            return Check(
                "lineage", False, f"the tag {tag} is {model.tags.get(tag)}, but its dvc.lock says {recorded} for {path}"
            )
    return Check("lineage", True, "data, split and model are those of its dvc.lock")


def _smoke(name: str, folder: Path) -> Check:
    from nerveseg.model.inference import Segmenter  # it imports torch

    segmenter = Segmenter.load(folder)
    pairs = _pairs(folder)
    found = [segmenter.mask(probability) for probability in segmenter.probabilities([frame for frame, _ in pairs])]
    return _agreement(name, found, [mask for _, mask in pairs], MIN_AGREEMENT, "the masks stored with it")


def _export(name: str, folder: Path) -> Check:
    from nerveseg.model.inference import Segmenter
    from nerveseg.prediction.export import export
    from nerveseg.prediction.scorer import ONNX_FILE, Scorer

    segmenter = Segmenter.load(folder)
    export(segmenter.network, segmenter.spec, folder / ONNX_FILE)
    scorer = Scorer(folder, streams=1, threads=1)
    frames = [frame for frame, _ in _pairs(folder)]
    expected = [segmenter.mask(probability) for probability in segmenter.probabilities(frames)]
    found = [scorer.mask(scorer.probability(frame)) for frame in frames]
    return _agreement(name, found, expected, MIN_EXPORT_AGREEMENT, "the network's own masks")


def _pairs(folder: Path) -> list[smoke.Pair]:
    pairs = smoke.read(folder / FILES["smoke"])
    if not pairs:
        raise NervesegError("it segmented nothing when it was evaluated: there are no smoke frames")
    return pairs


def _agreement(name: str, found: list[np.ndarray], expected: list[np.ndarray], least: float, what: str) -> Check:
    if not any(mask.any() for mask in found):
        return Check(name, False, f"it segments nothing on {len(found)} smoke frames")
    dice = float(np.mean([metrics.score(*pair)[0] for pair in zip(found, expected, strict=True)]))
    return Check(name, dice >= least, f"Dice {dice:.4f} with {what} on {len(found)} frames; {least:g} is the least")


def failures(checks: list[Check]) -> str:
    """What failed, in one line; empty if nothing did."""
    return "; ".join(f"{check.name}: {check.found}" for check in checks if not check.passed)
