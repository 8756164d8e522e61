"""Whether a version is what was recorded of it: what `nerveseg verify` prints and a delivery asks."""

import subprocess
import tempfile
from pathlib import Path

from rich.table import Table

from nerveseg import paths, tracking, workspace
from nerveseg.console import console
from nerveseg.data.packed import Packed, pixel_digest
from nerveseg.errors import NervesegError
from nerveseg.evaluation import card, provenance
from nerveseg.evaluation.card import Card
from nerveseg.files import sha256
from nerveseg.registry.verification import Check, failures, locked_outs, of_network, of_record, read_lock


def check(version: str, folder: Path) -> list[Check]:
    """Checks a version: what is recorded of it, what of it is in this repository, and, if all holds, its network.

    Args:
        version: its number or an alias.
        folder: an empty folder; gets the version's files and `model.onnx`.

    Raises:
        NervesegError: the tracking server failed.
    """
    with tracking.reachable("Nothing was verified."):
        checks = of_record(tracking.connect(), version, folder)
    if failures(checks):
        return checks
    checks += of_repository(folder)
    return checks if failures(checks) else checks + of_network(folder)


def of_repository(folder: Path) -> list[Check]:
    """The parts of the chain that lie outside MLflow, where they are here: dataset zip, packed frames, code.

    A version may be checked where it was not made: what is not here passes, and the check says so.

    Args:
        folder: holds what `of_record` brought and found right.
    """
    record, version_outs = card.read(folder / paths.CARD_JSON.name), locked_outs(read_lock(folder))
    try:
        outs_here = locked_outs(read_lock(Path()))
    except NervesegError:
        outs_here = {}
    of_version = {path for path in version_outs if outs_here.get(path) == version_outs[path]}
    return [
        _dataset(record, version_outs[str(paths.DATASET_ZIP)], str(paths.DATASET_ZIP) in of_version),
        _split(record, str(paths.PACKED) in of_version),
        _code(record),
    ]


def _dataset(record: Card, md5: str | None, is_here: bool) -> Check:
    title, recorded = "dataset here", record.origins.dataset
    path = paths.DATASET_ZIP if is_here and paths.DATASET_ZIP.exists() else _cached(md5)
    if path is None:
        return Check(title, True, "neither here nor in the DVC cache; only the recorded hash was compared")
    found = sha256(path)
    return Check(title, found == recorded, found if found == recorded else f"{path} has {found}, not {recorded}")


def _cached(md5: str | None) -> Path | None:
    """A file of the DVC cache, if there is a cache and the file in it."""
    try:
        cache = Path(workspace.dvc(Path(), "cache", "dir"))
    except NervesegError:
        return None
    path = cache / "files" / "md5" / str(md5)[:2] / str(md5)[2:]
    return path if path.exists() else None


def _split(record: Card, is_here: bool) -> Check:
    title = "split here"
    if not is_here or not paths.PACKED.exists():
        return Check(title, True, f"{paths.PACKED} is not here, or another one; only DVC's hashes were compared")
    try:
        packed = Packed.open(paths.PACKED)
    except NervesegError as error:
        return Check(title, False, str(error))
    changed = [
        image
        for row, (image, digest) in enumerate(zip(packed.index["image"], packed.index["sha256"], strict=True))
        if pixel_digest(packed.frame(row)) != digest
    ]
    if changed:
        return Check(title, False, f"{paths.PACKED} has other pixels than its index says: {', '.join(changed[:3])}")
    found, recorded = packed.digest(), record.origins.split
    return Check(
        title, found == recorded, found if found == recorded else f"{paths.PACKED} has {found}, not {recorded}"
    )


def _code(record: Card) -> Check:
    title, code = "code here", record.origins.code
    commit = code.evaluation.get("git_commit")
    if commit is None:
        return Check(title, True, "evaluated outside a git repository: there is no commit to compare with")
    if code.evaluation.get("git_changed") == "true":
        return Check(title, True, f"evaluated with changes on {commit[:12]} that no commit holds: nothing to compare")
    done = subprocess.run(("git", "archive", "--format=tar", commit, "--", provenance.PACKAGE), capture_output=True)
    if done.returncode:
        return Check(title, True, f"commit {commit[:12]} is not here; only what is recorded of it was compared")
    found = provenance.archived_source(done.stdout)
    if found != code.source:
        return Check(title, False, f"the source at {commit[:12]} has {found}, but {code.source} made the figures")
    return Check(title, True, f"the source at {commit[:12]} made the figures")


def verify(version: str) -> None:
    """Checks a version as a delivery does and prints what was found.

    Raises:
        NervesegError: it is not what was recorded of it, or the tracking server failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        checks = check(version, Path(folder))
    table = Table("check", "", "found", title=f"version {version}")
    for one in checks:
        table.add_row(one.name, "[green]passed[/]" if one.passed else "[bold red]FAILED[/]", one.found)
    console.print(table)
    if reason := failures(checks):
        raise NervesegError(f"Version {version} must not be delivered: {reason}")
