"""``POST /v1/overlay``: the hot spot of the PNG lies where the map's does, on images of every shape."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.drawing import Drawing
from app.settings import Settings
from crosslook.overlay import draw_map
from crosslook.results import read_answers
from crosslook.types import AnswerResponse
from tests.app.conftest import encoded, running
from tests.app.test_limits import leave
from tests.app.test_native import failed

pytestmark = pytest.mark.asyncio(loop_scope="session")

YELLOW = np.array([253, 231, 37])  # viridis at a map's strongest cell


def image_of(width: int, height: int, orientation: int = 1) -> bytes:
    """A grey JPEG with one bright square, told to be turned."""
    image = Image.new("RGB", (width, height), (90, 90, 90))
    image.paste((250, 250, 250), (width // 2, height // 8, width // 2 + width // 6, height // 8 + height // 6))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95)


async def drawn(client: httpx.AsyncClient, data: bytes, **fields: Any) -> Image.Image:
    """The overlay of one question."""
    files = {"image": ("image.jpg", data)}
    form = {"question": "what is bright here", **fields}
    response = await client.post("/v1/overlay", data=form, files=files)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


async def asked(client: httpx.AsyncClient, data: bytes) -> AnswerResponse:
    """The same question's answer, with its maps as numbers."""
    response = await client.post("/v1/answer", data={"question": "what is bright here"}, files={"image": data})
    return AnswerResponse.model_validate_json(response.content)


@pytest.mark.parametrize(
    ("width", "height", "orientation"),
    [
        *((320, 90, 1), (90, 320, 1), (201, 133, 1), (240, 120, 6), (240, 120, 3), (121, 250, 8), (240, 120, 5)),
        *((3000, 1501, 1), (2400, 900, 6), (2048, 100, 1)),
    ],
)
@pytest.mark.parametrize("word", [None, 0])
async def test_the_hot_spot_lies_in_the_strongest_cell(
    client: httpx.AsyncClient, width: int, height: int, orientation: int, word: int | None
) -> None:
    data = image_of(width, height, orientation)
    response = await asked(client, data)
    upright = (height, width) if orientation >= 5 else (width, height)
    assert (response.image.width, response.image.height) == upright
    answer = read_answers(response, None)[0]
    expected = answer.map if word is None else answer.words[word]
    assert expected is not None
    fields = {"opacity": "1", "legend": "false"} | ({} if word is None else {"word": str(word)})
    image = await drawn(client, data, **fields)
    assert max(image.size) == min(max(upright), 2048)
    assert image.width / image.height == pytest.approx(upright[0] / upright[1], rel=1e-3)
    distance = np.abs(np.asarray(image, dtype=int) - YELLOW).sum(axis=2)
    row, column = np.unravel_index(int(distance.argmin()), distance.shape)
    assert distance[row, column] < 40  # the centre of a cell need not be the centre of a pixel
    region, grid = expected.attention.region, expected.attention.grid
    y, x = ((place + 0.5) * upright[0] / image.width for place in (row, column))
    cell_row = int((y - region.top) / (region.bottom - region.top) * grid.rows)
    cell_column = int((x - region.left) / (region.right - region.left) * grid.columns)
    values = expected.array()
    assert values[cell_row, cell_column] >= 0.98 * values.max()


async def test_it_is_what_the_client_draws(client: httpx.AsyncClient) -> None:
    data = image_of(160, 120)
    answer = read_answers(await asked(client, data), None)[0]
    assert answer.map is not None
    mine = draw_map(Image.open(io.BytesIO(data)).convert("RGB"), answer.map, opacity=0.5)
    theirs = await drawn(client, data, opacity="0.5")
    assert np.abs(np.asarray(mine, dtype=int) - np.asarray(theirs, dtype=int)).max() <= 1


async def test_without_opacity_it_is_the_image(client: httpx.AsyncClient) -> None:
    data = image_of(160, 120)
    image = await drawn(client, data, opacity="0", legend="false")
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


async def test_a_sheet_shows_every_word(client: httpx.AsyncClient) -> None:
    image = await drawn(client, image_of(160, 120), sheet="true")
    assert image.width >= 640
    assert image.height > image.width * 120 / 160


async def test_json_body(client: httpx.AsyncClient) -> None:
    image = base64.b64encode(image_of(100, 80)).decode()
    response = await client.post("/v1/overlay", json={"image": image, "question": "what is it", "layers": [0]})
    assert response.status_code == 200
    assert Image.open(io.BytesIO(response.content)).size == (100, 80)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"word": 9}, "invalid_request", "word"),
        ({"opacity": 2}, "invalid_request", "opacity"),
        ({"question": " "}, "question_empty", "question"),
        ({"question": "a" * 1001}, "question_too_long", "question"),
        ({"question": "xyzzy"}, "question_not_understood", "question"),
        ({"image": "AAAA"}, "unsupported_image", "image"),
        ({"image": None}, "invalid_request", "image"),
        ({"layers": [77]}, "map_not_supported", "layers"),
        ({"model": "other"}, "model_not_found", "model"),
    ],
)
async def test_errors(client: httpx.AsyncClient, fields: dict[str, Any], code: str, param: str) -> None:
    image = base64.b64encode(image_of(100, 80)).decode()
    body = {"image": image, "question": "what is it", **fields}
    response = await client.post("/v1/overlay", json={name: value for name, value in body.items() if value is not None})
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert "[0]" not in error["message"]


@asynccontextmanager
async def occupied(drawing: Drawing) -> AsyncIterator[None]:
    """All drawing threads busy until the block ends."""
    done, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> Image.Image:
        begun.release()
        done.wait(30)
        return Image.new("RGB", (1, 1))

    busy = [asyncio.create_task(drawing.draw(hold)) for _ in range(drawing.threads)]
    for _ in busy:
        assert await asyncio.to_thread(begun.acquire, timeout=30)
    try:
        yield
    finally:
        done.set()
        await asyncio.gather(*busy)


async def test_drawing_keeps_to_the_deadline_and_to_clients_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a thread too long, or hangs up, has nothing drawn; answers do not wait behind drawings; 503 where
    the wait would be too long."""
    drawn: list[int] = []

    def draw(image: Image.Image, *_: object) -> Image.Image:
        drawn.append(1)
        return image

    monkeypatch.setattr("app.routes.overlay._draw", draw)
    body = {"image": base64.b64encode(image_of(100, 80)).decode(), "question": "what is it"}
    async with running() as (app, client):
        drawing = app.state.drawing
        async with occupied(drawing):
            response = await client.post("/v1/overlay", json=body, headers={"X-Request-Timeout": "0.4"})
            assert failed(response, "deadline_exceeded").error.message == "Not finished within 0.4 s."
            assert await leave(app, body, "/v1/overlay") == []
            answer = await client.post("/v1/answer", json={"image": body["image"], "questions": ["what is it"]})
            assert answer.status_code == 200
            assert drawing.admission.items == 0
            drawing.admission.encode.seconds = 11.0
            waiting = asyncio.create_task(client.post("/v1/overlay", json=body))
            while not drawing.admission.items:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            failed(await client.post("/v1/overlay", json=body), "overloaded")
            assert drawn == []
        assert (await waiting).status_code == 200
        assert drawn == [1]


async def test_a_drawing_that_nobody_waits_for_keeps_its_thread() -> None:
    """Given up in the middle, it still costs what it costs: no other begins in its place."""
    drawing, at_once, most, lock = Drawing(Settings(_env_file=None)), 0, 0, threading.Lock()

    def work() -> Image.Image:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.2)
        with lock:
            at_once -= 1
        return Image.new("RGB", (1, 1))

    for _ in range(drawing.threads + 3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await drawing.draw(work)
    await drawing.draw(work)
    assert most == drawing.threads
    drawing.close()
