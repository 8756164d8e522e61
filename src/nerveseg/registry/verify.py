"""Checks a version against its records, for `nerveseg verify` and for a delivery."""

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.table import Table
from rich.text import Text

from nerveseg import package, params, paths, tracking
from nerveseg.console import console
from nerveseg.data.frame_store import FrameStore, pixel_digest
from nerveseg.dvc_lock import locked_outs, read_lock
from nerveseg.errors import NervesegError, TransientError
from nerveseg.files import sha256
from nerveseg.modelcard import card
from nerveseg.modelcard.card import Card
from nerveseg.registry import bundle, delivery, versions
from nerveseg.registry.signatures import verify_key
from nerveseg.registry.verification import Check, checked, failures, of_network, of_record
from nerveseg.workspace import commands
from nerveseg.workspace.clones import lasting_storage


def check(version: str, folder: Path, *, is_delivered: bool = False) -> list[Check]:
    """Checks a version: its records, the parts in this repository and, if these pass, its network.

    Args:
        version: its number or an alias.
        folder: an empty folder for the version's files and `model.onnx`.
        is_delivered: it is what is delivered now.

    Raises:
        NervesegError: the tracking server failed.
    """
    with tracking.reachable("Nothing was verified."):
        checks = of_record(tracking.connect(), version, folder, is_delivered=is_delivered)
    if failures(checks):
        return checks
    checks += of_repository(folder)
    return checks if failures(checks) else checks + of_network(folder)


def of_repository(folder: Path) -> list[Check]:
    """Checks the parts of the chain outside MLflow, if they are here: dataset zip, frame store, code.

    A version may be checked where it was not made: what is not available here passes, and the check says so.

    Args:
        folder: contains the files fetched and checked by `of_record`.
    """
    record = card.read(folder / paths.CARD_JSON.name)
    members = record.network.members  # of the same dataset, but each with its own split
    outs = locked_outs(read_lock(folder / versions.recorded(members)[0]))
    try:
        outs_here = locked_outs(read_lock(Path()))
    except NervesegError:
        outs_here = {}

    def here(path: Path) -> Path | None:
        """The path, if its content belongs to this version and not to another one."""
        return path if path.exists() and outs_here.get(str(path)) == outs[str(path)] else None

    return [
        checked(
            "dataset here", lambda: _dataset(record, here(paths.DATASET_ZIP) or _cached(outs[str(paths.DATASET_ZIP)]))
        ),
        checked("split here", lambda: _split(record, here(paths.PACKED)) if members == 1 else _splits(members)),
        checked("code here", lambda: _code(record)),
    ]


def _cached(md5: str | None) -> Path | None:
    """A file in the DVC cache, if it is there."""
    try:
        cache = Path(commands.dvc(Path(), "cache", "dir"))
    except NervesegError:
        return None
    path = cache / "files" / "md5" / str(md5)[:2] / str(md5)[2:]
    return path if path.exists() else None


def _dataset(record: Card, path: Path | None) -> str:
    if path is None:
        return "not here; its records agree"
    _require(path, sha256(path), record.origins.dataset)
    return f"{path} matches the card"


def _split(record: Card, path: Path | None) -> str:
    if path is None:
        return "not here; its records agree"
    store = FrameStore.open(path)
    for row, (image, digest) in enumerate(zip(store.index["image"], store.index["sha256"], strict=True)):
        if pixel_digest(store.frame(row)) != digest:
            raise NervesegError(f"the pixels of {image} in {path} do not match its index")
    _require(path, store.digest(), record.origins.split)
    return f"{path} matches the card"


def _splits(members: int) -> str:
    return f"not compared: each of the {members} folds has its own split, and only their hashes are kept"


def _code(record: Card) -> str:
    code = record.origins.code
    commit = code.evaluation.get("git_commit")
    if commit is None:
        return "evaluated outside a git repository: no commit to compare with"
    if code.evaluation.get("git_changed") == "true":
        return f"evaluated with uncommitted changes on {commit}: nothing to compare with"
    source = package.committed(commit)
    if source is None:
        return f"commit {commit} is not here; its records agree"
    _require(f"the source at {commit}", source, code.source)
    return f"the source at {commit} matches the card"


def _require(what: Path | str, found: str, recorded: str) -> None:
    if found != recorded:
        raise NervesegError(f"{what} has SHA-256 {found}, but the card says {recorded}")


def _signature(version: str, folder: Path, key: Ed25519PublicKey) -> Check:
    """The bundle of a version, where it was delivered: its signature, its files, and that they are this version's."""
    with tracking.reachable("Nothing was verified."):
        model = versions.locate(tracking.connect(), version)
    if not model.tags.get(delivery.TAG, "").startswith(delivery.DELIVERED):
        return Check("signature", True, "not delivered, so nothing of it is signed")
    storage = lasting_storage(params.load().delivery.uri, "delivery.uri")
    place = f"{storage.uri}/{model.label}"
    try:
        sums = bundle.require_signed(storage, model.version, folder, key)
        others = bundle.altered(storage, model.label, sums)
    except TransientError:
        raise
    except (NervesegError, FileNotFoundError) as error:
        return Check("signature", False, str(error))
    if others:
        return Check("signature", False, f"{', '.join(others)} in {place} differ from what was signed")
    return Check("signature", True, f"{place}: {len(sums)} files as signed")


def verify(version: str) -> None:
    """Checks a version as a delivery does and prints what was found; with NERVESEG_VERIFY_KEY, its bundle too.

    Raises:
        NervesegError: it is not what was recorded of it or what was signed, or a server failed.
    """
    key, signature = verify_key(), None
    with tempfile.TemporaryDirectory() as name:
        checks = check(version, Path(name))
        if key is not None and not failures(checks):
            signature = _signature(version, Path(name), key)
    table = Table("check", "", "found", title=f"version {version}")
    for one in [*checks, *([signature] if signature else [])]:
        result = Text("passed", "green") if one.passed else Text("FAILED", "bold red")
        table.add_row(one.name, result, one.found)
    console.print(table)
    if reason := failures(checks):
        raise NervesegError(f"Version {version} must not be delivered: {reason}")
    if signature and not signature.passed:
        raise NervesegError(f"The bundle of version {version} must not be used: {signature.found}")
