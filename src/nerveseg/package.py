"""One digest of the Python source of this package: as it is running, and at a commit."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import nerveseg

_FOLDER = "src/nerveseg"  # in the repository


def source_digest(files: Mapping[str, bytes]) -> str:
    """The SHA-256 of the Python files of a package, given as content by relative path, in any order."""
    return _digest("".join(f"{_digest(files[name])}  {name}\n" for name in sorted(files) if name.endswith(".py")))


def running(parts: Iterable[str] = (_FOLDER,)) -> str:
    """`source_digest` of the running package, or of the files and folders of it that `parts` name as dvc.yaml does."""
    root = Path(nerveseg.__file__).parent
    places = [root / PurePosixPath(part).relative_to(_FOLDER) for part in parts]
    found = {path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])}
    return source_digest({path.relative_to(root).as_posix(): path.read_bytes() for path in found})


def committed(commit: str) -> str | None:
    """`source_digest` of the package at a commit of this repository; None if the commit is not available."""
    command = ("git", "archive", "--format=tar", commit, "--", _FOLDER)
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
        return source_digest({name.removeprefix(f"{_FOLDER}/"): file.read() for name, file in members if file})


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
