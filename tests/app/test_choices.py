"""Choices of OpenAI's clients become candidates, on both of its routes."""

from __future__ import annotations

import enum
import json
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel

from app.choices import LARGEST, Choice, from_format
from app.errors import RequestError
from tests.app.test_conversation import CHAT, RESPONSES, ask, says, shows, user
from tests.app.test_native import failed

session_loop = pytest.mark.asyncio(loop_scope="session")


class Animal(enum.Enum):
    CAT = "cat"
    DOG = "dog"


class Named(BaseModel):
    animal: Literal["cat", "dog"]


class Referred(BaseModel):
    animal: Animal


def wanted(schema: Any, path: str) -> dict[str, Any]:
    """The field of a request that asks for a schema."""
    if path == RESPONSES:
        return {"text": {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": schema}}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}}


def content(response: httpx.Response) -> str:
    """What the message says."""
    assert response.status_code == 200, response.text
    made = response.json()
    return str(
        made["choices"][0]["message"]["content"] if "choices" in made else made["output"][0]["content"][0]["text"]
    )


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """As OpenAI's client sends it."""
    return {**model.model_json_schema(), "additionalProperties": False}


@session_loop
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        (schema_of(Named), ["cat", "dog"]),
        (schema_of(Referred), ["cat", "dog"]),
        ({"type": "string", "enum": ["cat", "dog"]}, ["cat", "dog"]),
        ({"type": "object", "properties": {"animal": {"const": "cat"}}}, ["cat"]),
    ],
)
async def test_a_schema_that_is_a_choice(
    client: httpx.AsyncClient, uri: str, path: str, schema: Any, texts: Any
) -> None:
    """The answer is one of its texts, and is written as the schema says."""
    response = await ask(client, [user(says("Which?"), shows(uri))], path, **wanted(schema, path))
    said = json.loads(content(response))
    answer = said["animal"] if isinstance(said, dict) else said
    assert answer == response.json()["crosslook"]["results"][0]["answer"]
    assert from_format(wanted(schema, CHAT)["response_format"], "x") == Choice(
        tuple(texts), as_json=True, name="animal" if isinstance(said, dict) else None
    )


@session_loop
@pytest.mark.parametrize("extra", [{"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}])
async def test_vllms_names_for_it(extra: dict[str, Any], colours: httpx.AsyncClient, red: str) -> None:
    """The answer stays plain text. Scores are over the choice."""
    response = await ask(colours, [user(says("Which?"), shows(red))], CHAT, **extra)
    assert content(response) in ("a", "b")
    assert {each["answer"] for each in response.json()["crosslook"]["results"][0]["ranking"]} == {"a", "b"}


@session_loop
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"type": "object", "properties": {"a": {"enum": ["x"]}, "b": {"enum": ["x"]}}},
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"enum": [1, 2]},
        {"enum": []},
        {"enum": [""]},
        {"enum": ["x" * 201]},
        {"properties": {"a": {"$ref": "#/$defs/none"}}, "$defs": {}},
    ],
)
async def test_other_json_is_refused(client: httpx.AsyncClient, uri: str, path: str, schema: Any) -> None:
    """Each with the field that asked for it."""
    place = "text.format" if path == RESPONSES else "response_format"
    response = await ask(client, [user(says("Which?"), shows(uri))], path, **wanted(schema, path))
    failed(response, "invalid_request", place)


@session_loop
async def test_two_choices_are_refused(client: httpx.AsyncClient, uri: str) -> None:
    both = {"guided_choice": ["a"], "candidates": ["b"]}
    failed(await ask(client, [user(says("Which?"), shows(uri))], CHAT, **both), "invalid_request", "candidates")


def test_json_objects_are_no_choice() -> None:
    with pytest.raises(RequestError, match="enum of texts"):
        from_format({"type": "json_object"}, "response_format")
    assert from_format({"type": "text"}, "response_format") is None


@session_loop
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_format_as_large_as_a_body(client: httpx.AsyncClient, uri: str, path: str) -> None:
    """It is given back with the answer, which would be as large."""
    place, field = ("text.format", {"type": "text"}) if path == RESPONSES else ("response_format", {"type": "text"})
    for junk in (
        "x" * LARGEST,
        [""] * (LARGEST // 2) + ["x" * LARGEST],
        {"x" * LARGEST: 1},
        {"a": {"b": ["x" * LARGEST]}},
    ):
        given = {**field, "junk": junk}
        sent = {"text": {"format": given}} if path == RESPONSES else {"response_format": given}
        failed(await ask(client, [user(says("Which?"), shows(uri))], path, **sent), "invalid_request", place)
    schema = {"properties": {"x" * LARGEST: {"enum": ["a", "b"]}}}
    failed(
        await ask(client, [user(says("Which?"), shows(uri))], path, **wanted(schema, path)), "invalid_request", place
    )


def test_the_largest_choice_fits() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [f"{n:200}" for n in range(200)]}}}
    assert from_format({"type": "json_schema", "json_schema": {"schema": schema}}, "response_format") is not None
    assert from_format({"type": "text", "a": ["x" * (LARGEST - 15)]}, "response_format") is None
    with pytest.raises(RequestError, match="more than"):
        from_format({"type": "text", "a": ["x" * (LARGEST - 14)]}, "response_format")
    assert from_format({"type": "text", "a": [7] * 1000}, "response_format") is None
    with pytest.raises(RequestError, match="more than"):
        from_format({"type": "text", "a": [10**4299] * 24}, "response_format")
