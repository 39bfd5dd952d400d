"""What both clients are made with: address, key, timeout, an httpx client from outside."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

import crosslook
from tests.crosslook.conftest import Connect, golden
from tests.crosslook.test_client import IMAGE, Server


def test_url_and_key_come_from_the_environment(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLOOK_URL", "http://from.env:1")
    monkeypatch.setenv("CROSSLOOK_API_KEY", "secret")
    server = Server()
    connect(server).answer(IMAGE, "a?")
    assert str(server.requests[0].url) == "http://from.env:1/v1/answer"
    assert server.requests[0].headers["authorization"] == "Bearer secret"
    monkeypatch.delenv("CROSSLOOK_API_KEY")
    monkeypatch.delenv("CROSSLOOK_URL")
    connect(server).answer(IMAGE, "a?")
    assert str(server.requests[1].url) == "http://127.0.0.1:8080/v1/answer"
    assert "authorization" not in server.requests[1].headers


def test_a_key_is_sent_without_the_space_around_it(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSLOOK_API_KEY", "secret \n")
    server = Server()
    connect(server).answer(IMAGE, "a?")
    connect(server, api_key="\topen sesame").answer(IMAGE, "a?")
    connect(server, api_key=" ").answer(IMAGE, "a?")
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == ["Bearer secret", "Bearer open sesame", None]


@pytest.mark.parametrize("key", ["top\nsecret", "top\tsecret", "top-secret-é", "绝密 top-secret"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(connect: Connect, key: str) -> None:
    with pytest.raises(ValueError, match="API key has characters") as caught:
        connect(Server(), api_key=key)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_of_nothing_is_refused(connect: Connect, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds"):
        connect(Server(), timeout=timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1_000_001])
def test_a_timeout_that_no_clock_holds_is_refused(connect: Connect, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be at most 1000000 seconds"):
        connect(Server(), timeout=timeout)


def test_a_url_without_a_scheme_is_refused_at_once(connect: Connect) -> None:
    with pytest.raises(ValueError, match="http://"):
        connect(url="localhost:8080")


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://h:abc",
        "http://h:99999",
        "http://",
        "http://h\x01",
        "http://h/\udcff",
        "http://me:secret@h:port",
        "http://me:sec/ret@h",
        "me:secret@h:8080",
    ],
)
def test_a_mistyped_url_is_refused_at_once_without_its_password(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="a server's URL") as caught:
        connect(url=url)
    assert caught.value.__context__ is None
    assert "sec" not in str(caught.value)
    assert "me:" not in str(caught.value)


def test_an_http_client_from_outside_stays_open() -> None:
    http = httpx.Client(transport=httpx.MockTransport(Server()))
    with crosslook.Client(http_client=http) as client:
        client.answer(IMAGE, "a?")
    assert not http.is_closed
    http.close()


async def test_an_async_http_client_from_outside_stays_open() -> None:
    http = httpx.AsyncClient(transport=httpx.MockTransport(Server()))
    async with crosslook.AsyncClient(http_client=http) as client:
        await client.answer(IMAGE, "a?")
    assert not http.is_closed
    await http.aclose()


def test_numbers_and_arrays_of_numpy_are_sent_as_numbers_and_lists(connect: Connect) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(200, json=golden("answer_one"))

    options = {"top_k": np.int64(3), "layers": np.array([0, 1]), "candidates": np.array(["yes", "no"])}
    connect(answer).answer(IMAGE, np.array(["a?"]), **options)
    connect(answer).answer(IMAGE, ["a?"], layers=[np.int32(0), np.uint8(1)])
    assert {name: asked[0][name] for name in options} == {"top_k": 3, "layers": [0, 1], "candidates": ["yes", "no"]}
    assert asked[0]["questions"] == ["a?"]
    assert asked[1]["layers"] == [0, 1]
    with pytest.raises(TypeError, match="cannot hold a set"):
        connect(answer).answer(IMAGE, ["a?"], layers={0})
