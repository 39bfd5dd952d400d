"""Parts of the OpenAPI document that FastAPI cannot read off a signature: bodies that routes read for themselves, in
one encoding or two, and errors. They become named schemas, so that generated clients have classes for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.settings import Settings
from crosslook.errors import CODES
from crosslook.types import ErrorBody

# A real image, for examples that can be tried as they are: a red dot on blue, 16 x 16, PNG.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEU8gtzcKCidAFHOAAAAKElEQVR42mNgQAKMBxjYPzAxMDBxcDAxMDAxMDD9+MHE"
    "wMD06wJcCQBtVwWR3pn+3wAAAABJRU5ErkJggg=="
)

_REFERENCE = "#/components/schemas/{model}"
_TEXTS = {"questions": 1, "question": 1, "texts": 1, "prompts": 0, "candidate_labels": 1}
"""Fields with texts for the model, and the fewest characters of one."""

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


def _tell_limits(schema: dict[str, Any], settings: Settings) -> None:
    """What the routes check beyond what the type of a body says: how many texts, of what length, and that the image
    comes once."""
    fields, longest = schema.get("properties", {}), settings.question_characters
    for name in _TEXTS.keys() & fields.keys():
        for part in fields[name].get("anyOf", [fields[name]]):
            text = part
            if part.get("type") == "array":
                part["maxItems"] = min(settings.questions, part.get("maxItems", settings.questions))
                text = part["items"]
            if text.get("type") == "string":
                text["maxLength"] = min(longest, text.get("maxLength", longest))
                if _TEXTS[name]:
                    text |= {"minLength": 1, "pattern": r"\S"}
    if "image_id" in fields:
        kinds = {"image": "string", "image_id": "string", "images": "array"}
        ways = [
            {"properties": {name: {"type": kind}}, "required": [name]} for name, kind in kinds.items() if name in fields
        ]
        # Inside of allOf: generators take a oneOf beside properties for a choice of types, and forget the properties.
        schema["allOf"] = [{"oneOf": ways}]
    elif "image" in fields and "image" not in schema.get("required", []):
        schema["required"] = [*schema.get("required", []), "image"]
        told = {name: value for name, value in fields["image"].items() if name not in ("anyOf", "default")}
        fields["image"] = {"type": "string", **told}


def install(app: FastAPI, settings: Settings) -> None:
    """Complete the document that ``app`` serves: add the schemas of the bodies that routes read for themselves, with
    the limits of ``settings``; without API keys there, none is asked for."""
    plain = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            _, definitions = models_json_schema(
                [(kind, "validation") for kind in sorted(_bodies, key=lambda kind: kind.__name__)],
                ref_template=_REFERENCE,
            )
            bodies = copy.deepcopy(definitions["$defs"] | _forms)
            for schema in bodies.values():
                _tell_limits(schema, settings)
            document["components"]["schemas"] |= bodies
            if not settings.api_keys:
                for operation in (one for path in document["paths"].values() for one in path.values()):
                    if "security" in operation:
                        operation["security"].append({})  # or none
        return app.openapi_schema or {}

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way
