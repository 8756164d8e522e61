"""`nerveseg compare`: two models on the same frames, as a page, as files and on the terminal."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from nerveseg import params, paths
from nerveseg.compare import sides
from nerveseg.console import console
from nerveseg.data.frame_store import SITE, FrameStore
from nerveseg.errors import NervesegError
from nerveseg.evaluation import empty, figures, paired
from nerveseg.evaluation.figures import interval, number
from nerveseg.evaluation.paired import Pair
from nerveseg.files import replacing_folder, write_json
from nerveseg.report import beside
from nerveseg.settings import settings

_PAGE, _FRAMES, _SUMMARY = "index.html", "frames.csv", "comparison.json"
_EXAMPLES = 10  # frames that are printed


def compare(a: str, b: str, folder: Path) -> None:
    """Scores both models on the same frames of `data/packed`; prints and writes the differences.

    Args:
        a, b: as for `sides.find`.
        folder: a new or empty folder, or one of a former comparison, which is replaced.

    Raises:
        NervesegError: like `sides.find` and `sides.common`; params.yaml or data/packed is missing or damaged; the
            folder holds something else.
    """
    paths.require_root()
    _require_free(folder)
    evaluate, store = params.load().evaluate, FrameStore.open(paths.PACKED)
    device = settings().device
    with tempfile.TemporaryDirectory() as name:
        found = (sides.find("A", a, Path(name) / "a"), sides.find("B", b, Path(name) / "b"))
        rows, which = sides.common(found, store, evaluate)
        first, second = (paired.score(store, sides.masks(side, store, rows, device), evaluate) for side in found)
    pair = Pair.of(store, ("A", "B"), first, second, evaluate)
    remarks = [said for side in found if (said := sides.remark(side, store, rows))]
    where = f"{len(rows)} frames {which}"
    models, rule = {side.letter: side.label for side in found}, empty.describe(evaluate.empty)
    with replacing_folder(folder) as part:
        beside.render(store, pair, models, where, remarks, rule).write(part / _PAGE)
        _table(pair).to_csv(part / _FRAMES, index=False, float_format="%.6f")
        write_json(part / _SUMMARY, _summary(pair, models, where, remarks, rule))
    _print(pair, models, where, remarks)
    console.print(f"Frame by frame, with the outlines of both: {folder / _PAGE}", soft_wrap=True)


def _require_free(folder: Path) -> None:
    if folder.is_dir() and ((folder / _SUMMARY).exists() or not any(folder.iterdir())):
        return
    if folder.exists() or folder.is_symlink():
        raise NervesegError(f"{folder} would be replaced, and is no comparison: name a new folder.")


def _table(pair: Pair) -> pd.DataFrame:
    """What `frames.csv` holds."""
    known = pair.frames.columns.intersection(["image", "subject", SITE, "agreement", "difference"], sort=False)
    others = pair.frames.columns.difference([*known, "row", "rle_mask_a", "rle_mask_b"], sort=False)
    return pair.frames.sort_values("agreement", kind="stable")[[*known, *others]]


def _summary(pair: Pair, models: dict[str, str], where: str, remarks: list[str], rule: str) -> dict[str, Any]:
    """What `comparison.json` holds."""
    return {
        "a": models["A"],
        "b": models["B"],
        "frames": len(pair.frames),
        "subjects": pair.frames["subject"].nunique() if pair.subjects_known else None,
        "compared_on": where,
        "remarks": remarks,
        "empty_rule": rule,
        "figures": {
            each.figure.column: {
                "a": _plain(each.first),
                "b": _plain(each.second),
                "difference": _plain(each.difference.value),
                "difference_ci": each.difference.interval,
                "frames_a": each.frames[0],
                "frames_b": each.frames[1],
            }
            for each in pair.differences
        },
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value


def _print(pair: Pair, models: dict[str, str], where: str, remarks: list[str]) -> None:
    for name, what in models.items():
        console.print(Text.assemble((name, "bold"), f": {what}"), soft_wrap=True)
    for remark in remarks:
        console.print(Text(remark, "yellow"), soft_wrap=True)
    intervals = figures.intervals(pair.subjects_known).partition(";")[0]
    table = Table(title=where, title_justify="left", caption=intervals, caption_justify="left")
    table.add_column("mean over frames")
    for column in ("A", "B", "B - A", "95 % interval", "in favour of"):
        table.add_column(column, justify="right")
    for each, favoured in zip(pair.differences, beside.favours(pair), strict=True):
        means = (number(value) for value in (each.first, each.second))
        difference = beside.signed(each.difference.value, 4)
        table.add_row(each.figure.label, *means, difference, interval(each.difference.interval), favoured)
    console.print(table)
    frames = Table(title=f"The frames on which the masks differ most, of {len(pair.frames)}", title_justify="left")
    frames.add_column("frame")
    frames.add_column("subject")
    for column in ("Dice between the two", "Dice of A", "Dice of B", "B - A"):
        frames.add_column(column, justify="right")
    for row in beside.most_different(pair, _EXAMPLES).to_dict("records"):
        scores = (number(row[name], 3) for name in ("agreement", "dice_a", "dice_b"))
        frames.add_row(row["image"], str(row["subject"]), *scores, beside.signed(row["difference"], 3))
    console.print(frames)
