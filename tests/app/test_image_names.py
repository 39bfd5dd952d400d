"""``uuid`` beside an image: sent once, then named."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app.image_names import ImageNames
from tests.app.test_conversation import CHAT, RESPONSES, ask, says, shows, user
from tests.app.test_native import failed

session_loop = pytest.mark.asyncio(loop_scope="session")


def named(name: Any, **fields: Any) -> dict[str, Any]:
    """An image part with a name."""
    return {"type": "image_url", "uuid": name, **fields}


@session_loop
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_an_image_is_sent_once_and_then_named(client: httpx.AsyncClient, uri: str, path: str) -> None:
    """By itself, with a null in its place, and beside the same name."""
    name = f"cat of {path}"
    first = await ask(client, [user(says("What?"), named(name, image_url={"url": uri}))], path)
    assert first.status_code == 200, first.text
    for parts in ([named(name)], [named(name, image_url=None)], [named(name), named(name)]):
        again = await ask(client, [user(says("And now?"), *parts)], path)
        assert again.status_code == 200, again.text
        assert again.json()["crosslook"]["image"] == first.json()["crosslook"]["image"]
        assert again.headers["x-cache"] == "hit"


@session_loop
async def test_an_unknown_name_is_an_image_not_found(client: httpx.AsyncClient) -> None:
    response = await ask(client, [user(says("What?"), named("nobody's"))])
    failed(response, "image_not_found", "messages[0].content[1].uuid")


@session_loop
@pytest.mark.parametrize("name", ["", 5, "x" * 257])
async def test_names_that_are_none(client: httpx.AsyncClient, uri: str, name: Any) -> None:
    response = await ask(client, [user(says("What?"), named(name, image_url={"url": uri}))])
    failed(response, "invalid_request", "messages[0].content[1].uuid")


@session_loop
async def test_a_name_beside_another_image_is_a_second_one(client: httpx.AsyncClient, uri: str) -> None:
    response = await ask(client, [user(says("What?"), named("another"), shows(uri))])
    assert failed(response, "invalid_request", "messages").error.detail == {"images": 2}


def test_names_are_their_callers_own_and_the_latest_are_kept() -> None:
    names = ImageNames(capacity=2)
    names.put("ann", "x", "1")
    names.put("bob", "x", "2")
    assert (names.get("ann", "x"), names.get("bob", "x"), names.get("eve", "x")) == ("1", "2", None)
    names.get("ann", "x")
    names.put("ann", "y", "3")
    assert (names.get("ann", "x"), names.get("bob", "x")) == ("1", None)
