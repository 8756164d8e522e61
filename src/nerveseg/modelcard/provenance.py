"""Provenance of a model's metrics: dataset, split, params, code, weights and metrics as one chain of hashes.

The chain is not signed: it detects accidents and partial tampering, not someone who can rewrite all of it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from nerveseg.files import sha256

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # SHA-256


class Record(BaseModel):
    """A frozen record of a file that may have been edited by hand: unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(Record):
    """The code of a training and of an evaluation.

    Attributes:
        training: `git_commit` and `git_changed` ("true", "false") of the training; empty outside a git repository.
        evaluation: the same for the evaluation, which may have run later.
        source: `package.source_digest` of the package that evaluated.
    """

    training: dict[str, str]
    evaluation: dict[str, str]
    source: Digest

    @classmethod
    def of(cls, training: Mapping[str, str], evaluation: Mapping[str, str], source: str) -> Self:
        """From the tags of a training's run and those of this process, which evaluates."""
        return cls(training=_of_git(training), evaluation=_of_git(evaluation), source=source)


class Origins(Record):
    """The data that the links of the chain hash, in their order.

    Attributes:
        dataset: SHA-256 of the dataset zip.
        split: `FrameStore.digest`: frames (by the hash of each), masks, and the split.
        params: dotted names to values: what the training recorded, and the section `evaluate`.
        code: of training and evaluation.
        weights: file names to SHA-256, of the model.
        figures: file names to SHA-256, of the metrics.
    """

    dataset: Digest
    split: Digest
    params: dict[str, Any]
    code: Code
    weights: dict[str, Digest]
    figures: dict[str, Digest]


class Link(Record):
    """A link of the chain.

    Attributes:
        link: its name, a field of `Origins`.
        what: a description.
        sha256: of the data that it stands for, 64 hexadecimal digits.
        chain: SHA-256 of the previous link's `chain` and this link's `sha256`, concatenated as text; of `sha256` alone
            for the first link. So the last value changes with every link.
    """

    link: str
    what: str
    sha256: Digest
    chain: Digest


_WHAT = {
    "dataset": "the dataset zip",
    "split": "frames, masks and their split",
    "params": "the parameters of the training, and the section evaluate",
    "code": "commits of training and evaluation, and the evaluating package's source",
    "weights": "the model's files",
    "figures": "metrics.json and its tables",
}


def chain(origins: Origins) -> list[Link]:
    """The chain for `origins`. An origin that is not a digest itself is hashed as JSON with sorted keys."""
    links: list[Link] = []
    former = ""
    for name, origin in origins.model_dump().items():
        digest = origin if isinstance(origin, str) else _digest(_canonical(origin))
        former = _digest(former + digest)
        links.append(Link(link=name, what=_WHAT[name], sha256=digest, chain=former))
    return links


def differences(links: list[Link], origins: Origins) -> list[str]:
    """Every link that does not match `origins` and the links before it; none if the chain holds."""
    expected = chain(origins)
    if [link.link for link in links] != [link.link for link in expected]:
        return [f"its links are {', '.join(link.link for link in links)}"]
    found, former = [], ""
    for link, right in zip(links, expected, strict=True):
        if link.sha256 != right.sha256:
            found.append(f"{link.link} is said to be {link.sha256}, but what is recorded of it gives {right.sha256}")
        if link.chain != _digest(former + link.sha256):
            found.append(f"the chain's value at {link.link} does not follow from the one before")
        former = link.chain
    return found


def _of_git(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: tags[key] for key in ("git_commit", "git_changed") if key in tags}


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files by their names."""
    return {path.name: sha256(path) for path in files}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
