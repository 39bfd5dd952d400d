"""Hugging Face's dialect where its answer is not the clients' own tests' matter."""

from __future__ import annotations

import base64

import httpx
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("raw", [True, False])
async def test_an_image_alone_says_how_to_ask(client: httpx.AsyncClient, image_bytes: bytes, raw: bool) -> None:
    """A model that writes no captions cannot guess the question; the message has the body that it wants."""
    if raw:
        response = await client.post("/", content=image_bytes, headers={"content-type": "image/png"})
    else:
        response = await client.post("/", json={"inputs": base64.b64encode(image_bytes).decode()})
    body = response.json()
    assert (response.status_code, body["code"], body["param"]) == (422, "task_not_supported", "inputs")
    assert '{"inputs": {"image": .., "question": ..}}' in body["error"]
    assert body["detail"] == {"tasks": ["answer"]}
    wanted = {"inputs": {"image": base64.b64encode(image_bytes).decode(), "question": "what?"}}
    assert (await client.post("/", json=wanted)).status_code == 200
