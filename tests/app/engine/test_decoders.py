"""Images that take much memory: few at once, and nobody waits behind them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fastapi import FastAPI
from httpx import AsyncClient, Response
from PIL import Image

from app.engine.decoders import LARGE_AT_ONCE, large_places
from tests.app.conftest import encoded, running
from tests.app.engine.tools import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def small_limits() -> AsyncIterator[tuple[FastAPI, AsyncClient]]:
    """A service for which more than 1,000 pixels are many."""
    most = Image.MAX_IMAGE_PIXELS
    async with running(image_pixels=4000, decode_threads=1, encode_batch=1, queue_items=500) as pair:
        yield pair
    Image.MAX_IMAGE_PIXELS = most  # which is for all of the process


def large(shade: int) -> bytes:
    """1,600 pixels."""
    return encoded(Image.new("RGB", (40, 40), (shade, shade, shade)))


async def ask(client: AsyncClient, image: bytes, path: str = "/v1/answer") -> Response:
    """The stand-in model says how bright the image is."""
    body = {"image": base64.b64encode(image).decode()}
    return await client.post(path, json=body | ({"question": "what?"} if "overlay" in path else {"questions": ["a?"]}))


async def test_others_do_not_wait_behind_large_images(small_limits: tuple[FastAPI, AsyncClient]) -> None:
    """However many there are: of one decoder thread, and of the few images that are decoded ahead of the model, they
    take nothing. Their turn comes."""
    app, client = small_limits
    for _ in range(LARGE_AT_ONCE):
        large_places.acquire()
    try:
        waiting = [asyncio.create_task(ask(client, large(n))) for n in range(60)]
        await until(lambda: app.state.engine.replicas[0].images.loading == len(waiting))
        small = encoded(Image.new("RGB", (25, 40), (77, 77, 77)))  # 1,000 pixels
        answer = await ask(client, small)
        assert answer.json()["results"][0]["answer"] == "77"
        assert not any(task.done() for task in waiting)
    finally:
        for _ in range(LARGE_AT_ONCE):
            large_places.release()
    answers = [(await task).json()["results"][0]["answer"] for task in waiting]
    assert answers == [str(n) for n in range(60)]


async def test_a_drawing_of_a_large_image_waits_too(small_limits: tuple[FastAPI, AsyncClient]) -> None:
    """It holds the image once more. Drawings of others wait for it, answers do not."""
    _, client = small_limits
    assert (await ask(client, large(200))).status_code == 200  # the model knows it: only the drawing needs its pixels
    for _ in range(LARGE_AT_ONCE):
        large_places.acquire()
    try:
        drawing = asyncio.create_task(ask(client, large(200), "/v1/overlay"))
        assert (await ask(client, encoded(Image.new("RGB", (9, 9), (5, 5, 5))))).status_code == 200
        await asyncio.sleep(0.2)
        assert not drawing.done()
    finally:
        for _ in range(LARGE_AT_ONCE):
            large_places.release()
    assert (await drawing).headers["content-type"] == "image/png"


async def test_who_hangs_up_leaves_the_line(small_limits: tuple[FastAPI, AsyncClient]) -> None:
    """Of large images too."""
    app, client = small_limits
    replica, encoded_before = app.state.engine.replicas[0], app.state.engine.encoded
    for _ in range(LARGE_AT_ONCE):
        large_places.acquire()
    try:
        waiting = [asyncio.create_task(ask(client, large(100 + n))) for n in range(LARGE_AT_ONCE + 3)]
        await until(lambda: replica.images.loading == len(waiting))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: replica.images.loading == 0)
        assert not replica.images.decoding
    finally:
        for _ in range(LARGE_AT_ONCE):
            large_places.release()
    assert (await ask(client, large(99))).json()["results"][0]["answer"] == "99"
    assert app.state.engine.encoded == encoded_before + 1
