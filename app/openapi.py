"""Parts of the OpenAPI document that FastAPI cannot read off a signature: bodies that routes read for themselves, in
one encoding or two, and errors. They become named schemas, so that generated clients have classes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from crosslook.errors import CODES
from crosslook.types import ErrorBody

# A real image, for examples that can be tried as they are: a red dot on blue, 16 x 16, PNG.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEU8gtzcKCidAFHOAAAAKElEQVR42mNgQAKMBxjYPzAxMDBxcDAxMDAxMDD9+MHE"
    "wMD06wJcCQBtVwWR3pn+3wAAAABJRU5ErkJggg=="
)

_REFERENCE = "#/components/schemas/{model}"
_bodies: set[type[BaseModel]] = set()
_forms: dict[str, dict[str, Any]] = {}


def _same(info: dict[str, Any]) -> dict[str, Any]:
    return {"error": info}


def errors(
    *statuses: int,
    envelope: type[BaseModel] = ErrorBody,
    wrap: Callable[[dict[str, Any]], dict[str, Any]] = _same,
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these statuses, with an example of each code. A dialect gives
    the type of its ``envelope``, and how to ``wrap`` what the native one has inside ``error``."""
    return {status: _error(status, envelope, wrap) for status in sorted({*statuses, 500})}


def _error(status: int, envelope: type[BaseModel], wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    codes = {name: code for name, code in CODES.items() if code.status == status}
    examples = {}
    for name, code in codes.items():
        info: dict[str, Any] = {"code": name, "message": code.meaning, "type": code.type}
        info |= {"param": None, "request_id": "req_5f2c", "detail": None}
        examples[name] = {"summary": code.meaning, "value": wrap(info)}
    response: dict[str, Any] = {
        "model": envelope,
        "description": "; ".join(f"`{name}`" for name in codes),
        "content": {"application/json": {"examples": examples}},
    }
    if any(code.retry for code in codes.values()):
        schema = {"type": "integer"}
        response["headers"] = {"Retry-After": {"description": "Seconds to wait before trying again.", "schema": schema}}
    return response


def json_body(kind: type[BaseModel], *, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """The request body of a route that takes ``kind`` as JSON. ``examples``: summary -> value."""
    _bodies.add(kind)
    media: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(model=kind.__name__)}}
    if examples:
        media["examples"] = {summary: {"summary": summary, "value": value} for summary, value in examples.items()}
    return {"required": True, "content": {"application/json": media}}


def two_encodings(
    kind: type[BaseModel], *, repeated: dict[str, str], examples: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The request body of a route that takes ``kind`` as JSON, or as multipart with an ``image`` file. ``repeated``
    maps names of JSON lists to the multipart fields that may come once or more.

    The document calls such a body optional, although it is not: openapi-python-client (0.29) otherwise writes code for
    it that lacks an import.
    """
    body = json_body(kind, examples=examples)
    del body["required"]
    schema = kind.model_json_schema(ref_template=_REFERENCE)
    fields = dict(schema["properties"])
    required = list(schema.get("required", []))
    for name, single in repeated.items():
        field = fields.pop(name)
        fields[single] = field
        required = [single if part == name else part for part in required]
    fields["image"] = {"type": "string", "format": "binary", "description": "The image file."}
    name = kind.__name__.replace("Request", "Form")
    _forms[name] = {
        "title": name,
        "description": "The same as multipart: fields and an `image` file.",
        "type": "object",
        "properties": fields,
        "required": required,
    }
    body["content"]["multipart/form-data"] = {"schema": {"$ref": _REFERENCE.format(model=name)}}
    return body


def operation_id(route: APIRoute) -> str:
    """Short names for the functions of generated clients: the route function's own."""
    return route.name


def install(app: FastAPI) -> None:
    """Complete the document that ``app`` serves: add the schemas of the bodies that routes read for themselves."""
    plain = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            _, definitions = models_json_schema(
                [(kind, "validation") for kind in sorted(_bodies, key=lambda kind: kind.__name__)],
                ref_template=_REFERENCE,
            )
            document["components"]["schemas"] |= definitions["$defs"] | _forms
        return app.openapi_schema or {}

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way
