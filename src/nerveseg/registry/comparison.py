"""Compares the candidate with the champion on the same frames, and the logged model with the trained network.

Recorded metrics of the champion come from other frames and rules, so its network is re-scored on the candidate's
frames. An ensemble has learned from all frames, so the out-of-fold scores of its members are compared instead.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from nerveseg import paths
from nerveseg.arrays import Floats, Ints
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import empty, paired
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.evaluation.results import Metrics
from nerveseg.evaluation.scores import Scores
from nerveseg.params import EmptyRule, EvaluateParams, RegisterParams
from nerveseg.registry import gate, verification, versions
from nerveseg.registry.gate import Verdict
from nerveseg.registry.versions import CHAMPION, ENSEMBLE, Model

if TYPE_CHECKING:
    from nerveseg.model.inference import Segmenter

_SCORER_FRAMES = 4


@dataclass(frozen=True)
class Champion:
    """What a candidate is compared with.

    Attributes:
        criterion: the result; None if there is nothing to compare with.
        note: why there is nothing to compare with; or empty.
        scores: of the frames that both were scored on, as `paired.score` makes them, and `version`; without rows if
            there is nothing to compare with, or its masks were not recorded.
    """

    criterion: gate.Criterion | None
    note: str
    scores: pd.DataFrame


@dataclass(frozen=True)
class Candidate:
    """A model to be registered.

    Attributes:
        model_id: id of its logged model.
        code: SHA-256 of the hashes of the code logged with it.
        tags: tags for its version: its lineage, and `ensemble` if it is one.
        store: the frames.
        rows: the scored frames, int64.
        dice: Dice of the scored frames by `evaluate.empty`, out of fold for an ensemble, float64; NaN for a frame that
            the rule leaves out.
    """

    model_id: str
    code: str
    tags: Mapping[str, str]
    store: FrameStore
    rows: Ints
    dice: Floats

    @classmethod
    def read(
        cls, run: Mapping[str, str], tags: Mapping[str, str], store: FrameStore, rows: Ints, per_image: Path
    ) -> "Candidate":
        """The candidate with the scores in a `per_image.csv`.

        Args:
            run: `model_id` and `code` of its run.

        Raises:
            NervesegError: the scores are for other frames.
        """
        scored = _read(per_image)
        if store.index["image"].iloc[rows].tolist() != scored["image"].tolist():
            raise NervesegError(f"{per_image} does not match the scored frames in data/packed: run `dvc repro`.")
        return cls(run["model_id"], run["code"], tags, store, rows, scored["dice"].to_numpy(np.float64))

    @property
    def table(self) -> pd.DataFrame:
        """The scored frames: image, subject, dice."""
        return self.store.index[["image", "subject"]].iloc[self.rows].assign(dice=self.dice)


def judge(
    client: MlflowClient,
    candidate: Candidate,
    figures: Metrics,
    models: Path,
    evaluate: EvaluateParams,
    register: RegisterParams,
    device: str,
) -> tuple[Verdict, pd.DataFrame]:
    """The verdict on a candidate: requirements on every model, the logged scorer, and the champion.

    Args:
        figures: its metrics.
        models: contains its `model.safetensors` and `model.json`.
        device: `cpu`, `cuda`, `mps` or `auto`.

    Returns:
        The verdict, and what the champion scores on the same frames, as `Champion.scores`.

    Raises:
        NervesegError: the code logged with the model is not what was logged; or like `with_champion`.
    """
    set_aside = candidate.store.set_aside()
    notes = [] if figures.test.subjects_known else [gate.UNKNOWN_SUBJECTS]
    if set_aside:
        notes.append(gate.set_aside_note(set_aside))
    with tempfile.TemporaryDirectory() as folder:
        try:
            logged = verification.fetch_code(client, candidate.model_id, candidate.code, Path(folder))
        except NervesegError as error:
            raise NervesegError(
                f"Nothing is registered, and nothing of the logged model was run: {error}. Find out who changed it. "
                "`dvc repro -f -s train calibrate` logs the model anew."
            ) from None
        if register.gate == "off":
            return Verdict("off", note=" ".join(notes), set_aside=set_aside), _none(candidate, evaluate)
        champion = with_champion(client, candidate, evaluate, register, device)
        scorer = with_logged(logged, models, candidate.store, candidate.rows)
    criteria = (*gate.absolute(figures, register), scorer)
    if champion.criterion:
        criteria = (*criteria, champion.criterion)
    note = " ".join(filter(None, (*notes, champion.note)))
    return Verdict(register.gate, criteria, note, set_aside), champion.scores


def with_champion(
    client: MlflowClient, candidate: Candidate, evaluate: EvaluateParams, register: RegisterParams, device: str
) -> Champion:
    """Compares the candidate with the champion: on its frames or, if either is an ensemble, out of fold.

    Args:
        device: `cpu`, `cuda`, `mps` or `auto`.

    Raises:
        NervesegError: the champion cannot be loaded, or this machine does not have the device.
    """
    from nerveseg.model.device import device_name  # they import torch
    from nerveseg.model.inference import Segmenter

    held = versions.holder(client, CHAMPION)
    if held is None:
        note = f"No version is {CHAMPION}: there is nothing to compare with."
        return Champion(None, note, _none(candidate, evaluate))
    version, _ = held
    own = client.get_logged_model(candidate.model_id).artifact_location
    name = device_name(device)
    with tempfile.TemporaryDirectory() as part:
        folder = Path(part)
        with _usable(version):
            model = versions.locate(client, version)
            if model.source == own:
                note = f"This model is the {CHAMPION}, version {version}: there is nothing to compare with."
                return Champion(None, note, _none(candidate, evaluate))
            versions.fetch(client, model, folder)
            verification.require_recorded(client, model, folder)
            segmenter = Segmenter.load(folder, name)  # even if it need not score: it must be loadable
            if recorded := _is_recorded(candidate, model):
                tables = verification.require_figures(client, model, folder)
        if recorded:
            scored = by_rule(_read(folder / paths.PER_IMAGE_CSV.name), evaluate.empty)
            criterion = out_of_fold(candidate.table, scored, version, evaluate, register)
            if paths.PREDICTIONS.name not in tables:
                return Champion(criterion, "", _none(candidate, evaluate))
            masks = paired.recorded(Scores.read(folder / paths.PREDICTIONS.name).table, candidate.store, candidate.rows)
            scores = paired.score(candidate.store, masks, evaluate)
            return Champion(criterion, "", scores.assign(version=version))
        scores = _scores(segmenter, candidate, evaluate)
    dice = paired.by_rule(scores, evaluate.empty)["dice"].to_numpy(np.float64)
    bootstrap = SubjectBootstrap(candidate.table["subject"], evaluate.resamples, evaluate.seed)
    criterion = gate.over_champion(
        float(np.nanmean(candidate.dice)),
        float(np.nanmean(dice)),
        bootstrap.difference(candidate.dice, dice),
        register,
        f"the {CHAMPION}, version {version}, on the same {len(candidate.rows)} frames",
        _remark(candidate, model),
    )
    return Champion(criterion, "", scores.assign(version=version))


def out_of_fold(
    candidate: pd.DataFrame, champion: pd.DataFrame, version: str, evaluate: EvaluateParams, register: RegisterParams
) -> gate.Criterion:
    """Compares recorded Dice, of frames that had not been seen by the network that scored them.

    Args:
        candidate: columns image, subject, dice.
        champion: columns image, dice, for the same dataset and rule.
    """
    both = candidate.merge(champion[["image", "dice"]], on="image", suffixes=("", "_champion"))
    first, second = (both[name].to_numpy(np.float64) for name in ("dice", "dice_champion"))
    who = f"the {CHAMPION}, version {version}, out of fold"
    if np.isnan(first).all() or np.isnan(second).all():
        return gate.nothing_in_common(register, who)
    return gate.over_champion(
        float(np.nanmean(first)),
        float(np.nanmean(second)),
        SubjectBootstrap(both["subject"], evaluate.resamples, evaluate.seed).difference(first, second),
        register,
        f"{who} on {len(both)} frames, each scored by networks that had not seen it",
    )


def by_rule(per_image: pd.DataFrame, rule: EmptyRule) -> pd.DataFrame:
    """Applies a rule for empty masks to a `per_image.csv`, whatever rule it was written with."""
    true = per_image["true_area"].to_numpy()
    by_kaggle = np.where(true > 0, per_image["dice"], per_image["predicted_area"] == 0)
    return per_image.assign(dice=empty.apply(by_kaggle, true, rule))


def with_logged(logged: Path, models: Path, store: FrameStore, rows: Ints) -> gate.Criterion:
    """Compares the logged model with the trained network on some of the scored frames, both on the CPU.

    Args:
        logged: the folder of `verification.fetch_code`, whose code is run.
        models: contains `model.safetensors` and `model.json`.
        rows: the scored frames, int64.
    """
    from nerveseg.model.inference import Segmenter  # it imports torch

    places = np.unique(np.linspace(0, len(rows) - 1, _SCORER_FRAMES).astype(int))
    frames = [store.frame(row) for row in rows[places]]
    segmenter = Segmenter.load(models)
    differences = []
    try:
        scorer = mlflow.pyfunc.load_model(str(logged), suppress_warnings=True)
        for frame in frames:
            found = scorer.predict({"frames": frame[None]})["probability"][0]
            (expected,) = segmenter.probabilities([frame])
            differences.append(np.abs(found - expected).max())
    except Exception as error:  # it runs logged code, which may raise anything: it cannot be served
        trouble = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        return gate.same_probabilities(None, len(frames), trouble)
    largest = float(np.max(differences))
    if np.isnan(largest):
        return gate.same_probabilities(None, len(frames), "it returns NaN")
    return gate.same_probabilities(largest, len(frames))


def _is_recorded(candidate: Candidate, champion: Model) -> bool:
    """Whether recorded scores are compared: one has learned from all frames, and both have the same dataset."""
    ensemble = ENSEMBLE in candidate.tags or ENSEMBLE in champion.tags
    return ensemble and candidate.tags["dataset_sha256"] == champion.tags.get("dataset_sha256")


def _remark(candidate: Candidate, champion: Model) -> str:
    if champion.tags.get("dvc_split") == candidate.tags["dvc_split"]:
        return ""
    on = "all frames of another dataset" if ENSEMBLE in champion.tags else "another split"
    return f" (trained on {on}: it may have seen these frames in training, which favours it)"


def _scores(segmenter: "Segmenter", candidate: Candidate, evaluate: EvaluateParams) -> pd.DataFrame:
    """What a network scores on the candidate's frames, as `paired.score` makes it."""
    from nerveseg.evaluation import inference  # it imports torch

    found = inference.probabilities(candidate.store, candidate.rows, segmenter, f"scoring the {CHAMPION}")
    masks = ((row, segmenter.mask(probability)) for row, probability in found)
    return paired.score(candidate.store, masks, evaluate)


def _none(candidate: Candidate, evaluate: EvaluateParams) -> pd.DataFrame:
    return paired.score(candidate.store, (), evaluate).assign(version="")


def _read(per_image: Path) -> pd.DataFrame:
    return pd.read_csv(per_image, dtype={"image": str, "subject": str})


@contextmanager
def _usable(version: str) -> Iterator[None]:
    """Turns problems with the champion into an error that says what they prevent and how to fix them."""
    try:
        yield
    except NervesegError as error:
        reason = str(error)
    except MlflowException as error:
        if not versions.is_missing(error):
            raise
        reason = f"its run or model is gone ({error.message})"
    else:
        return
    raise NervesegError(
        f"The {CHAMPION}, version {version}, cannot be loaded, so nothing is registered: {reason.rstrip('.')}. "
        f"Fix it, move the alias {CHAMPION} to another version or remove it, or set register.gate: off."
    )
