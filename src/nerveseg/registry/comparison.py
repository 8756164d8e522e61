"""The candidate beside the champion on the same frames, and as MLflow serves it beside the trained network.

Figures that stand on the champion are of its own frames and rules. So its network scores the candidate's frames.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from nerveseg.data.packed import Packed
from nerveseg.errors import NervesegError
from nerveseg.evaluation import empty, metrics
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.params import EvaluateParams, RegisterParams
from nerveseg.registry import gate, verification, versions
from nerveseg.registry.versions import CHAMPION, Model

_SCORER_FRAMES = 4


@dataclass(frozen=True)
class Candidate:
    """A model that asks to be registered.

    Attributes:
        model_id: of its logged model.
        split: DVC's hash of the packed frames.
        packed: the frames.
        rows: those that are scored, int64.
        dice: its Dice on them by `evaluate.empty`, float64; NaN where that leaves a frame out.
    """

    model_id: str
    split: str
    packed: Packed
    rows: np.ndarray
    dice: np.ndarray

    @classmethod
    def read(
        cls, model_id: str, split: str, packed: Packed, per_image: pd.DataFrame, evaluate: EvaluateParams
    ) -> "Candidate":
        """The candidate with the scores of `per_image.csv`.

        Raises:
            NervesegError: those are of other frames.
        """
        rows = packed.rows(evaluate.split)
        if packed.index["image"].iloc[rows].tolist() != per_image["image"].tolist():
            raise NervesegError(
                f"reports/per_image.csv is not of the {evaluate.split} frames of data/packed: run `dvc repro`."
            )
        return cls(model_id, split, packed, rows, per_image["dice"].to_numpy(np.float64))


def with_champion(
    client: MlflowClient, candidate: Candidate, evaluate: EvaluateParams, register: RegisterParams, device: str
) -> tuple[gate.Criterion | None, str]:
    """Scores the champion on the candidate's frames and holds the two against each other.

    Args:
        device: `cpu`, `cuda`, `mps` or `auto`.

    Returns:
        The criterion; or None and why there is nothing to compare with.

    Raises:
        NervesegError: there is a champion that cannot be loaded, or no such device.
    """
    held = versions.holder(client, CHAMPION)
    if held is None:
        return None, f"No version is {CHAMPION}: there is none to compare with."
    version, _ = held
    own = client.get_logged_model(candidate.model_id).artifact_location
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = versions.locate(client, version)
            if model.source == own:
                return None, f"This model is the {CHAMPION}, version {version}: there is no other to compare with."
            dice = _champion_dice(client, model, Path(folder), candidate, evaluate, device)
        except MlflowException as error:
            if not versions.is_missing(error):
                raise
            raise _unusable(version, f"its run or model is gone ({error.message})") from None
    bootstrap = SubjectBootstrap(
        candidate.packed.index["subject"].iloc[candidate.rows].tolist(), evaluate.resamples, evaluate.seed
    )
    other_split = model.tags.get("dvc_split") != candidate.split
    criterion = gate.over_champion(
        float(np.nanmean(candidate.dice)),
        float(np.nanmean(dice)),
        bootstrap.difference(candidate.dice, dice),
        register,
        f"the {CHAMPION}, version {version}, on the same {len(candidate.rows)} frames",
        " (trained on another split: these frames may have been in its training, which favours it)" * other_split,
    )
    return criterion, ""


def with_logged(client: MlflowClient, model_id: str, models: Path, packed: Packed, rows: np.ndarray) -> gate.Criterion:
    """Runs the logged model and the trained network on some of the scored frames, both on the CPU.

    Args:
        models: holds `model.safetensors` and `model.json`.
        rows: the scored frames, int64.
    """
    from nerveseg.model.inference import Segmenter  # it imports torch

    places = np.unique(np.linspace(0, len(rows) - 1, _SCORER_FRAMES).astype(int))
    frames = [packed.frame(row) for row in rows[places]]
    segmenter = Segmenter.load(models)
    source = client.get_logged_model(model_id).artifact_location
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        logged = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=folder)
        try:
            scorer = mlflow.pyfunc.load_model(logged, suppress_warnings=True)
            for frame in frames:
                found = scorer.predict({"frames": frame[None]})["probability"][0]
                (expected,) = segmenter.probabilities([frame])
                differences.append(np.abs(found - expected).max())
        except Exception as error:  # it is code that is run: whatever it meets, it cannot be served
            trouble = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
            return gate.same_probabilities(None, len(frames), trouble)
    largest = float(np.max(differences))
    if np.isnan(largest):
        return gate.same_probabilities(None, len(frames), "it gives what is no number")
    return gate.same_probabilities(largest, len(frames))


def _champion_dice(
    client: MlflowClient, model: Model, folder: Path, candidate: Candidate, evaluate: EvaluateParams, device: str
) -> np.ndarray:
    from nerveseg.evaluation import inference  # they import torch
    from nerveseg.model.device import device_name
    from nerveseg.model.inference import Segmenter

    name = device_name(device)
    try:
        versions.fetch(client, model, folder)
        verification.require_recorded(client, model, folder)
        segmenter = Segmenter.load(folder, name)
    except NervesegError as error:
        raise _unusable(model.label, str(error)) from None
    packed, rows = candidate.packed, candidate.rows
    predicted = inference.probabilities(packed, rows, segmenter, f"scoring the {CHAMPION}")
    found = [metrics.score(segmenter.mask(probability), packed.mask(row))[0] for row, probability in predicted]
    areas = packed.index["mask_area"].iloc[rows].to_numpy()
    return empty.apply(np.array(found), areas, evaluate.empty)


def _unusable(version: str, reason: str) -> NervesegError:
    return NervesegError(
        f"The {CHAMPION}, version {version}, cannot be loaded, so that nothing is registered: {reason.rstrip('.')}. "
        f"Mend it, give the alias {CHAMPION} to another version or to none, or set register.gate: off."
    )
