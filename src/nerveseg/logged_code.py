"""The code that MLflow holds with a model and runs to load it: its hashes, recorded when it is logged.

Everything in the logged model's folder counts as code, MLmodel and requirements included, but for `artifacts/`, whose
files have hashes of their own, for what Python compiles, which is removed before anything is loaded, and for the name
and version that MLflow writes into a local folder when it loads a version from there.
"""

import shutil
from pathlib import Path

from nerveseg.errors import NervesegError
from nerveseg.files import parse_sums, sha256

SUMS = Path("reproduce/code.sha256")  # artifact of a model's run: `sums`, as `sha256sum` writes them
TAG = "sha256_code"  # of a run and its version: the SHA-256 of SUMS
_ARTIFACTS = "artifacts"
_COMPILED = "__pycache__"
_LOADED = Path("registered_model_meta")


def sums(logged: Path) -> dict[str, str]:
    """SHA-256 of each file of code in the folder of a logged model, by its relative name, sorted."""
    names = (path.relative_to(logged) for path in sorted(logged.rglob("*")) if path.is_file())
    code = [name for name in names if name.parts[0] != _ARTIFACTS and _COMPILED not in name.parts and name != _LOADED]
    return {name.as_posix(): sha256(logged / name) for name in code}


def require_same(listed: Path, logged: Path) -> int:
    """Compares the code in the folder of a logged model with the list made when it was logged.

    Returns:
        The number of files.

    Raises:
        NervesegError: a file was changed, added or removed since, or the list is damaged.
    """
    try:
        recorded = parse_sums(listed.read_bytes())
    except ValueError as error:
        raise NervesegError(f"{listed.name} is no list of hashes ({error})") from None
    found = sums(logged)
    changes = [f"{name} was changed" for name in recorded if name in found and found[name] != recorded[name]]
    changes += [f"{name} is missing" for name in recorded if name not in found]
    changes += [f"{name} was added" for name in found if name not in recorded]
    if changes:
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise NervesegError(f"the code logged with the model is not what was logged: {'; '.join(changes[:3])}{more}")
    return len(recorded)


def remove_compiled(logged: Path) -> None:
    """Removes what Python compiled from the code, which no hash covers."""
    for folder in sorted(logged.rglob(_COMPILED)):
        shutil.rmtree(folder)
