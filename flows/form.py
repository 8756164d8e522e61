"""The form of the flow `pipeline`: fields for the parameters that people change most, a dictionary for the others.

Types, bounds and descriptions are those of `params.py`, as JSON Schema, which Prefect's server checks when a run is
submitted.
"""

import re
from typing import Any

from pydantic import WithJsonSchema

from nerveseg import params
from nerveseg.errors import NervesegError

_SCHEMAS = params.schemas()


def field(name: str) -> WithJsonSchema:
    """The JSON schema of an optional field for the parameter `name`; of one that may be null, without that."""
    schema = dict(_SCHEMAS[name])
    for kind in schema.pop("anyOf", []):
        if kind != {"type": "null"}:
            schema |= kind
    return WithJsonSchema(schema | {"description": f"{name}: {schema['description']}. Empty: as in params.yaml."})


def dictionary() -> WithJsonSchema:
    """The JSON schema of a dictionary of parameters by their dotted names.

    An error about a name lists the names of its section, rather than all.
    """
    sections: dict[str, list[str]] = {}
    for name in _SCHEMAS:
        sections.setdefault(name.partition(".")[0], []).append(name)
    return WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {
                "pattern": f"^({'|'.join(sections)})[.]",
                "allOf": [
                    {"if": {"pattern": f"^{section}[.]"}, "then": {"enum": names}}
                    for section, names in sections.items()
                ],
            },
            "patternProperties": {f"^{re.escape(name)}$": schema for name, schema in _SCHEMAS.items()},
        }
    )


def combine(fields: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a run changes, by their dotted names.

    Args:
        fields: of the form, by the name of the parameter; None: left empty.
        overrides: the dictionary.

    Raises:
        NervesegError: a field and the dictionary disagree about a parameter.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if twice := [name for name, value in given.items() if overrides.get(name, value) != value]:
        raise NervesegError(
            "; ".join(f"{name} is {given[name]!r} in its field and {overrides[name]!r} in overrides" for name in twice)
            + ": give each parameter once."
        )
    return given | overrides
