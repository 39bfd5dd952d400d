"""What the dialects have in common: whose field an error names."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest

from app.engine.engine import Engine
from app.errors import RequestError
from tests.app.conftest import running
from tests.app.engine.tools import busy, refused, source, until


def broken(image_bytes: bytes) -> bytes:
    """An image without its end."""
    return image_bytes[:-20]


def body(dialect: str, image: str) -> tuple[str, dict[str, Any]]:
    """A request about one image, and where to send it."""
    if dialect == "native":
        return "/v1/answer", {"image": image, "questions": ["what?"]}
    if dialect == "upload":
        return "/v1/images", {"image": image}
    if dialect == "chat":
        parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": image}}]
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}
    return "/", {"inputs": {"image": image, "question": "what?"}}


FIELDS = {"native": "image", "upload": "image", "chat": "messages[0].content[1]", "hugging face": "inputs"}


async def test_a_broken_image_is_named_by_each_requests_own_field(
    client: httpx.AsyncClient, engine: Engine, image_bytes: bytes
) -> None:
    """Requests that send it at once share its decoding, not each other's words."""
    image = "data:image/png;base64," + base64.b64encode(broken(image_bytes)).decode()
    dialects = [*FIELDS] * 3
    first = await busy(engine, 0.3)

    async def send(dialect: str) -> Any:
        path, content = body(dialect, image)
        response = await client.post(path, json=content)
        assert response.status_code == 422
        found = response.json()
        return found if dialect == "hugging face" else found["error"]

    errors = await asyncio.gather(*map(send, dialects))
    await first
    assert [error["code"] for error in errors] == ["image_broken"] * len(dialects)
    assert [error["param"] for error in errors] == [FIELDS[dialect] for dialect in dialects]
