"""`python -m stack.environment` writes .env from .env.example, once, with a random secret for each empty NAME=."""

import os
import secrets
from pathlib import Path

EXAMPLE = Path(".env.example")
ENVIRONMENT = Path(".env")


def fill(example: str) -> str:
    """The text of .env.example with random secrets: 32 letters, digits, `-` and `_` each."""
    lines = [
        f"{line}{secrets.token_urlsafe(24)}" if line.endswith("=") and line[0] != "#" else line
        for line in example.splitlines()
    ]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Writes .env, readable only by its owner; an existing one is kept."""
    if ENVIRONMENT.exists():
        return
    beside = ENVIRONMENT.with_name(".env.partial")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(fill(EXAMPLE.read_text()))
    beside.rename(ENVIRONMENT)
    print("wrote .env with random secrets")


if __name__ == "__main__":
    write()
