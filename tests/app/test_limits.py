"""Bounds: bodies, rates, deadlines."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.datastructures import Headers

from app.auth import make_key
from app.errors import RequestError
from app.limits import TIMEOUT_HEADER, RateLimiter, time_allowed
from tests.app.conftest import encoded, running
from tests.app.test_native import as_json, failed

IMAGE = encoded(Image.new("RGB", (20, 20), (1, 2, 3)))


async def test_the_rate_limiter_refills_and_says_when() -> None:
    """A minute's worth at once, then as it refills; one caller does not touch another."""
    now = 0.0
    limiter = RateLimiter(60, clock=lambda: now)
    for _ in range(6):
        await limiter.spend("ann", 10)
    with pytest.raises(RequestError) as caught:
        await limiter.spend("ann", 10)
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after == pytest.approx(10.0)
    await limiter.spend("bob", 10)
    now = 10.0
    await limiter.spend("ann", 10)
    now = 100.0
    await limiter.spend("ann", 90)  # more than the bucket holds passes when it is full, and leaves a debt
    now = 129.0
    with pytest.raises(RequestError):
        await limiter.spend("ann", 1)
    now = 131.5
    await limiter.spend("ann", 1)
    await RateLimiter(0).spend("ann", 10**9)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 30.0), ("99", 30.0), ("30", 30.0), ("0.25", 0.25), ("1e-9", 1e-9)]
)
def test_a_client_may_ask_for_less_time_never_for_more(header: str | None, seconds: float) -> None:
    """The operator's deadline stands."""
    headers = Headers({} if header is None else {TIMEOUT_HEADER: header})
    assert time_allowed(headers, 30.0) == seconds


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "-inf", "", "soon", "1,5"])
def test_a_time_that_is_no_positive_number_is_refused(header: str) -> None:
    """Not taken for no limit, nor for none left."""
    with pytest.raises(RequestError) as caught:
        time_allowed(Headers({TIMEOUT_HEADER: header}), 30.0)
    assert (caught.value.code, caught.value.param) == ("invalid_request", TIMEOUT_HEADER)


class TestOverHTTP:
    """The same bounds as a client meets them."""

    async def test_bodies(self) -> None:
        """Too large by header, and too large by count where no header says so."""
        async with running(body_bytes=2000, image_bytes=1024) as (_, client):
            json_type = {"content-type": "application/json"}
            response = await client.post("/v1/answer", content=b"x" * 3000, headers=json_type)
            assert failed(response, "body_too_large").error.detail == {"max_bytes": 2000}

            async def chunks() -> AsyncIterator[bytes]:
                for _ in range(30):
                    yield b"x" * 100

            failed(await client.post("/v1/answer", content=chunks(), headers=json_type), "body_too_large")
            multipart = {"content-type": "multipart/form-data; boundary=b"}

            async def parts() -> AsyncIterator[bytes]:
                yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
                async for chunk in chunks():
                    yield chunk

            failed(await client.post("/v1/answer", content=parts(), headers=multipart), "body_too_large")
            large = encoded(Image.effect_noise((40, 40), 90))
            assert 1024 < len(large) < 2000
            response = await client.post("/v1/answer", files={"image": large}, data={"question": "what?"})
            failed(response, "image_too_large", "image")
            assert (await client.post("/v1/answer", json=as_json(IMAGE, "what?"))).status_code == 200

    async def test_keys_and_what_needs_none(self) -> None:
        """Routes that cost ask for a key; probes, metrics and the document do not. Ids belong to their key."""
        (ann, ann_pair), (bob, bob_pair) = make_key("ann"), make_key("bob")
        async with running(api_keys=[ann_pair, bob_pair]) as (_, client):
            for path in ("/v1/answer", "/v1/images"):
                response = await client.post(path, json=as_json(IMAGE, "what?"))
                failed(response, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
            failed(await client.get("/v1/models"), "invalid_api_key")
            for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
                assert (await client.get(path)).status_code == 200
            as_ann, as_bob = ({"authorization": f"Bearer {key}"} for key in (ann, bob))
            upload = await client.post("/v1/images", files={"image": IMAGE}, headers=as_ann)
            assert upload.status_code == 200, upload.text
            body = {"image_id": upload.json()["image"]["id"], "questions": ["what?"]}
            assert (await client.post("/v1/answer", json=body, headers=as_ann)).headers["x-cache"] == "hit"
            failed(await client.post("/v1/answer", json=body, headers=as_bob), "image_not_found", "image_id")

    async def test_a_rate_for_each_key(self) -> None:
        """429 with the seconds to wait, counted in questions."""
        async with running(rate_per_minute=4) as (_, client):
            assert (await client.post("/v1/answer", json=as_json(IMAGE, *"abc"))).status_code == 200
            response = await client.post("/v1/answer", json=as_json(IMAGE, *"abc"))
            failed(response, "rate_limited")
            assert 25 <= int(response.headers["retry-after"]) <= 31

    async def test_what_the_rate_counts(self) -> None:
        """As docs/operations.md has it: uploads, and what is refused late, but not what is refused early."""
        async with running(rate_per_minute=2) as (_, client):
            failed(await client.post("/v1/answer", json=as_json(IMAGE)), "invalid_request", "questions")
            assert (await client.post("/v1/images", files={"image": IMAGE})).status_code == 200
            failed(await client.post("/v1/answer", json=as_json(b"GIF89a", "a")), "image_broken", "image")
            failed(await client.post("/v1/images", files={"image": IMAGE}), "rate_limited")

    async def test_candidates_are_not_free(self) -> None:
        """200 characters of them count as a question: in the rate and in the queue."""
        candidates = [f"{n:03} " + "x" * 196 for n in range(10)]
        async with running(rate_per_minute=20) as (_, client):
            body = as_json(IMAGE, "a?", candidates=candidates)
            assert (await client.post("/v1/answer", json=body)).status_code == 200
            failed(await client.post("/v1/answer", json=body), "rate_limited")
            assert (await client.post("/v1/answer", json=as_json(IMAGE, *"abc"))).status_code == 200
        async with running(queue_items=16) as (app, client):
            await client.post("/v1/answer", json=as_json(IMAGE, "warm?"))
            busy = asyncio.create_task(client.post("/v1/answer", json=as_json(IMAGE, "!slow 1", candidates=candidates)))
            async with asyncio.timeout(10.0):
                while not app.state.engine.admission.items:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert app.state.engine.admission.items == 11
            failed(await client.post("/v1/answer", json=body), "overloaded")
            assert (await busy).status_code == 200

    async def test_nothing_tells_what_another_key_sent(self) -> None:
        """Neither the cache's header, nor the stages, nor the id."""
        (ann, ann_pair), (bob, bob_pair) = make_key("ann"), make_key("bob")
        async with running(api_keys=[ann_pair, bob_pair]) as (app, client):
            seen = []
            for key in (ann, bob, ann):
                headers = {"authorization": f"Bearer {key}"}
                response = await client.post("/v1/images", files={"image": IMAGE}, headers=headers)
                stages = {part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")}
                seen.append((response.headers["x-cache"], "encode" in stages, response.json()["image"]["id"]))
            assert [entry[:2] for entry in seen] == [("miss", True), ("miss", True), ("hit", False)]
            assert seen[0][2] == seen[2][2] != seen[1][2]
            assert app.state.engine.encoded == 2

    async def test_the_clients_deadline(self) -> None:
        """The header shortens the server's own deadline; nonsense in it is an error of the request."""
        async with running() as (app, client):
            headers = {"X-Request-Timeout": "0.2"}
            response = await client.post("/v1/answer", json=as_json(IMAGE, "!slow 0.6"), headers=headers)
            failed(response, "deadline_exceeded")
            for nonsense in ("soon", "-1", "0", "nan", "inf"):
                headers = {"X-Request-Timeout": nonsense}
                response = await client.post("/v1/answer", json=as_json(IMAGE, "what?"), headers=headers)
                failed(response, "invalid_request", "X-Request-Timeout")
            assert app.state.engine.admission.items == 0

    async def test_a_client_that_leaves(self) -> None:
        """Its work is dropped before it reaches the model, and counted."""
        async with running() as (app, client):
            engine = app.state.engine
            await client.post("/v1/answer", json=as_json(IMAGE, "warm?"))
            busy = asyncio.create_task(client.post("/v1/answer", json=as_json(IMAGE, "!slow 0.5")))
            await asyncio.sleep(0.1)
            left = await leave(app, as_json(IMAGE, "left?"))
            assert left == []
            assert (await busy).status_code == 200
            assert (await client.post("/v1/answer", json=as_json(IMAGE, "next?"))).status_code == 200
            text = (await client.get("/metrics")).text
            assert "crosslook_abandoned_total 1.0" in text
            assert 'crosslook_dropped_total{kind="run"} 1.0' in text
            assert engine.admission.items == 0
            assert engine.admission.nbytes == 0

    async def test_urls_are_refused_unless_allowed(self) -> None:
        """With the switch off no address is even looked up."""
        async with running() as (_, client):
            body = {"image": "http://127.0.0.1:9/cat.jpg", "questions": ["what?"]}
            failed(await client.post("/v1/answer", json=body), "url_not_allowed", "image")


async def leave(app: Any, body: dict[str, Any], path: str = "/v1/answer") -> list[dict[str, Any]]:
    """Post a body and hang up at once: what the server sends to the closed connection."""
    data = httpx.Request("POST", "http://x", json=body).content
    received = {"type": "http.request", "body": data, "more_body": False}
    messages: list[dict[str, Any]] = [received, {"type": "http.disconnect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if len(messages) == 1:
            await asyncio.sleep(0.05)
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json"), (b"host", b"x")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return sent


async def test_uploads() -> None:
    """``POST /v1/images``: an id for the bytes, as multipart and as JSON; errors like any other."""
    async with running() as (app, client):
        first = await client.post("/v1/images", files={"image": IMAGE})
        second = await client.post("/v1/images", json={"image": base64.b64encode(IMAGE).decode()})
        assert first.content == second.content
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
        assert first.json()["image"]["width"] == 20
        assert app.state.engine.encoded == 1
        body = {"image_id": first.json()["image"]["id"], "questions": ["what?"]}
        assert (await client.post("/v1/answer", json=body)).headers["x-cache"] == "hit"
        failed(await client.post("/v1/images", json={}), "invalid_request", "image")
        failed(await client.post("/v1/images", files={"image": b"GIF89a"}), "image_broken", "image")
