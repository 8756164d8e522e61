"""Restores the exact state a registered version came from, in its own clone: code, parameters, lock and data."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from rich.text import Text
from ruamel.yaml import YAML

from nerveseg import paths, tracking
from nerveseg.console import console
from nerveseg.data.frame_store import FrameStore
from nerveseg.dvc_lock import locked_outs, read_lock
from nerveseg.errors import NervesegError, TransientError
from nerveseg.files import read_json, sha256, write_json
from nerveseg.model.ensemble import join
from nerveseg.registry import verification, versions
from nerveseg.registry.versions import Model
from nerveseg.workspace import clones, commands

_AGAIN = (  # how a fold is made again: up to which stage, which out must be as recorded, and why it may not be
    ("split", paths.PACKED, "the dataset at data.uri is no longer that of the version."),
    (
        "evaluate",
        paths.MODEL_WEIGHTS,
        "weights are the same on the same kind of machine only. Restore the DVC cache, or run `dvc exp push` the "
        "folds where the version was trained.",
    ),
)


def reproduce(version: str, target: Path) -> None:
    """Restores everything a version of `nerve-segmentation` was made from into `target`, which must not exist.

    Afterwards `dvc repro` there runs nothing. Of an ensemble, the first fold is left there, up to evaluate, and
    `crossval/` holds the networks of all folds and the ensemble, joined again: the same bytes as the version. A fold
    that neither cache nor remote has is trained again. The folder appears complete or not at all.

    Args:
        version: its number.
        target: folder for the clone.

    Raises:
        NervesegError: this is not the repository, the folder exists, there is no such version, it has no record,
            code or data are not available, or the networks of an ensemble became others.
    """
    paths.require_root()
    clones.require_commit(Path())
    if target.exists():
        raise NervesegError(f"{target} exists: choose a new folder.")
    here = Path.cwd()
    clones.keep_outside(here)  # stages that run in the clone find the version's run
    beside = target.absolute().with_name(f".{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tracking.reachable("Nothing was restored."):
        model = versions.origin(tracking.connect(), version)
    try:
        console.print(f"code of commit {model.tags['git_commit'][:12]}")
        clones.clone(here, beside, model.tags["git_commit"])
        if model.members > 1:
            with commands.alone_in(here / commands.FOLDS_LOCK, "a cross-validation", console.print) as lock:
                _restore_ensemble(model, here, beside, lock)
        else:
            _restore_single(model, version, beside)
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    runs_nothing = "`dvc repro evaluate`" if model.members > 1 else "`dvc repro`"
    console.print(
        f"{versions.NAME} version {version} is restored in {target}: {runs_nothing} there runs nothing.",
        soft_wrap=True,
    )


def _restore_single(model: Model, version: str, root: Path) -> None:
    with tempfile.TemporaryDirectory() as recorded:
        with tracking.reachable("Nothing was restored."):
            client = tracking.connect()
            client.download_artifacts(model.run_id, str(versions.REPRODUCE), recorded)
            verdict = Path(recorded) / versions.VERDICT  # older versions, from before register.gate, have none
            gate = read_json(verdict) if verdict.exists() else None
            receipt = versions.receipt(client, model.run_id, version, [], gate)
        _bring_recorded(Path(recorded) / versions.REPRODUCE, root)
    _restore_outputs(root, version, receipt)


def _restore_ensemble(model: Model, here: Path, root: Path, lock: BinaryIO) -> None:
    """Restores each fold in `root`, and joins their networks in `crossval/`, beside the version's records."""
    folder = root / paths.CROSSVAL
    folder.mkdir()
    with tracking.reachable("Nothing was restored."):
        versions.fetch(tracking.connect(), model, folder)
    parts = [folder / part for part in versions.recorded(model.members)]
    for number, part in reversed(list(enumerate(parts, start=1))):  # the first fold comes last, and stays in `root`
        name = f"fold {number} of {len(parts)}"
        trained = _restore_fold(name, part, here, root, lock)
        shutil.copytree(root / paths.MODELS, part / paths.MODELS)
        done = "trained again, to the same weights" if trained else "restored"
        console.print(Text.assemble((name, "bold"), f": {done}"))
    _require_unchanged(root, ("--with-deps", "evaluate"), model.label)
    join([part / paths.MODELS for part in parts], FrameStore.open(root / paths.PACKED), folder)
    for name in ("weights", "spec"):
        path, recorded = folder / versions.FILES[name].name, model.tags.get(f"sha256_{name}")
        if (found := sha256(path)) != recorded:
            raise NervesegError(
                f"{path.name}, joined again from the {len(parts)} networks, has SHA-256 {found}, but version "
                f"{model.label} is tagged with {recorded or 'none'}: run `nerveseg reproduce` from the commit of the "
                f"version, {model.tags['git_commit']}, and `nerveseg verify {model.label}`."
            )
    with tracking.reachable("Nothing was restored."):
        verification.require_figures(tracking.connect(), model, folder)


def _restore_fold(name: str, recorded: Path, here: Path, root: Path, lock: BinaryIO) -> bool:
    """Restores a fold up to evaluate from cache or remote, or else makes it again; returns whether it was trained.

    Args:
        name: of the fold, for messages.
        recorded: folder with its params.yaml and dvc.lock.
        here: the workspace.
        root: the clone.
        lock: the file from `commands.alone_in`.

    Raises:
        NervesegError: the dataset is not available or another one, or the training gave other weights.
    """
    try:
        recorded_stages = read_lock(recorded)
        _bring_recorded(recorded, root)
    except (NervesegError, FileNotFoundError):
        raise NervesegError(
            f"{name} cannot be restored: its {paths.PARAMS} and {paths.DVC_LOCK} are not among the artifacts of the "
            f"version's run, in {versions.REPRODUCE}/{recorded.name}/."
        ) from None
    stages = [stage for stage in recorded_stages if stage not in ("register", "report")]
    missing = None
    try:
        _fetch_outputs(root, stages, name, "dvc exp push")
    except NervesegError as error:
        missing = error
    if (root / paths.DATASET_ZIP).exists():
        _restore_local_dataset(root)
        _hold_source(root)
    else:
        clones.link_dataset(here, root)
    if missing is None:
        return False
    console.print(Text.assemble((f"{name} is made again:", "yellow"), f" {missing}"), soft_wrap=True)
    return _make_again(name, locked_outs(recorded_stages), root, lock)


def _make_again(name: str, recorded: dict[str, str | None], root: Path, lock: BinaryIO) -> bool:
    """Runs what is missing of a fold; returns whether it was trained. Raises NervesegError if an out of `_AGAIN` is not
    as recorded."""
    said = []
    for stage, out, why in _AGAIN:
        try:
            said += commands.supervised_dvc(root, name, ("repro", stage), lock, _say)
        except commands.StageError as error:
            raise (TransientError if error.transient else NervesegError)(str(error)) from None
        found, wanted = locked_outs(read_lock(root)).get(str(out)), recorded.get(str(out))
        if found != wanted:
            raise NervesegError(f"{name} was made again, but {out} has the MD5 {found} instead of {wanted}: {why}")
    return "Running stage 'train':" in said


def _say(line: str) -> None:
    console.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def _bring_recorded(recorded: Path, root: Path) -> None:
    for path in (paths.PARAMS, paths.DVC_LOCK):
        shutil.copy(recorded / path, root / path)


def _restore_outputs(root: Path, version: str, receipt: dict[str, Any]) -> None:
    lock = read_lock(root)
    console.print(f"data, model and reports of {', '.join(lock)}")
    # register records the lock before its own entry and report's are in it: they are made from the version instead.
    stages = [name for name in lock if name not in ("register", "report")]
    _fetch_outputs(root, stages, f"version {version}", "dvc push")
    _restore_local_dataset(root)
    write_json(root / paths.REGISTRATION_JSON, receipt)
    _fetch_from_run(root, receipt["run_id"])
    # check records sections of params.yaml that no other stage depends on, and may not have run since they changed.
    commands.dvc(root, "commit", "--force", *["check"] * ("check" in lock), "register")
    if "report" in YAML(typ="safe", pure=True).load(root / paths.DVC_YAML)["stages"]:
        # What was cut off between the two stages has no report yet.
        done = ("commit", "--force") if (root / paths.REPORT).exists() else ("repro", "--single-item")
        commands.dvc(root, *done, "report")
    if "phantom" not in lock:  # if data.uri is not the phantom, nothing depends on it, and it may never have been made
        commands.dvc(root, "repro", "--single-item", "phantom")
    _hold_source(root)
    _require_unchanged(root, (), version)


def _hold_source(root: Path) -> None:
    """Keeps download from following a source that has changed."""
    if _source_moved(root):
        _freeze_download(root)
        said = (
            " download is frozen in dvc.yaml, so that it keeps the restored dataset; remove `frozen: true` to follow "
            "the source again."
        )
        changed = "The object at data.uri has changed, or is not accessible from here:"
        console.print(Text.assemble((changed, "yellow"), said), soft_wrap=True)


def _require_unchanged(root: Path, which: tuple[str, ...], version: str) -> None:
    stale = json.loads(commands.dvc(root, "status", "--json", *which))
    if stale:
        raise NervesegError(
            f"Version {version} cannot be restored exactly; DVC reports changes:\n{json.dumps(stale, indent=2)}"
        )


def _fetch_from_run(root: Path, run_id: str) -> None:
    """The card, the champion's scores, the report and its figures as the run has them, where DVC has not restored them.

    Of older versions evaluate made the card and the figures, and register the report, if there is one.
    """
    wanted = (
        *(paths.CARD_JSON, paths.CARD, paths.METADATA_JSON, paths.CHAMPION_SCORES),
        *(paths.REPORT, paths.REPORT_FRAMES, paths.FIGURES),
    )
    with tracking.reachable("Nothing was restored."), tempfile.TemporaryDirectory() as folder:
        client = tracking.connect()
        there = {each.path for part in (None, str(paths.REPORTS)) for each in client.list_artifacts(run_id, part)}
        for path in wanted:
            artifact = path.name if path == paths.FIGURES else str(path)
            if artifact in there and not (root / path).exists():
                shutil.move(client.download_artifacts(run_id, artifact, folder), root / path)


def _fetch_outputs(root: Path, stages: list[str], whose: str, push: str) -> None:
    try:
        commands.dvc(root, "checkout", *stages)
    except NervesegError:
        remote = commands.remote(root)
        fix = f"`{push}` them where the version was trained."
        if remote is None:
            raise NervesegError(
                f"Data or model of {whose} are not in the DVC cache, and no DVC remote is configured: {fix}"
            ) from None
        try:
            commands.dvc(root, "pull", *stages)
        except NervesegError as error:
            raise NervesegError(
                f"Data or model of {whose} are neither in the DVC cache nor on the DVC remote {remote}: {fix}\n{error}"
            ) from None


def _restore_local_dataset(root: Path) -> None:
    """Puts a dataset that was a file in the original folder, outside git and DVC, back from its downloaded copy.

    Of one that was a folder, download keeps the zip that was made of it.
    """
    uri = _dataset_uri(root)
    path = root / uri
    was_folder = "objects" in read_json(root / paths.SOURCE_JSON)
    if not was_folder and "://" not in uri and not Path(uri).is_absolute() and not path.exists():
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
    changed = [[dep.rstrip("/") for dep in change.get("changed deps", {})] for change in changes or []]
    return changed == [[_dataset_uri(root).rstrip("/")]]


def _dataset_uri(root: Path) -> str:
    uri: str = YAML(typ="safe", pure=True).load(root / paths.PARAMS)["data"]["uri"]
    return uri
