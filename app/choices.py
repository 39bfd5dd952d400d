"""A choice, as clients of OpenAI's routes ask for one: a JSON schema that allows some texts alone, or vLLM's fields.

It becomes ``candidates``; the answer is then written as the schema has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import RequestError

_MOST, _LONGEST = 200, 200  # as `candidates` of the native route
LARGEST = 100_000
"""Characters and values of a whole format: it is given back with the answer."""
_ONLY = "text, or a JSON schema that is a choice: an enum of texts, or an object of one such field"


@dataclass(frozen=True, slots=True)
class Choice:
    """The texts to choose from, and how the chosen one is written: as it is, as JSON, or as JSON in an object's field
    ``name``."""

    texts: tuple[str, ...]
    as_json: bool = False
    name: str | None = None

    def content(self, answer: str) -> str:
        """What the message says for an answer."""
        if self.name is not None:
            return json.dumps({self.name: answer}, ensure_ascii=False)
        return json.dumps(answer, ensure_ascii=False) if self.as_json else answer


def from_format(wanted: Mapping[str, Any] | None, place: str) -> Choice | None:
    """The choice in ``response_format`` (or ``text.format``); None for plain text.

    Raises: `RequestError` ``invalid_request`` for any other JSON.
    """
    if wanted is not None and _is_large(wanted):
        message = f"{place}: more than {LARGEST} characters."
        raise RequestError("invalid_request", message, param=place)
    if wanted is None or wanted.get("type") in (None, "text"):
        return None
    inside = wanted.get("json_schema", wanted)  # OpenAI's newer route has its fields at the top
    schema = inside.get("schema") if wanted.get("type") == "json_schema" and isinstance(inside, dict) else None
    if not isinstance(schema, dict):
        raise RequestError("invalid_request", f"{place}: only {_ONLY}.", param=place)
    definitions = schema.get("$defs")
    texts = _enum(schema, definitions)
    if texts is not None:
        return _checked(Choice(texts, as_json=True), place)
    properties = schema.get("properties")
    if isinstance(properties, dict) and len(properties) == 1:
        ((name, inner),) = properties.items()
        texts = _enum(inner, definitions)
        if texts is not None:
            return _checked(Choice(texts, as_json=True, name=str(name)), place)
    raise RequestError("invalid_request", f"{place}: only {_ONLY}.", param=place)


def from_list(texts: list[str], place: str) -> Choice:
    """vLLM's ``guided_choice``.

    Raises: `RequestError` ``invalid_request``.
    """
    return _checked(Choice(tuple(texts)), place)


def _is_large(value: object) -> bool:
    """Whether JSON has more than `LARGEST` characters and values."""
    size, found = 0, [value]
    while found and size <= LARGEST:
        each = found.pop()
        size += 1
        if isinstance(each, str):
            size += len(each)
        elif isinstance(each, int):
            size += each.bit_length() // 3  # about its digits, of which JSON may have thousands
        elif isinstance(each, Mapping):
            found.extend(each)
            found.extend(each.values())
        elif isinstance(each, list):
            found.extend(each)
    return size > LARGEST


def _enum(schema: object, definitions: object) -> tuple[str, ...] | None:
    """The texts of ``{"enum": [..]}`` or ``{"const": ..}``, also behind a ``$ref`` into ``$defs``."""
    if not isinstance(schema, dict):
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str) and isinstance(definitions, dict):
        schema = definitions.get(reference.removeprefix("#/$defs/"))
        if not isinstance(schema, dict):
            return None
    found = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(found, list) and found and all(isinstance(text, str) for text in found):
        return tuple(found)
    return None


def _checked(choice: Choice, place: str) -> Choice:
    if len(choice.texts) > _MOST or not all(0 < len(text) <= _LONGEST for text in choice.texts):
        message = f"{place}: a choice has 1 to {_MOST} texts of 1 to {_LONGEST} characters."
        raise RequestError("invalid_request", message, param=place)
    return choice
