"""Clones of the repository in which the pipeline runs."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from nerveseg import params, paths
from nerveseg.errors import NervesegError
from nerveseg.settings import settings
from nerveseg.storage import Storage, open_storage
from nerveseg.workspace import commands

_EMBEDDED = "sqlite:///"  # and the path of a file: a tracking store without a server


def lasting_storage(uri: str, name: str) -> Storage:
    """The storage of a parameter called `name`; a relative folder is one below NERVESEG_STORAGE, or else made absolute.

    Raises:
        NervesegError: it would go with the clone that a flow run works in.
    """
    if "://" in uri:
        return open_storage(uri)
    if settings().storage and not Path(uri).is_absolute():
        return open_storage(f"{settings().storage}/{uri}")
    if settings().repository and not Path(uri).is_absolute():
        raise NervesegError(
            f"{name} is {uri}, a folder of the clone that this flow run works in and that goes with it: set it to "
            "s3://bucket/prefix or to an absolute path, or set NERVESEG_STORAGE."
        )
    return open_storage(str(Path(uri).resolve()))


def clone(source: Path, target: Path, revision: str = "HEAD") -> None:
    """Clones a workspace's repository into `target`, a missing folder, with `revision` checked out.

    The clone has the source's DVC cache, its local DVC configuration and its encoder weights, which git does not carry.
    A revision that the source lacks is fetched from its origin.

    Raises:
        NervesegError: neither the source nor its origin has the revision.
    """
    commands.run(source, "git", "clone", "--quiet", "--no-checkout", str(source.resolve()), str(target))
    try:
        commit = commands.run(
            source, "git", "rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}"
        )
    except NervesegError:
        commit = _fetch(source, target, revision)
    commands.run(target, "git", "checkout", "--quiet", "--detach", commit)
    local = Path(".dvc/config.local")
    if (source / local).exists():
        shutil.copy(source / local, target / local)
    commands.dvc(target, "cache", "dir", "--local", commands.dvc(source, "cache", "dir"))
    shutil.copytree(source / paths.WEIGHTS, target / paths.WEIGHTS, dirs_exist_ok=True)


def _fetch(source: Path, target: Path, revision: str) -> str:
    try:
        origin = commands.run(source, "git", "remote", "get-url", "origin")
        commands.run(target, "git", "fetch", "--quiet", origin, "--end-of-options", revision)
    except NervesegError as error:
        raise NervesegError(
            f"Revision {revision} is neither in {source.resolve()} nor to be had from its origin. Fetch or push it.\n"
            f"{error}"
        ) from None
    return commands.run(target, "git", "rev-parse", "FETCH_HEAD")


def keep_outside(here: Path) -> None:
    """Lets stages that run in a clone leave what outlives it with `here`: runs in MLflow, and checkpoints.

    A relative setting of the user's own is one of `here` too.
    """
    embedded = settings().tracking_uri.removeprefix(_EMBEDDED)
    if embedded != settings().tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = f"{_EMBEDDED}{here / embedded}"
    os.environ["NERVESEG_CHECKPOINTS"] = str(here / settings().checkpoints)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A missing path below `folder` for a clone. It goes at the end, and so does what killed processes left there.

    A lock says who is alive: in containers, the ids of processes repeat.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with _locked(folder / "lock"):
            for other in folder.glob("*/"):
                with suppress(OSError), _locked(other / "lock", fcntl.LOCK_NB):  # it is in use, or just gone
                    shutil.rmtree(other, ignore_errors=True)
            own = Path(tempfile.mkdtemp(dir=folder))
            held.enter_context(_locked(own / "lock"))
        held.callback(shutil.rmtree, own, ignore_errors=True)
        yield own / "clone"


@contextmanager
def _locked(path: Path, options: int = 0) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | options)
        yield


def bring_state(source: Path, clone: Path) -> None:
    """Gives a clone the params.yaml and dvc.lock of the source as they are, committed or not."""
    for path in (paths.PARAMS, paths.DVC_LOCK):
        if (source / path).exists():
            shutil.copyfile(source / path, clone / path)


def link_dataset(source: Path, clone: Path) -> None:
    """Lets a clone see a dataset that is a file of the source, outside git and DVC."""
    uri = params.load(clone / paths.PARAMS).data.uri
    file, link = source / uri, clone / uri
    if "://" not in uri and Path(uri) != paths.PHANTOM_ZIP and file.is_file() and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
