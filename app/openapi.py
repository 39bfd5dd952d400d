"""Parts of the OpenAPI document that FastAPI cannot read off a signature: a body in two encodings, and errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from crosslook.errors import CODES
from crosslook.types import ErrorBody


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer with these statuses, each naming its codes."""
    return {
        status: {
            "model": ErrorBody,
            "description": "; ".join(f"`{name}`" for name, code in CODES.items() if code.status == status),
        }
        for status in sorted({*statuses, 500})
    }


def _inline(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a flat model, without references, for use inside the document."""
    schema = kind.model_json_schema()
    if "$defs" in schema:
        raise TypeError(f"{kind.__name__} is not flat")
    return schema


def two_encodings(kind: type[BaseModel], *, repeated: dict[str, str]) -> dict[str, Any]:
    """The request body of a route that takes ``kind`` as JSON, or as multipart with an ``image`` file. ``repeated``
    maps names of JSON lists to the multipart fields that may come once or more."""
    json_schema = _inline(kind)
    fields = dict(json_schema["properties"])
    required = list(json_schema.get("required", []))
    for name, single in repeated.items():
        field = fields.pop(name)
        fields[single] = field
        required = [single if part == name else part for part in required]
    fields["image"] = {"type": "string", "format": "binary", "description": "The image file."}
    form = {"type": "object", "title": f"{kind.__name__}Form", "properties": fields, "required": required}
    return {
        "required": True,
        "content": {"application/json": {"schema": json_schema}, "multipart/form-data": {"schema": form}},
    }
