"""Clones of the repository in which the pipeline runs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from configobj import ConfigObj
from filelock import FileLock, Timeout
from rich.text import Text

from nerveseg import params, paths
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.settings import settings
from nerveseg.storage import Storage, open_storage
from nerveseg.workspace import commands

_EMBEDDED = "sqlite:///"  # followed by the path of a file: a tracking store without a server


def lasting_storage(uri: str, name: str) -> Storage:
    """The storage of the parameter `name`. Relative folders are in NERVESEG_STORAGE or, if unset, made absolute.

    Raises:
        NervesegError: it would be deleted with the clone in which a flow run works.
    """
    if "://" in uri:
        return open_storage(uri)
    if settings().storage and not Path(uri).is_absolute():
        return open_storage(f"{settings().storage}/{uri}")
    if settings().repository and not Path(uri).is_absolute():
        raise NervesegError(
            f"{name} is {uri}, a folder in the clone of this flow run, which is deleted afterwards: set it to "
            "s3://bucket/prefix or an absolute path, or set NERVESEG_STORAGE."
        )
    return open_storage(str(Path(uri).resolve()))


def clone(source: Path, target: Path, revision: str = "HEAD") -> None:
    """Clones a workspace's repository into `target`, which must not exist, with `revision` checked out.

    The clone uses the source's DVC cache, its local DVC configuration and its encoder weights, which are not in git.
    A revision that the source lacks is fetched from its origin.

    Raises:
        NervesegError: the source has no commit, or neither it nor its origin has the revision.
    """
    require_commit(source)
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
    _set_cache(target / local, commands.dvc(source, "cache", "dir"))
    shutil.copytree(source / paths.WEIGHTS, target / paths.WEIGHTS, dirs_exist_ok=True)


def require_commit(root: Path) -> None:
    """Raises NervesegError where a clone cannot be made: this is no git repository, or has no commit yet."""
    try:
        commands.run(root, "git", "rev-parse", "--verify", "HEAD")
    except NervesegError:
        raise NervesegError(
            f"{root.resolve()} is not a git repository with a commit, which is needed to make a clone: "
            "`git init && git add --all && git commit`."
        ) from None


def require_repository(here: Path) -> None:
    """Raises NervesegError unless `here`, the working directory, is the root of a repository that can be cloned; says
    that changes which are not committed are left behind.
    """
    from nerveseg import tracking  # it imports mlflow

    paths.require_root()
    require_commit(here)
    if tracking.git_tags()["git_changed"] == "true":
        said = Text.assemble(("Uncommitted code is not used:", "yellow"), " the folds run the code of the last commit.")
        console.print(said, soft_wrap=True)


def _set_cache(config: Path, cache: str) -> None:
    """What `dvc cache dir --local` does, which fails for a path that is not ASCII."""
    content = ConfigObj(str(config), encoding="utf-8")
    content.setdefault("cache", {})["dir"] = cache
    content.write()


def _fetch(source: Path, target: Path, revision: str) -> str:
    try:
        origin = commands.run(source, "git", "remote", "get-url", "origin")
        commands.run(target, "git", "fetch", "--quiet", origin, "--end-of-options", revision)
    except NervesegError as error:
        raise NervesegError(
            f"Revision {revision} is neither in {source.resolve()} nor at its origin. Fetch or push it.\n{error}"
        ) from None
    return commands.run(target, "git", "rev-parse", "FETCH_HEAD")


def keep_outside(here: Path) -> None:
    """Makes stages that run in a clone keep in `here` what outlives the clone: runs in MLflow, and checkpoints.

    Relative paths in the user's settings are relative to `here` too.
    """
    embedded = settings().tracking_uri.removeprefix(_EMBEDDED)
    if embedded != settings().tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = f"{_EMBEDDED}{here / embedded}"
    os.environ["NERVESEG_CHECKPOINTS"] = str(here / settings().checkpoints)
    settings.cache_clear()  # else MLflow's client would hand the relative address on to the stages


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new path in `folder` for a clone. It is deleted at the end, together with what killed processes left there.

    A lock shows which processes are alive, because process ids repeat in containers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with FileLock(folder / "lock"):
            for other in folder.glob("*/"):
                with suppress(OSError, Timeout), FileLock(other / "lock", blocking=False):  # just deleted, or in use
                    shutil.rmtree(other, ignore_errors=True)
            own = Path(tempfile.mkdtemp(dir=folder))
            held.enter_context(FileLock(own / "lock"))
        held.callback(shutil.rmtree, own, ignore_errors=True)
        yield own / "clone"


@contextmanager
def beside(here: Path, folder: Path) -> Iterator[Path]:
    """A clone in `folder`, as `scratch` keeps it, with the state and the dataset of the workspace `here`."""
    with scratch(folder) as root:
        clone(here, root)
        bring_state(here, root)
        link_dataset(here, root)
        yield root


def bring_state(source: Path, clone: Path) -> None:
    """Copies params.yaml, dvc.lock and the augmentations of the source into a clone, committed or not."""
    for path in (paths.PARAMS, paths.DVC_LOCK):
        if (source / path).exists():
            shutil.copyfile(source / path, clone / path)
    shutil.copytree(source / paths.AUGMENTATION, clone / paths.AUGMENTATION, dirs_exist_ok=True)


def link_dataset(source: Path, clone: Path) -> None:
    """Links a dataset that is a file or a folder in the source, outside git and DVC, into a clone."""
    uri = params.read_yaml(clone / paths.PARAMS)["data"]["uri"]  # of an older version, it may lack newer parameters
    file, link = source / uri, clone / uri
    if "://" not in uri and Path(uri) != paths.PHANTOM_ZIP and file.exists() and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
