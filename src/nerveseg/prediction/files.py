"""Fetches a model from the registry, and predicts single files with it: `nerveseg predict`."""

import math
import tempfile
from pathlib import Path

from rich.table import Table
from rich.text import Text

from nerveseg import params, tracking
from nerveseg.console import console
from nerveseg.data.archive import decode_grey
from nerveseg.errors import NervesegError
from nerveseg.evaluation import metrics
from nerveseg.files import replacing
from nerveseg.prediction import pictures
from nerveseg.prediction.assessment import assess
from nerveseg.prediction.openvino import ONNX_FILE, OpenVinoScorer
from nerveseg.prediction.spacing import Spacing
from nerveseg.registry import bundle, delivery, verification, versions
from nerveseg.registry.signatures import verify_key
from nerveseg.registry.versions import Model
from nerveseg.workspace.clones import lasting_storage

_STYLES = {"typical": "cyan", "atypical": "bold red", "empty": "bold yellow", "unknown": "dim"}


def fetch(wanted: str, folder: Path) -> Model:
    """Fetches a model's files into `folder` and exports it there as `model.onnx`.

    Where NERVESEG_VERIFY_KEY is set, the files must be those of a bundle that was signed with it.

    Args:
        wanted: an alias, a version number or a run id.

    Raises:
        NervesegError: there is no such model, it is not what was recorded of it or what was signed, or the tracking
            server or the storage failed.
    """
    from nerveseg.model.network import load  # it imports torch
    from nerveseg.prediction.export import export

    with tracking.reachable("Nothing was predicted."):
        client = tracking.connect()
        model = versions.locate(client, wanted)
        if wanted == versions.CHAMPION and not model.tags.get(delivery.TAG, "").startswith(delivery.DELIVERED):
            raise NervesegError(
                f"Version {model.version} is champion, but not delivered yet: `python -m flows.deliver` verifies and "
                "delivers it. To use it as it is, give its number."
            )
        versions.fetch(client, model, folder)
        verification.require_recorded(client, model, folder)
    if (key := verify_key()) is not None:
        storage = lasting_storage(params.load().delivery.uri, "delivery.uri")
        bundle.require_signed(storage, model.version, folder, key)
    export(*load(folder), folder / ONNX_FILE)
    return model


def predict_files(files: list[Path], wanted: str, spacing: Spacing | None) -> None:
    """Writes `NAME_predicted_mask.png` and `NAME_predicted_overlay.png` next to each frame, and prints a table.

    Below it stands a sentence for each mask that is to be checked.

    Args:
        wanted: an alias, a version number or a run id.
        spacing: size of a pixel, for areas in mm²; None: unknown.

    Raises:
        NervesegError: there is no such model; or a file is not a frame, raised after all others are done.
    """
    problems, to_check = [], []
    with tempfile.TemporaryDirectory() as name:
        model = fetch(wanted, Path(name))
        scorer = OpenVinoScorer(Path(name), streams=1, threads=0)
        table = _table(f"{versions.NAME} {model.label}", spacing)
        stems: dict[Path, Path] = {}
        for file in files:
            if (other := stems.setdefault(file.with_suffix(""), file)) != file:
                problems.append(f"{file}: its mask would overwrite the one of {other}")
                continue
            try:
                frame, _ = decode_grey(file.read_bytes())
                probability = scorer.probability(frame)
                mask = scorer.mask(probability)
                pngs = {"mask": pictures.mask_png(mask), "overlay": pictures.overlay_png(frame, mask)}
                for kind, content in pngs.items():
                    with replacing(file.with_name(f"{file.stem}_predicted_{kind}.png")) as beside:
                        beside.write_bytes(content)
            except (OSError, ValueError, NervesegError) as error:
                problems.append(f"{file}: {getattr(error, 'strerror', None) or error}")
                continue
            area, atypicality = int(mask.sum()), scorer.atypicality(mask)
            assessment = assess(mask, atypicality, scorer.spec.plausibility)
            table.add_row(
                file.name,
                Text(assessment.kind, _STYLES[assessment.kind]),
                str(area),
                *([f"{spacing.area(area):.4g}"] if spacing else []),
                f"{metrics.confidence(probability, mask):.3f}" if area else "",
                "unknown" if math.isnan(atypicality) else f"{atypicality:.3f}",
                f"{file.stem}_predicted_*.png",
            )
            if assessment.kind != "typical":
                to_check.append((file, assessment))
    if table.row_count:
        console.print(table)
    for file, assessment in to_check:
        console.print(Text.assemble((file.name, _STYLES[assessment.kind]), f": {assessment.message}"), soft_wrap=True)
    if problems:
        raise NervesegError("Not predicted:\n" + "\n".join(problems))


def _table(title: str, spacing: Spacing | None) -> Table:
    table = Table(title=title)
    table.add_column("frame", overflow="fold")
    table.add_column("assessment", no_wrap=True)
    for number in ("area [px]", *(["area [mm²]"] if spacing else []), "confidence", "atypicality"):
        table.add_column(number, justify="right", no_wrap=True)
    table.add_column("mask and overlay", overflow="fold")
    return table
