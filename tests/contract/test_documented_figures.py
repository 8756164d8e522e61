"""docs/reference.md documents metrics.json: its tables are the registry of figures and the fields of the models."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from nerveseg.evaluation import figures
from nerveseg.evaluation.results import Metrics

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A row for each described field, those of models within it included."""
    for name, field in model.model_fields.items():
        if field.description:
            yield f"| `{prefix}{name}` | {field.description} |"
        for kind in get_args(field.annotation) or (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and not field.description:
                yield from fields(kind, f"{prefix}{name}.")


def rows(prefix: str) -> list[str]:
    found = []
    for figure in figures.FIGURES:
        if figure.key.startswith(prefix):
            interval = "yes" if figure.interval else ""
            cells = (f"`{figure.key}`", figure.title, figure.better or "", interval, figure.meaning)
            found.append(f"| {' | '.join(cells)} |")
    return found


TABLES = {
    "facts": ("| key | meaning |", "|---|---|", list(fields(Metrics))),
    **{
        name: ("| metric | name | better | `_ci` | meaning |", "|---|---|---|---|---|", found)
        for name, found in (
            ("figures", [row for row in rows("") if row not in rows("leakage.")]),
            ("leakage", rows("leakage.")),
        )
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_table_is_what_the_code_has(name: str) -> None:
    head, line, body = TABLES[name]
    table = "\n".join((head, line, *body))
    assert f"\n{table}\n\n" in REFERENCE, f"docs/reference.md should hold this table:\n\n{table}\n"
