"""Multipart as browsers, old clients and tools write it, and JSON as editors save it."""

from __future__ import annotations

import codecs
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.app.test_native import as_json, failed

pytestmark = pytest.mark.asyncio(loop_scope="session")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(buffer, "PNG")
    return buffer.getvalue()


def part(disposition: str, body: bytes, kind: str = "") -> bytes:
    header = f"Content-Type: {kind}\r\n" if kind else ""
    return f"--limit\r\nContent-Disposition: form-data; {disposition}\r\n{header}\r\n".encode() + body + b"\r\n"


def field(name: str, value: str) -> bytes:
    return part(f'name="{name}"', value.encode())


QUESTION = field("question", "What is this?")
FILE = part('name="image"; filename="a.png"', png(), "image/png")


async def post(client: httpx.AsyncClient, *parts: bytes, path: str = "/v1/answer") -> httpx.Response:
    kind = {"Content-Type": "multipart/form-data; boundary=limit"}
    return await client.post(path, content=b"".join(parts) + b"--limit--\r\n", headers=kind)


@pytest.mark.parametrize(
    "file",
    [
        part("name=\"image\"; filename*=utf-8''%E7%8C%AB.png", png(), "image/png"),
        part("name=\"image\"; filename*=UTF-8''a.png", png()),
        part("name=\"image\"; FileName* = utf-8''a.png", png()),
        part('name="image"; filename="a.png"; filename*=utf-8\'\'b.png', png()),
        part('name="image"', png(), "image/png"),
        part('name="image"', png(), "IMAGE/PNG; q=1"),
        part('name="image"', png(), "application/octet-stream"),
        part('name="image"; filename=""', png(), "image/png"),
    ],
)
async def test_a_file_is_known_without_a_plain_name(client: httpx.AsyncClient, file: bytes) -> None:
    response = await post(client, file, QUESTION)
    assert response.status_code == 200, response.text
    assert response.json()["image"]["width"] == 32


async def test_text_with_a_type_stays_text(client: httpx.AsyncClient) -> None:
    typed = part('name="question"', b"What is this?", "text/plain; charset=utf-8")
    assert (await post(client, FILE, typed)).status_code == 200
    binary = part('name="question"', b"What is this?", "application/octet-stream")
    assert (await post(client, FILE, binary)).json()["results"][0]["question"] == "What is this?"
    other = part("name=\"question\"; filename*=utf-8''q.txt", b"What is this?")
    failed(await post(client, field("image_id", "img_0"), other), "invalid_request", "question")


@pytest.mark.parametrize("name", ["image_id", "model", "top_k", "maps", "map_kind", "layers", "candidates", "question"])
async def test_an_empty_field_is_none(client: httpx.AsyncClient, name: str) -> None:
    """A form sends every field that it has, and no file where none was chosen."""
    plain = (await post(client, FILE, QUESTION)).json()
    assert (await post(client, FILE, field(name, ""), QUESTION, field(name, ""))).json() == plain


async def test_a_form_without_a_file(client: httpx.AsyncClient) -> None:
    nothing = part('name="image"; filename=""', b"", "application/octet-stream")
    known = (await post(client, FILE, QUESTION)).json()["image"]["id"]
    assert (await post(client, nothing, field("image_id", known), QUESTION)).status_code == 200
    failed(await post(client, nothing, QUESTION), "invalid_request", "image")
    failed(await post(client, part('name="image"; filename="a.png"', b""), QUESTION), "image_broken", "image")


async def test_what_is_required_must_not_be_empty(client: httpx.AsyncClient) -> None:
    failed(await post(client, FILE, field("question", "")), "question_empty", "questions[0]")
    failed(await post(client, FILE, QUESTION, field("question", " ")), "question_empty", "questions[1]")
    failed(await post(client, FILE, field("question", ""), path="/v1/overlay"), "question_empty", "question")
    failed(await post(client, FILE, QUESTION, field("unknown", "x")), "invalid_request", "unknown")


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (['["cat", "dog"]'], ["cat", "dog"]),
        (["cat", "dog"], ["cat", "dog"]),
        (['["cat"]', "dog"], ["cat", "dog"]),
        (["[cat]"], ["[cat]"]),
        (["[1, 2"], ["[1, 2"]),
        (["[]"], ["[]"]),
    ],
)
async def test_a_list_in_one_field(client: httpx.AsyncClient, sent: list[str], meant: list[str]) -> None:
    response = await post(client, FILE, QUESTION, *(field("candidates", value) for value in sent))
    expected = await client.post("/v1/answer", json=as_json(png(), "What is this?", candidates=meant))
    assert response.status_code == expected.status_code == 200, response.text
    assert response.json() == expected.json()


async def test_layers_and_questions_in_one_field(client: httpx.AsyncClient) -> None:
    response = await post(client, FILE, field("question", '["one?", "two?"]'), field("layers", "[0, 1]"))
    assert [result["question"] for result in response.json()["results"]] == ["one?", "two?"]
    failed(await post(client, FILE, QUESTION, field("layers", "[0, 9]")), "map_not_supported", "layers")


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/answer", "/"])
async def test_json_behind_a_byte_order_mark(client: httpx.AsyncClient, encode: Any, path: str) -> None:
    body = as_json(png(), "Wo ist der Löffel?", maps="none")
    if path == "/":
        body = {"inputs": body["image"], "question": "Wo ist der Löffel?"}
    kind = {"Content-Type": "application/json"}
    content = encode(json.dumps(body, ensure_ascii=False))
    response = await client.post(path, content=content, headers=kind)
    assert response.status_code == 200, response.text
    bad = await client.post(path, content=content[:-2] + b"\xff\xff\xff", headers=kind)
    assert bad.headers["x-error-code"] == "malformed_request"


async def test_a_list_with_half_a_character(client: httpx.AsyncClient) -> None:
    """JSON may spell one, and nothing can write it: such a list is no JSON, so it is a question as it stands."""
    response = await post(client, FILE, field("question", '["\\ud83d", "b?"]'))
    assert response.json()["results"][0]["question"] == '["\\ud83d", "b?"]'
    both = await post(client, FILE, field("question", '["\\ud83d\\ude00?"]'))
    assert both.json()["results"][0]["question"] == "\N{GRINNING FACE}?"
