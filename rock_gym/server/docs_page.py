"""The OpenAPI document as a page to read: no scripts, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
h2 { margin: 2.5rem 0 0; font: 600 1rem ui-monospace, monospace }
h2 b { display: inline-block; min-width: 3.5rem; color: #06c }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid #ddd; padding: .2rem .8rem .2rem 0; vertical-align: top }
td:first-child { white-space: nowrap }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } h2 b { color: #7bf } pre { background: #262626 }
  td { border-color: #444 }
}
"""
_INTRODUCTION = """
<p>Answers stand in an envelope: <code>status</code> is <code>Success</code> or
<code>Failed</code>, <code>result</code> is what was asked for, <code>error</code> says why it
failed and what to do, and <code>kind</code> says it for programs. The HTTP status of what the API
understood is 200, failures included, as ROCK's clients need it; with the header
<code>X-Rock-Strict: 1</code> failures have real statuses and are problem details. The environments
of GEM are the exception, as with ROCK: their successes have no envelope, and their failures have
the status 500, but for parameters that are invalid. Every answer names its request in
<code>X-Request-Id</code>.
For programs: <a href="/openapi.json">openapi.json</a>.</p>
"""
_EXAMPLES: dict[str, Any] = {"image": "python:3.11", "sandbox_id": "sandbox-0123456789ab"}


def page(document: dict[str, Any]) -> str:
    """Return the page."""
    parts = [
        _operation(path, method, operation, document["components"]["schemas"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    title = f"{document['info']['title']} {document['info']['version']}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(document['info']['description'])}</p>{_INTRODUCTION}{''.join(parts)}</html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = [
        _row(parameter["name"], parameter["schema"], parameter.get("required"))
        for parameter in operation.get("parameters", ())
        if parameter["in"] != "header"
    ]
    example = ""
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        body = _resolved(media["schema"], schemas)
        required = body.get("required", ())
        rows += [_row(name, each, name in required) for name, each in body["properties"].items()]
        example = _curl(path, kind, [name for name in body["properties"] if name in required])
    text = operation.get("description") or f"{operation['summary'].capitalize()}."
    table = f"<table>{''.join(rows)}</table>" if rows else ""
    return f"<h2><b>{method.upper()}</b> {escape(path)}</h2><p>{_marked(text)}</p>{table}{example}"


def _row(name: str, schema: dict[str, Any], required: bool | None) -> str:
    default = schema.get("default")
    note = "required" if required else f"default {json.dumps(default)}" if default else ""
    words = (str(schema.get("description", "")).rstrip("."), note)
    note = ". ".join(text for text in words if text)
    return f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(schema))}<td>{_marked(note)}"


def _marked(text: str) -> str:
    """Return text with its code marked as such."""
    return re.sub("``(.+?)``", r"<code>\1</code>", escape(text))


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_kind(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type", "anything"))


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return dict(schemas[name]) if name else schema


def _curl(path: str, kind: str, names: list[str]) -> str:
    if kind == "multipart/form-data":
        values = {"file": "@./file.txt", "target_path": "./file.txt", **_EXAMPLES}
        options = " ".join(f"-F '{name}={values[name]}'" for name in names)
    else:
        body = json.dumps({name: _EXAMPLES.get(name, "...") for name in names})
        options = f"-H 'Content-Type: application/json' -d '{body}'"
    return f"<pre>{escape(f'curl -X POST http://localhost:8080{path} {options}')}</pre>"
