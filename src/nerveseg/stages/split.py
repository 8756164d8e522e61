"""Checks every frame of the dataset zip, decodes it once into memory-mapped arrays, and divides the subjects."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from nerveseg import paths
from nerveseg.console import console
from nerveseg.data import checks, clusters, findings, folds, quarantine, subjects
from nerveseg.data import frame_store as store
from nerveseg.data.archive import Archive
from nerveseg.data.layouts import detect
from nerveseg.data.layouts.dataset import Choices
from nerveseg.errors import NervesegError
from nerveseg.files import replacing_folder, write_json
from nerveseg.params import Params
from nerveseg.stages import main


def run(params: Params) -> None:
    """Writes data/packed; where the dataset has errors, data/findings.json instead.

    Raises:
        NervesegError: the zip cannot be used, has errors, or cannot be divided as asked.
    """
    paths.FINDINGS_JSON.unlink(missing_ok=True)
    with replacing_folder(paths.PACKED) as folder, Archive(paths.DATASET_ZIP) as archive:
        listed = detect.find(archive, params.data.layout, Choices(params.data.classes, params.data.mask_suffixes))
        set_aside = params.data.quarantine
        # With frames set aside, folds of subjects and random folds have the same frames, as the leakage audit needs.
        dataset = subjects.assign(listed, params.data.subject, required=params.split.by != "frame" or set_aside)
        with store.Writer(folder) as writer:
            keep_empty = params.data.frames == "all"
            report = checks.check(archive, dataset, partial(_store, writer), keep_empty=keep_empty, set_aside=set_aside)
        if report["errors"] and (why := _refusal(report, params.data.quarantine_cap)):
            _refuse(report, why)
        findings.show(report["findings"], paths.PACKED / store.FINDINGS)
        frames = writer.frames()
        frames["cluster"] = clusters.near_identical(frames["dhash"].tolist(), params.split.near_duplicate)
        side = folds.assign(frames, params.split, report["subjects_read"])
        index = writer.write_index(side, frames["cluster"].to_numpy())
        leaks = folds.check_leaks(index, params.split.by == "frame", report["subjects_known"])
        findings.show(leaks, paths.PACKED / store.FINDINGS)
        report["findings"] += leaks
        report["warnings"] += len(leaks)
        _write(folder / store.FINDINGS, report)
    console.print(folds.table(index))
    if set_aside:
        where = f" {paths.PACKED / store.FINDINGS} lists them." if report["set_aside"] else ""
        number = f"{report['frames_set_aside']} of {report['frames']}"
        console.print(f"Frames set aside because of errors: {number}.{where}", soft_wrap=True)
    console.print(report["subjects_read"], soft_wrap=True)


def _store(writer: store.Writer, pair: checks.Pair) -> None:
    record = pair.record
    writer.append(
        record.image,
        record.group,
        record.fold,
        pair.frame,
        pair.mask,
        record.site,
        record.spacing_mm,
        area=pair.area,
        hashed=pair.hashes,
    )


def _refusal(report: dict[str, Any], cap: float) -> str:
    """Why a dataset with errors is rejected, as a part of a sentence; empty: frames are set aside instead."""
    if "set_aside" in report:
        return quarantine.refusal(report, cap)
    return f"has {findings.counted(report['findings'], 'error')}"


def _refuse(report: dict[str, Any], why: str) -> None:
    report["frames_used"] = 0
    _write(paths.FINDINGS_JSON, report)
    findings.show(report["findings"], paths.FINDINGS_JSON)
    raise NervesegError(
        f"{paths.DATASET_ZIP} {why}; nothing was stored, and {paths.FINDINGS_JSON} lists them all. Change the "
        "parameter that a finding names, or mend the dataset at its source (data.uri)."
    )


def _write(path: Path, report: Mapping[str, Any]) -> None:
    write_json(path, {**report, "findings": [asdict(finding) for finding in report["findings"]]})


if __name__ == "__main__":
    main(run)
