"""What DVC has recorded in a dvc.lock."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nerveseg import paths
from nerveseg.errors import NervesegError

Stages = dict[str, dict[str, Any]]  # the stages in a dvc.lock, by name


def read_lock(folder: Path) -> Stages:
    """The stages of the dvc.lock in a folder; not to be changed, since calls share them.

    Raises:
        NervesegError: it is missing or damaged.
    """
    try:
        return _parse((folder / paths.DVC_LOCK).read_bytes())
    except (OSError, YAMLError, KeyError, TypeError, AttributeError) as error:
        raise NervesegError(f"there is no readable dvc.lock ({type(error).__name__})") from None


@lru_cache(maxsize=8)  # a verification reads the same file for each of its checks
def _parse(content: bytes) -> Stages:
    stages: Stages = YAML(typ="safe", pure=True).load(content)["stages"]
    for stage in stages.values():
        for part in (*stage.get("deps", []), *stage.get("outs", [])):
            part["path"]
    return stages


def locked_outs(stages: Stages) -> dict[str, str | None]:
    """DVC's hashes of all outs in a dvc.lock, by path."""
    return {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
