"""Registered versions that are not what they say."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from safetensors.numpy import load_file, save

from nerveseg.files import sha256
from nerveseg.modelcard import provenance
from nerveseg.modelcard.card import Card
from workspace import Workspace

NAME = "nerve-segmentation"


def register_again(workspace: Workspace, change_weights: Callable[[dict[str, Any]], None] | None = None) -> str:
    """Registers `models/` as a version of its own, as a tracking server that lacks its run does; returns it."""
    record = workspace.root / "models" / "run.json"
    replace(record, json.dumps({**json.loads(record.read_text()), "run_id": os.urandom(16).hex()}).encode())
    with contextlib.ExitStack() as stack:
        if change_weights:
            weights = workspace.root / "models" / "model.safetensors"
            state = load_file(weights)
            change_weights(state)
            stack.enter_context(changed(weights, lambda _: save(state)))
        workspace.stage("register")
    version: str = json.loads((workspace.root / "reports" / "registration.json").read_text())["version"]
    return version


def forge(card: bytes, **origins: Any) -> bytes:
    """The card with other origins and the chain that follows from them."""
    record = Card.model_validate_json(card)
    changed = record.origins.model_copy(update=origins)
    forged = record.model_copy(update={"origins": changed, "provenance": provenance.chain(changed)})
    return forged.model_dump_json().encode()


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """A file with other content, for a while."""
    content = path.read_bytes()
    replace(path, change(content))
    yield
    replace(path, content)


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.unlink()  # DVC may have linked it
    path.write_bytes(content)


def tag(client: MlflowClient, version: str, name: str, file: Path) -> None:
    """Says of a version, and on its run, that a file has the hash that it has."""
    client.set_model_version_tag(NAME, version, f"sha256_{name}", sha256(file))
    client.set_tag(str(client.get_model_version(NAME, version).run_id), f"sha256_{name}", sha256(file))
