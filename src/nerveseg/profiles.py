"""Profiles: overlays for params.yaml in `profiles/`."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from nerveseg import paths
from nerveseg.errors import NervesegError
from nerveseg.files import replacing
from nerveseg.params import flatten, parse, read_yaml, replaced


def find(name: str) -> Path:
    """The file of a profile: `profiles/NAME.yaml`, or the path itself.

    Raises:
        NervesegError: neither exists; lists the existing profiles.
    """
    for path in (paths.PROFILES / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in paths.PROFILES.glob("*.yaml"))) or "none"
    raise NervesegError(f"{name} is neither a file nor a profile. Profiles here: {known}.")


def apply(overlay: Path, target: Path = paths.PARAMS) -> dict[str, tuple[Any, Any]]:
    """Merges an overlay into a params file and keeps its comments.

    Returns:
        The changes: dotted name to (former, new) value.

    Raises:
        NervesegError: the overlay has unknown keys, or the merged params are invalid; the file is not changed.
    """
    return _apply(read_yaml(overlay), target, f"{target} with {overlay}")


def override(values: dict[str, Any], target: Path) -> None:
    """Sets parameters in a params file by their dotted names, such as `{"train.epochs": 8}`.

    Raises:
        NervesegError: a name is unknown, or the result is invalid; the file is not changed.
    """
    _apply(replaced({}, values), target, f"{target.name} with {', '.join(values)}")


def _apply(overlay: dict[str, Any], target: Path, name: str) -> dict[str, tuple[Any, Any]]:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # do not wrap lines
    former = flatten(read_yaml(target))
    content = yaml.load(target.read_text(encoding="utf-8"))
    _merge(content, overlay)
    parse(content, name)
    with replacing(target) as beside:
        yaml.dump(content, beside)
    return {name: (former.get(name), value) for name, value in flatten(content).items() if former.get(name) != value}


def _merge(content: dict[str, Any], overlay: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value
