"""Joins the networks of the folds of a dataset into one model."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from nerveseg.console import progress
from nerveseg.data.frame_store import FrameStore
from nerveseg.model import plausibility
from nerveseg.model.spec import ModelSpec, read_spec


def join(parts: Sequence[Path], store: FrameStore, folder: Path) -> None:
    """Writes `model.safetensors` and `model.json` of the ensemble: the same bytes from the same members and frames.

    Args:
        parts: the `models/` of each fold, in order.
        store: all frames; which side of the split they are on does not matter.
        folder: exists.

    Raises:
        NervesegError: a file is missing or damaged, or the members are of different kinds.
    """
    from nerveseg.model.network import save_ensemble  # it imports torch

    save_ensemble(parts, _spec([read_spec(part) for part in parts], store), folder)


def _spec(specs: Sequence[ModelSpec], store: FrameStore) -> ModelSpec:
    """A member's spec with the mean of all thresholds, and the statistics of all masks: each was in some training."""
    with progress("masks") as bar:
        masks = plausibility.fit(store.mask(row) for row in bar.track(range(len(store)), description="all masks"))
    threshold = statistics.mean(spec.threshold for spec in specs)
    return specs[0].model_copy(update={"threshold": threshold, "plausibility": masks})
