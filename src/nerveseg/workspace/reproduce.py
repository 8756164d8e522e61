"""Restores the exact state a registered version came from, in its own clone: code, parameters, lock and data."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.files import read_json, write_json
from nerveseg.registry import versions
from nerveseg.workspace import clones, commands


def reproduce(version: str, target: Path) -> None:
    """Restores everything a version of `nerve-segmentation` was made from into `target`, which must not exist.

    Afterwards `dvc repro` there runs nothing. The folder appears complete or not at all.

    Args:
        version: its number.
        target: folder for the clone.

    Raises:
        NervesegError: this is not the repository, the folder exists, there is no such version, it has no record, or
            code or data are not available.
    """
    paths.require_root()
    clones.require_commit(Path())
    if target.exists():
        raise NervesegError(f"{target} exists: choose a new folder.")
    clones.keep_outside(Path.cwd())  # stages that run in the clone find the version's run
    beside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as recorded:
        with tracking.reachable("Nothing was restored."):
            client = tracking.connect()
            run_id, commit = versions.origin(client, version)
            client.download_artifacts(run_id, str(versions.REPRODUCE), recorded)
        try:
            console.print(f"code of commit {commit[:12]}")
            clones.clone(Path(), beside, commit)
            for path in (paths.PARAMS, paths.DVC_LOCK):
                shutil.copy(Path(recorded) / versions.REPRODUCE / path, beside / path)
            verdict = Path(recorded) / versions.VERDICT  # older versions, from before register.gate, have none
            receipt = versions.receipt(run_id, version, [], read_json(verdict) if verdict.exists() else None)
            _restore_outputs(beside, version, receipt)
            beside.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    console.print(f"{versions.NAME} version {version} is restored in {target}: `dvc repro` there runs nothing.")


def _restore_outputs(root: Path, version: str, receipt: dict[str, Any]) -> None:
    lock = YAML(typ="safe", pure=True).load(root / paths.DVC_LOCK)["stages"]
    console.print(f"data, model and reports of {', '.join(lock)}")
    # register records the lock before its own entry and report's are in it: they are made from the version instead.
    stages = [name for name in lock if name not in ("register", "report")]
    _fetch_outputs(root, stages, version)
    _restore_local_dataset(root)
    write_json(root / paths.REGISTRATION_JSON, receipt)
    _fetch_from_run(root, receipt["run_id"])
    commands.dvc(root, "commit", "--force", "register")
    if "report" in YAML(typ="safe", pure=True).load(root / paths.DVC_YAML)["stages"]:
        # What was cut off between the two stages has no report yet.
        done = ("commit", "--force") if (root / paths.REPORT).exists() else ("repro", "--single-item")
        commands.dvc(root, *done, "report")
    if "phantom" not in lock:  # if data.uri is not the phantom, nothing depends on it, and it may never have been made
        commands.dvc(root, "repro", "--single-item", "phantom")
    if _source_moved(root):
        _freeze_download(root)
        console.print(
            "[yellow]The object at data.uri has changed, or is not accessible from here:[/] download is frozen in "
            "dvc.yaml, so that it keeps the restored dataset; remove `frozen: true` to follow the source again.",
            soft_wrap=True,
        )
    stale = json.loads(commands.dvc(root, "status", "--json"))
    if stale:
        raise NervesegError(
            f"Version {version} cannot be restored exactly; DVC reports changes:\n{json.dumps(stale, indent=2)}"
        )


def _fetch_from_run(root: Path, run_id: str) -> None:
    """The card, the report and its figures as the run has them, where DVC has not restored them.

    Of older versions evaluate made the card and the figures, and register the report, if there is one.
    """
    wanted = (paths.CARD_JSON, paths.CARD, paths.METADATA_JSON, paths.REPORT, paths.FIGURES)
    with tracking.reachable("Nothing was restored."), tempfile.TemporaryDirectory() as folder:
        client = tracking.connect()
        there = {each.path for part in (None, str(paths.REPORTS)) for each in client.list_artifacts(run_id, part)}
        for path in wanted:
            artifact = path.name if path == paths.FIGURES else str(path)
            if artifact in there and not (root / path).exists():
                shutil.move(client.download_artifacts(run_id, artifact, folder), root / path)


def _fetch_outputs(root: Path, stages: list[str], version: str) -> None:
    try:
        commands.dvc(root, "checkout", *stages)
    except NervesegError:
        remote = commands.remote(root)
        fix = "`dvc push` them where the version was trained."
        if remote is None:
            raise NervesegError(
                f"Data or model of version {version} are not in the DVC cache, and no DVC remote is configured: {fix}"
            ) from None
        try:
            commands.dvc(root, "pull", *stages)
        except NervesegError as error:
            raise NervesegError(
                f"Data or model of version {version} are neither in the DVC cache nor on the DVC remote {remote}: "
                f"{fix}\n{error}"
            ) from None


def _restore_local_dataset(root: Path) -> None:
    """Puts a dataset that was a file in the original folder, outside git and DVC, back from its downloaded copy."""
    uri = _dataset_uri(root)
    path = root / uri
    if "://" not in uri and not Path(uri).is_absolute() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / paths.DATASET_ZIP, path)


def _freeze_download(root: Path) -> None:
    """Like `dvc freeze`, which refuses a stage with a templated dependency."""
    yaml = YAML()
    yaml.width = 4096  # no line is folded
    content = yaml.load(root / paths.DVC_YAML)
    content["stages"]["download"]["frozen"] = True
    yaml.dump(content, root / paths.DVC_YAML)


def _source_moved(root: Path) -> bool:
    """Whether the dataset's source is the only change DVC finds in download, or is not accessible."""
    try:
        changes = json.loads(commands.dvc(root, "status", "--json", "download")).get("download")
    except NervesegError:
        return True
    return changes is not None and [list(change.get("changed deps", {})) for change in changes] == [
        [_dataset_uri(root)]
    ]


def _dataset_uri(root: Path) -> str:
    uri: str = YAML(typ="safe", pure=True).load(root / paths.PARAMS)["data"]["uri"]
    return uri
