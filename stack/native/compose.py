"""Reads what the native harness needs from docker-compose.yml, and fills in variables like Compose."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from ruamel.yaml import YAML

from nerveseg.errors import NervesegError

COMPOSE_FILE = Path("docker-compose.yml")
ENVIRONMENT_FILE = Path(".env")
_GRACE = "20s"  # where the file gives none
_NAME = re.compile(r"\w+")


@dataclass(frozen=True)
class Mount:
    """A mount in a container: a named volume, or a path on the host."""

    source: str
    target: str

    @property
    def is_volume(self) -> bool:
        return not self.source.startswith((".", "/"))


@dataclass(frozen=True)
class Service:
    """A service in the compose file; `health` and `command` are argument lists."""

    name: str
    image: str
    command: list[str]
    environment: dict[str, str]
    mounts: list[Mount]
    depends_on: dict[str, str]  # name: condition
    health: list[str]
    restart: str
    profiles: list[str]
    grace: float  # seconds it has to end
    ports: list[str]  # published, "host:port:port"


def load(variables: Mapping[str, str]) -> dict[str, Service]:
    """The services in docker-compose.yml by name, in order.

    Raises:
        NervesegError: the file or a required variable is missing.
    """
    if not COMPOSE_FILE.exists():
        raise NervesegError(f"There is no {COMPOSE_FILE} here: run this in the root of the repository.")
    content = interpolate(YAML(typ="safe", pure=True).load(COMPOSE_FILE), variables)
    return {name: _service(name, entry) for name, entry in content["services"].items()}


def environment() -> dict[str, str]:
    """The variables in .env and in the shell, which take precedence.

    Raises:
        NervesegError: there is no .env.
    """
    if not ENVIRONMENT_FILE.exists():
        raise NervesegError("There is no .env: `python -m stack.environment` creates it.")
    return _variables(ENVIRONMENT_FILE) | dict(os.environ)


def _variables(file: Path) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(file, interpolate=False).items()}


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Fills in ${NAME}, ${NAME-default}, ${NAME:-default}, ${NAME?message} and ${NAME:?message} in all strings.

    With a colon, an empty variable counts as unset. Defaults may contain variables; `$$` is a dollar sign.

    Raises:
        NervesegError: a required variable is not set.
    """
    if isinstance(value, dict):
        return {key: interpolate(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolate(one, variables) for one in value]
    return _fill(value, variables) if isinstance(value, str) else value


def _fill(text: str, variables: Mapping[str, str]) -> str:
    before, dollar, rest = text.partition("$")
    if not dollar:
        return text
    if rest.startswith("$"):
        return f"{before}${_fill(rest[1:], variables)}"
    end = _closing(rest)
    return before + _expand(rest[1:end], variables) + _fill(rest[end + 1 :], variables)


def _closing(text: str) -> int:
    """The position of the brace that closes the one at the start of `text`."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return position if position else -1
    raise NervesegError(f"{COMPOSE_FILE}: a brace is not closed in {text}")


def _expand(expression: str, variables: Mapping[str, str]) -> str:
    match = _NAME.match(expression)
    if match is None:
        raise NervesegError(f"{COMPOSE_FILE}: ${{{expression}}} is not a variable")
    name, operator = match[0], expression[match.end() :]
    value = variables.get(name)
    if operator.startswith(":"):
        value, operator = value or None, operator[1:]
    if value is not None or not operator:
        return value or ""
    if operator[0] == "?":
        raise NervesegError(f"{name} is not set in .env: {operator[1:]}")
    return _fill(operator[1:], variables)


def _service(name: str, entry: dict[str, Any]) -> Service:
    needs = entry.get("depends_on", {})
    more: dict[str, str] = {}
    for file in entry.get("env_file", []):
        more |= _variables(Path(file["path"])) if Path(file["path"]).exists() else {}
    return Service(
        name=name,
        image=entry["image"],
        command=list(entry.get("command", [])),
        environment=more | {key: str(value) for key, value in entry.get("environment", {}).items()},
        mounts=[Mount(*volume.split(":")[:2]) for volume in entry.get("volumes", [])],
        depends_on={other: need["condition"] for other, need in needs.items()},
        health=entry.get("healthcheck", {}).get("test", [])[1:],  # without CMD
        restart=entry["restart"],
        profiles=entry.get("profiles", []),
        ports=entry.get("ports", []),
        grace=float(entry.get("stop_grace_period", _GRACE).removesuffix("s")),
    )
