"""One digest of the Python source of this package: as it is running, and at a commit."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import nerveseg

_FOLDER = "src/nerveseg"  # in the repository


def source_digest(files: Mapping[str, bytes]) -> str:
    """The SHA-256 of the Python files of a package, given as content by relative path, in any order."""
    return _digest("".join(f"{_digest(files[name])}  {name}\n" for name in sorted(files) if name.endswith(".py")))


def running() -> str:
    """`source_digest` of the running package."""
    root = Path(nerveseg.__file__).parent
    return source_digest({path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")})


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
