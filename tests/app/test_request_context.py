"""What the dialects have in common: whose field an error names."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

from app.engine.engine import Engine
from tests.app.conftest import running
from tests.app.engine.tools import until


def broken(image_bytes: bytes) -> bytes:
    """Half of an image."""
    return image_bytes[: len(image_bytes) // 2]


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


async def test_a_broken_image_is_named_by_each_requests_own_field(image_bytes: bytes) -> None:
    """Requests that send it at once share its decoding, not each other's words."""
    image = "data:image/png;base64," + base64.b64encode(broken(image_bytes)).decode()
    dialects = [*FIELDS] * 3
    async with running(decode_threads=1) as (app, client):
        engine: Engine = app.state.engine
        hold = threading.Event()
        engine._decoders.most.submit(hold.wait)  # so that all of them come before it is decoded

        async def send(dialect: str) -> Any:
            path, content = body(dialect, image)
            response = await client.post(path, json=content)
            assert response.status_code == 422
            found = response.json()
            return found if dialect == "hugging face" else found["error"]

        sending = [asyncio.create_task(send(dialect)) for dialect in dialects]
        await until(lambda: [entry.users for entry in engine.replicas[0].cache] == [len(dialects)])
        hold.set()
        errors = await asyncio.gather(*sending)
    assert [error["code"] for error in errors] == ["image_broken"] * len(dialects)
    assert [error["param"] for error in errors] == [FIELDS[dialect] for dialect in dialects]
