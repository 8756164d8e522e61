"""A page of the API, made of its openapi.json. FastAPI's own loads its scripts from elsewhere."""

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
<p>{description} <a href="./">Page to drop a frame on</a> · <a href="openapi.json">openapi.json</a></p>
<pre>curl --form frame=@frame.png --user "user:password" "http://HOST:8000/v1/segment?format=json"</pre>
{operations}
</main>
</body>
</html>
"""


def page(schema: dict[str, Any]) -> str:
    """HTML of an OpenAPI schema: each operation with its parameters, the fields it takes, and its answers."""
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
        *((one["name"], _type(one["schema"]), f"in the {one['in']}") for one in operation.get("parameters", [])),
        *((name, "file", field["description"]) for name, field in form.get("properties", {}).items()),
    ]
    answers = [(status, reply["description"]) for status, reply in operation["responses"].items()]
    fields = [
        (name, _type(field), field.get("description", ""))
        for name, field in _fields(schema, operation["responses"].get("200", {})).items()
    ]
    return "\n".join(
        (
            f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
            f"<p>{escape(operation['description'])}</p>",
            _table("Takes", inputs),
            _table("Status", answers),
            _table("JSON of a 200", fields),
        )
    )


def _fields(schema: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    """The fields of a reply's JSON, where it is one of the named models."""
    reference = reply.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    model = schema["components"]["schemas"].get(reference.rpartition("/")[2], {})
    fields: dict[str, Any] = model.get("properties", {})
    return fields


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "enum" in field:
        return " or ".join(field["enum"]) + (f"; default {field['default']}" if "default" in field else "")
    return str(field["type"])


def _table(caption: str, rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><caption>{escape(caption)}</caption>\n" + "\n".join(lines) + "\n</table>"
