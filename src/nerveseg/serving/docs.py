"""A page of the API, made of its openapi.json, and examples in it. FastAPI's own loads its scripts from elsewhere."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/style.css">
</head>
<body>
<main class="docs">
<h1>{title}</h1>
<p>{description} <a href="./">Page to drop frames on</a> · <a href="openapi.json">openapi.json</a></p>
{operations}
</main>
</body>
</html>
"""
_CURL = """curl --user "USER:PASSWORD" --form frame=@frame.png --form spacing_mm=0.08 "http://HOST:8000{path}"
curl --user "USER:PASSWORD" --form frame=@frame.png --output mask.png "http://HOST:8000{path}?format=mask"
"""
_PYTHON = """import requests

with open("frame.png", "rb") as file:
    answer = requests.post(
        "http://HOST:8000{path}",
        files={{"frame": file}},
        data={{"spacing_mm": "0.08"}},  # mm per pixel, if you know it
        auth=("USER", "PASSWORD"),  # if the server wants them
        timeout=60,
    )
if not answer.ok:
    raise SystemExit(answer.json()["detail"])
found = answer.json()
print(found["message"], found["area"], "px,", found["area_mm2"], "mm²")
"""


def samples(path: str) -> list[dict[str, str]]:
    """Requests to `path` as code, for the field `x-codeSamples` of its operation."""
    return [
        {"lang": "Shell", "label": "curl", "source": _CURL.format(path=path)},
        {"lang": "Python", "label": "Python", "source": _PYTHON.format(path=path)},
    ]


def page(schema: dict[str, Any]) -> str:
    """HTML of an OpenAPI schema: each operation with its examples, its parameters, the fields it takes, its answers."""
    operations = (
        _operation(schema, method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    return _PAGE.format(
        title=escape(schema["info"]["title"]),
        description=escape(schema["info"]["description"]),
        operations="\n".join(operations),
    )


def _operation(schema: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    inputs = [
        *((one["name"], _type(one["schema"]), one["description"]) for one in operation.get("parameters", [])),
        *((name, _type(field), field["description"]) for name, field in form.get("properties", {}).items()),
    ]
    answers = [(status, reply["description"]) for status, reply in operation["responses"].items()]
    model = _model(schema, operation["responses"].get("200", {}))
    fields = [(name, _type(field), field.get("description", "")) for name, field in model.get("properties", {}).items()]
    examples = [(one["label"], one["source"]) for one in operation.get("x-codeSamples", [])]
    if "example" in model:
        examples.append(("JSON of a 200, for a frame of 10 x 10 pixels", json.dumps(model["example"], indent=2)))
    return "\n".join(
        (
            f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
            f"<p>{escape(operation['description'])}</p>",
            *(f"<h3>{escape(title)}</h3>\n<pre>{escape(source)}</pre>" for title, source in examples),
            _table("Takes", inputs),
            _table("Status", answers),
            _table("JSON of a 200", fields),
        )
    )


def _model(schema: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    """The schema of a reply's JSON, where it is one of the named models."""
    reference = reply.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    model: dict[str, Any] = schema["components"]["schemas"].get(reference.rpartition("/")[2], {})
    return model


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "enum" in field:
        return " or ".join(field["enum"]) + (f"; default {field['default']}" if "default" in field else "")
    if field.get("format") == "binary":
        return "file"
    return str(field["type"])


def _table(caption: str, rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><caption>{escape(caption)}</caption>\n" + "\n".join(lines) + "\n</table>"
