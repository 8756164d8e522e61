"""Folders in which the pipeline runs: clones of the repository, and git's and DVC's commands in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from nerveseg import paths
from nerveseg.errors import NervesegError
from nerveseg.settings import settings
from nerveseg.storage import Storage, open_storage


def run(root: Path, *command: str) -> str:
    """Runs a command in a workspace; returns what it printed.

    Raises:
        NervesegError: it failed; with the end of what it said.
    """
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise NervesegError(f"`{' '.join(command)}` failed in {root}:\n" + "\n".join(said))
    return done.stdout.strip()


def dvc(root: Path, *arguments: str) -> str:
    """Runs DVC in a workspace, as `run` does."""
    return run(root, sys.executable, "-m", "dvc", *arguments)


def environment(root: Path) -> dict[str, str]:
    """This process's environment, but `python` is this very one and imports the workspace's own code."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(root / "src"),
    }


def remote(root: Path) -> str | None:
    """The name of the workspace's default DVC remote, if it has one."""
    try:
        return dvc(root, "config", "core.remote")
    except NervesegError:  # DVC's answer where the option is not set
        return None


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
    run(source, "git", "clone", "--quiet", "--no-checkout", str(source.resolve()), str(target))
    try:
        commit = run(source, "git", "rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except NervesegError:
        commit = _fetch(source, target, revision)
    run(target, "git", "checkout", "--quiet", "--detach", commit)
    local = Path(".dvc/config.local")
    if (source / local).exists():
        shutil.copy(source / local, target / local)
    dvc(target, "cache", "dir", "--local", dvc(source, "cache", "dir"))
    shutil.copytree(source / paths.WEIGHTS, target / paths.WEIGHTS, dirs_exist_ok=True)


def _fetch(source: Path, target: Path, revision: str) -> str:
    try:
        origin = run(source, "git", "remote", "get-url", "origin")
        run(target, "git", "fetch", "--quiet", origin, "--end-of-options", revision)
    except NervesegError as error:
        raise NervesegError(
            f"Revision {revision} is neither in {source.resolve()} nor to be had from its origin. Fetch or push it.\n"
            f"{error}"
        ) from None
    return run(target, "git", "rev-parse", "FETCH_HEAD")
