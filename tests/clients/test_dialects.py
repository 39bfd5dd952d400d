"""Every dialect goes through the same limits, auth and metrics: the same status and code, in its own envelope."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from crosslook.errors import CODES
from tests.app.servers import serving
from tests.clients.conftest import coloured
from tests.fakes.reference_server import LOADER

Body = Callable[[bytes, str], dict[str, Any]]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def native(data: bytes, question: str) -> dict[str, Any]:
    return {"image": b64(data), "questions": [question]}


def chat(data: bytes, question: str) -> dict[str, Any]:
    uri = f"data:;base64,{b64(data)}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": question}]
    return {"model": "colours", "messages": [{"role": "user", "content": content}]}


def task(data: bytes, question: str) -> dict[str, Any]:
    return {"inputs": b64(data), "question": question}


DIALECTS: dict[str, Body] = {"/v1/answer": native, "/v1/chat/completions": chat, "/": task}


def code_of(response: httpx.Response, path: str) -> str:
    """The code of an error, in the dialect's envelope; the envelope holds nothing else than it should."""
    body = response.json()
    fields = {"code", "message", "type", "param", "request_id", "detail"}
    if path == "/":
        assert set(body) == fields - {"message", "type"} | {"error"}
        assert isinstance(body["error"], str)
        found = body
    else:
        assert set(body) == {"error"}
        found = body["error"]
        assert set(found) == fields
    assert found["request_id"] == response.headers["x-request-id"]
    assert int(response.headers["content-length"]) == len(response.content)
    code = str(found["code"])
    assert response.headers["x-error-code"] == code
    assert response.status_code == CODES[code].status
    assert ("retry-after" in response.headers) == CODES[code].retry
    return code


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize(
    ("image", "question", "code"),
    [
        (b"no image", "What?", "unsupported_image"),
        (b"", "What?", "invalid_base64"),
        (coloured("red")[:-40], "What?", "image_broken"),
        ("big", "What?", "image_too_large"),
        ("huge", "What?", "body_too_large"),
        ("red", " ", "question_empty"),
        ("red", "a" * 1001, "question_too_long"),
        ("red", "xyzzy", "question_not_understood"),
        ("red", "!raise", "internal_error"),
    ],
)
def test_the_same_error(
    url: str, path: str, image: bytes | str, question: str, code: str, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(image) if isinstance(image, str) else image
    response = httpx.post(url + path, json=DIALECTS[path](data, question), timeout=30)
    assert code_of(response, path) == code


@pytest.mark.parametrize("path", DIALECTS)
def test_the_same_refusals(guarded: str, key: str, path: str, red: bytes) -> None:
    body = DIALECTS[path](red, "What?")
    authorization = {"Authorization": f"Bearer {key}"}
    for headers, code in (
        ({}, "invalid_api_key"),
        ({"Authorization": "Bearer wrong"}, "invalid_api_key"),
        (authorization, "overloaded"),
        (authorization, "rate_limited"),
    ):
        assert code_of(httpx.post(guarded + path, json=body, headers=headers), path) == code


@pytest.mark.parametrize("path", DIALECTS)
def test_the_same_care_with_bodies(url: str, path: str, red: bytes) -> None:
    """Malformed JSON, no JSON at all, a body that lacks everything, an impossible deadline."""
    kind = {"Content-Type": "application/json"}
    good = json.dumps(DIALECTS[path](red, "What?"))
    for content, headers, code in (
        ('{"', kind, "malformed_request"),
        (good, {"Content-Type": "text/plain"}, "unsupported_media_type"),
        ("{}", kind, "invalid_request"),
        (good, kind | {"X-Request-Timeout": "soon"}, "invalid_request"),
        (good, kind | {"X-Request-Timeout": "0.000001"}, "deadline_exceeded"),
    ):
        assert code_of(httpx.post(url + path, content=content, headers=headers), path) == code


@pytest.mark.parametrize("path", DIALECTS)
def test_the_same_metrics_and_headers(url: str, path: str, red: bytes) -> None:
    def counted(status: int) -> float:
        pattern = rf'crosslook_requests_total{{route="{path}",status="{status}"}} (\S+)'
        found = re.search(pattern, httpx.get(f"{url}/metrics").text)
        return float(found[1]) if found else 0.0

    before = counted(200), counted(422)
    good = httpx.post(url + path, json=DIALECTS[path](red, "What?"), headers={"X-Request-ID": "mine"})
    bad = httpx.post(url + path, json=DIALECTS[path](red, " "))
    assert (good.status_code, bad.status_code) == (200, 422)
    assert (counted(200), counted(422)) == (before[0] + 1, before[1] + 1)
    assert good.headers["x-request-id"] == "mine"
    assert good.headers["x-cache"] in ("hit", "miss")
    assert {"run", "total"} <= {part.split(";")[0].strip() for part in good.headers["server-timing"].split(",")}


def test_the_dialects_agree(url: str, red: bytes) -> None:
    native_body, chat_body, task_body = (
        httpx.post(url + path, json=make(red, "What colour?")).json() for path, make in DIALECTS.items()
    )
    result = native_body["results"][0]
    assert chat_body["choices"][0]["message"]["content"] == result["answer"] == task_body[0]["answer"]
    assert chat_body["crosslook"]["results"][0]["score"] == result["score"]
    assert task_body[0]["score"] == pytest.approx(result["score"], rel=1e-5)
    assert chat_body["crosslook"]["image"] == native_body["image"]


def test_the_page_is_still_at_the_root(url: str) -> None:
    page = httpx.get(url)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert httpx.request("PUT", url).json()["error"]["code"] == "method_not_allowed"


def test_behind_a_prefix(tmp_path_factory: pytest.TempPathFactory, red: bytes) -> None:
    """A proxy that strips a path prefix, and one that does not."""
    with serving(tmp_path_factory.mktemp("prefix") / "log", loader=LOADER, root_path="/vqa") as server:
        for path in ("/", "/vqa/"):
            good = httpx.post(server.url + path, json=task(red, "What colour?"))
            assert good.json()[0]["answer"] == "red"
            assert code_of(httpx.post(server.url + path, json=task(red, " ")), "/") == "question_empty"
