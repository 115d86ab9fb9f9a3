"""The OpenAPI document, made of the very types that requests are decoded into.

What it says of statuses: 200 is for what the API understood, failures included; in strict mode, and
for what never got as far as the API, there are others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from inspect import cleandoc
from typing import Any

import msgspec
from starlette.routing import BaseRoute

from rock_gym._version import __version__
from rock_gym.server.envelope import JsonRoute

_REFERENCE = "#/components/schemas/{name}"
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_PARAMETER = re.compile(r"{(\w+)}")

_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_FAILED = {
    "title": "Failed",
    "description": "Something did not work.",
    "type": "object",
    "required": ["status", "message", "error", "result", "kind"],
    "properties": {
        "status": {"enum": ["Failed"]},
        "message": {**_TEXT_OR_NULL, "description": "What did not work, in ROCK's words."},
        "error": {"type": "string", "description": "Why, and what to do."},
        "result": {"description": "What the result has all the same, and ROCK's code."},
        "kind": {"type": "string", "description": "Why, for programs."},
        "detail": {"type": "string"},
    },
}
_PROBLEM = {
    "title": "Problem",
    "description": "A failure in strict mode (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "kind", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "Why, and what to do."},
        "kind": {"type": "string", "description": "Why, for programs."},
        "code": {"type": "integer", "description": "ROCK's code."},
        "request_id": {"type": "string"},
    },
}
_STRICT = {
    "name": "X-Rock-Strict",
    "in": "header",
    "description": "1 for real HTTP statuses.",
    "schema": {"type": "string"},
}
_REQUEST_ID = {"X-Request-Id": {"schema": {"type": "string"}}}
_REFUSED = {
    "application/json": {"schema": {"$ref": _REFERENCE.format(name="Failed")}},
    "application/problem+json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}},
}


def document(routes: Iterable[BaseRoute], *, token: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        routes: All routes; those that are JSON are described.
        token: Whether clients must show one.
    """
    described = [route for route in routes if isinstance(route, JsonRoute)]
    schemas, components = _schemas(described)
    paths: dict[str, Any] = {}
    for route in described:
        (method,) = (route.methods or set()) - {"HEAD"}
        paths.setdefault(route.path, {})[method.lower()] = _operation(route, schemas, components)
    paths |= _own_paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rock_gym",
            "version": __version__,
            "description": "Sandboxes and GEM environments, by ROCK's REST API.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Failed": _FAILED, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if token else [],
    }


def _schemas(routes: list[JsonRoute]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of each type of a request or result, and what those refer to."""
    types = {route.request for route in routes} | {route.result for route in routes}
    listed = [each for each in types if each not in (None, bytes)]
    schemas, components = msgspec.json.schema_components(listed, ref_template=_REFERENCE)
    for component in components.values():
        _spread_description(component)
    return dict(zip(listed, schemas, strict=True)), components


def _spread_description(component: dict[str, Any]) -> None:
    """Give what a docstring says of attributes to those."""
    text, _, attributes = cleandoc(component.get("description", "")).partition("\n\nAttributes:\n")
    component["description"] = " ".join(text.split())
    for name, words in _ATTRIBUTE.findall(attributes):
        if name in component.get("properties", {}):
            component["properties"][name]["description"] = " ".join(words.split())


def _operation(
    route: JsonRoute, schemas: dict[Any, Any], components: dict[str, Any]
) -> dict[str, Any]:
    request = None if route.request is None else components[route.request.__name__]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
    ]
    if request is not None and "GET" in (route.methods or ()):
        parameters += _query(request)
    found: dict[str, Any] = {
        "operationId": "_".join(re.findall(r"\w+", route.path.partition("/v1/")[2])),
        "summary": route.title,
        "description": route.text,
        "parameters": [*parameters, _STRICT],
        "responses": _responses(route, schemas),
    }
    if request is not None and "POST" in (route.methods or ()):
        found["requestBody"] = _body(route, schemas[route.request], request)
    return found


def _query(request: dict[str, Any]) -> list[dict[str, Any]]:
    required = request.get("required", ())
    return [
        # A query has no null: what is left out is not there.
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
        for name, schema in request["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(kinds) == 1:
        return dict(kinds[0])
    return {name: value for name, value in schema.items() if name != "default" or value is not None}


def _body(route: JsonRoute, schema: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    if not route.has_form:
        return {"required": True, "content": {"application/json": {"schema": schema}}}
    file = {"type": "string", "format": "binary"}
    form = {**request, "properties": {**request["properties"], "file": file}}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def _responses(route: JsonRoute, schemas: dict[Any, Any]) -> dict[str, Any]:
    failed = _REFUSED["application/json"]["schema"]
    result = schemas.get(route.result, {"type": "null"})
    success = _enveloped(result) if route.enveloped else result
    content: dict[str, Any] = {"application/json": {"schema": {"anyOf": [success, failed]}}}
    if route.result is bytes:
        content = {
            "application/octet-stream": {},
            "application/x-tar": {},
            "application/json": {"schema": failed},
        }
    refused = {"headers": _REQUEST_ID, "content": _REFUSED}
    server_fault = "Not the client's fault, in strict mode."
    if route.failure_status >= 500:
        server_fault = "Any failure, but for invalid parameters and in strict mode."
    return {
        "200": {"description": "Understood.", "headers": _REQUEST_ID, "content": content},
        "4XX": {"description": "The client's fault: in strict mode, or in manners.", **refused},
        "5XX": {"description": server_fault, **refused},
    }


def _enveloped(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["status", "message", "error", "result"],
        "properties": {
            "status": {"enum": ["Success"]},
            "message": _TEXT_OR_NULL,
            "error": {"type": "null"},
            "result": result,
        },
    }


def _own_paths() -> dict[str, Any]:
    def path(summary: str, kind: str) -> dict[str, Any]:
        return {
            "get": {
                "operationId": summary.replace(" ", "_").lower(),
                "summary": summary,
                "responses": {
                    "200": {"description": summary, "content": {kind: {}}},
                    "4XX": {"description": "Refused.", "content": _REFUSED},
                    "5XX": {"description": "Not now.", "content": _REFUSED},
                },
            }
        }

    healthz = path("Whether the server answers", "application/json")
    healthz["get"]["security"] = []
    return {"/healthz": healthz, "/metrics": path("Figures for Prometheus", "text/plain")}
