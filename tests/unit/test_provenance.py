"""The chain of hashes from dataset to metrics."""

from hashlib import sha256
from typing import Any

import pytest

from nerveseg.modelcard import provenance
from nerveseg.modelcard.provenance import Code, Origins

ORIGINS = Origins(
    dataset="0" * 64,
    split="1" * 64,
    params={"train.epochs": 5},
    code=Code(training={"git_commit": "a"}, evaluation={"git_commit": "b"}, source="2" * 64),
    weights={"model.safetensors": "3" * 64},
    figures={"metrics.json": "4" * 64},
)
LINKS = ["dataset", "split", "params", "code", "weights", "figures"]
CHANGED: dict[str, Any] = {
    "dataset": "f" * 64,
    "split": "f" * 64,
    "params": {"train.epochs": 6},
    "code": ORIGINS.code.model_copy(update={"source": "f" * 64}),
    "weights": {"model.safetensors": "f" * 64},
    "figures": {"metrics.json": "f" * 64},
}


def test_each_value_of_the_chain_includes_the_previous_one() -> None:
    links = provenance.chain(ORIGINS)
    assert [link.link for link in links] == LINKS
    assert links[0].sha256 == ORIGINS.dataset
    former = ""
    for link in links:
        assert link.chain == sha256((former + link.sha256).encode()).hexdigest()
        former = link.chain


@pytest.mark.parametrize("changed", LINKS)
def test_a_changed_origin_changes_the_chain_from_its_link_onwards(changed: str) -> None:
    other = provenance.chain(ORIGINS.model_copy(update={changed: CHANGED[changed]}))
    same = [one.chain == another.chain for one, another in zip(provenance.chain(ORIGINS), other, strict=True)]
    assert same == [LINKS.index(link) < LINKS.index(changed) for link in LINKS]


@pytest.mark.parametrize("changed", LINKS)
def test_the_wrong_link_is_named(changed: str) -> None:
    links = provenance.chain(ORIGINS)
    assert provenance.differences(links, ORIGINS) == []
    (found,) = provenance.differences(links, ORIGINS.model_copy(update={changed: CHANGED[changed]}))
    assert found.startswith(f"{changed} is said to be")
    place = LINKS.index(changed)
    forged = [*links[:place], links[place].model_copy(update={"chain": "f" * 64}), *links[place + 1 :]]
    assert provenance.differences(forged, ORIGINS)[0].startswith(f"the chain's value at {changed}")
    assert provenance.differences(links[:place] + links[place + 1 :], ORIGINS)
