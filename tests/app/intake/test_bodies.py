"""What a body may hold: bounded before its items are looked at, and no error as long as what was sent."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.requests import Request

from app.errors import RequestError
from app.intake import bodies
from app.routes.huggingface import HuggingFaceRequest
from app.routes.openai import ChatRequest
from app.routes.responses import ResponseRequest
from crosslook.types import AnswerRequest, CaptionRequest, MatchRequest, OverlayRequest
from model.interface import ItemError
from tests.app.test_native import as_json, failed

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROUTES: dict[str, tuple[Any, dict[str, Any]]] = {
    "/v1/answer": (AnswerRequest, {"questions": ["a?"], "image": "x"}),
    "/v1/match": (MatchRequest, {"texts": ["a"], "image": "x"}),
    "/v1/caption": (CaptionRequest, {"prompts": [""], "image": "x"}),
    "/v1/overlay": (OverlayRequest, {"question": "a?", "image": "x"}),
    "/v1/chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "a?"}]}),
    "/v1/responses": (ResponseRequest, {"input": [{"role": "user", "content": "a?"}]}),
    "/": (HuggingFaceRequest, {"inputs": "x", "question": "a?"}),
}


def lists(schema: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where a request's schema has lists, each after checking that it has a bound."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    found = []
    if schema.get("type") == "array":
        assert schema["maxItems"] <= 5000, path
        found.append(path)
        found += lists(schema["items"], definitions, (*path, "[]"))
    for name, part in schema.get("properties", {}).items():
        found += lists(part, definitions, (*path, name))
    for part in schema.get("anyOf", schema.get("oneOf", [])):
        found += lists(part, definitions, path)
    return found


@pytest.mark.parametrize("path", ROUTES)
async def test_every_list_has_a_bound(path: str) -> None:
    """Those of items that are lists or objects again included."""
    schema = ROUTES[path][0].model_json_schema()
    assert lists(schema, schema.get("$defs", {})), path


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("item", [0, "a", {}, [], None])
async def test_a_long_list_is_one_error(client: httpx.AsyncClient, path: str, item: object) -> None:
    """At the place of every list of every route, of things that it may hold and that it may not."""
    kind, body = ROUTES[path]
    schema = kind.model_json_schema()
    for place in lists(schema, schema.get("$defs", {})):
        if "[]" in place:
            continue
        sent = json.loads(json.dumps(body))
        inner = sent
        for name in place[:-1]:
            inner = inner.setdefault(name, {})
        inner[place[-1]] = [item] * 20_000
        response = await client.post(path, json=sent)
        assert response.status_code == 422, response.text
        assert len(response.content) < 1000
        assert place[-1] in response.json().get("param", response.json()["error"] if path != "/" else {}).__repr__()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"questions": [' + b"0," * 200_000 + b"0]}", "invalid_request"),
        (b'{"questions": [' + b'"a",' * 200_000 + b'"a"]}', "invalid_request"),
        (b"{" + b",".join(b'"a%d": 1' % n for n in range(50_000)) + b"}", "invalid_request"),
        (b'{"questions": ["' + b"\\/" * 3_000_000 + b'"]}', "invalid_request"),
        (b'{"questions": ["a"], "image": "x", "layers": [' + b"1," * 1000 + b"1]}", "invalid_request"),
        (b'{"questions": ["a"], "image": "x", "top_k": ' + b"1" * 5_000_000 + b"}", "malformed_request"),
        (b"[" * 5_000_000, "malformed_request"),
        (b'{"questions":' * 500_000, "malformed_request"),
        (b" " * 5_000_000, "malformed_request"),
        (b"\xff" * 5_000_000, "malformed_request"),
    ],
)
async def test_bodies_that_cost_more_than_their_bytes(client: httpx.AsyncClient, body: bytes, code: str) -> None:
    """Refused in a line, whatever they hold by the million."""
    response = await client.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    error = json.loads(response.content)["error"]
    assert error["code"] == code, error
    assert len(response.content) < 1000


async def test_more_questions_than_any_server_takes(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """The same code as for one more than this server takes."""
    response = await client.post("/v1/answer", json=as_json(image_bytes, *["a"] * 1001))
    failed(response, "too_many_questions", "questions")


async def test_large_bodies_are_still_read(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """Off the loop: the same answer as for the small one, and the same errors."""
    plain = await client.post("/v1/answer", json=as_json(image_bytes, "what?"))
    padded = json.dumps(as_json(image_bytes, "what?")).encode() + b" " * 1_000_000
    headers = {"content-type": "application/json"}
    assert (await client.post("/v1/answer", content=padded, headers=headers)).content == plain.content
    wrong = json.dumps(as_json(image_bytes, "what?", wrong=1)).encode() + b" " * 1_000_000
    failed(await client.post("/v1/answer", content=wrong, headers=headers), "invalid_request", "wrong")


async def test_a_field_is_named_in_few_words(client: httpx.AsyncClient) -> None:
    """The client's own word, cut, in JSON and in multipart."""
    name = "A" * 2_000_000
    body = json.dumps({"questions": ["a"], "image": "x", name: 1}).encode()
    response = await client.post("/v1/answer", content=body, headers={"content-type": "application/json"})
    failed(response, "invalid_request", "A" * 100)
    response = await client.post("/v1/answer", data={"question": "a", name[:3000]: "1"}, files={"image": b"x"})
    failed(response, "invalid_request", "A" * 100)
    assert len(str(response.headers)) + len(response.content) < 4000
    chat = {"messages": [{"role": "user", "content": [{"type": name, "text": "a"}]}]}
    assert len((await client.post("/v1/chat/completions", json=chat)).content) < 2000


async def test_names_that_come_by_the_thousand() -> None:
    """Of unknown names there would be an error each, of which one is wanted."""
    data = b"{" + b",".join(b'"a%d": 1' % n for n in range(bodies.MOST_NAMES + 2)) + b"}"
    with pytest.raises(RequestError, match="names"):
        bodies._validated(data, AnswerRequest)
    nested = b'{"inputs": "x", "parameters": ' + data + b"}"
    with pytest.raises(RequestError, match="names"):
        bodies._validated(nested, HuggingFaceRequest)


class Anything(BaseModel):
    """Takes a body as it is."""

    x: Any = None


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("of", ["commas", "escapes", "names"])
async def test_a_bound_is_what_is_still_taken(of: str, more: int) -> None:
    """And one more is not. They are counted over all of a body, which is looked at in pieces."""
    data = {
        "commas": b'{"x": [' + b"0," * (bodies.MOST_VALUES + more) + b"0]}",
        "escapes": b'{"x": "' + b"\\/" * (bodies.MOST_ESCAPES + more) + b'"}',
        "names": b'{"x": [{' + b",".join(b'"%d": 1' % n for n in range(bodies.MOST_NAMES + more)) + b"}, 1, 1]}",
    }[of]
    if more:
        with pytest.raises(RequestError, match=of):
            bodies._validated(data, Anything)
    else:
        assert bodies._validated(data, Anything).x


async def test_a_body_is_not_kept() -> None:
    """What is made of it is enough: a request that waits for its answer would hold both."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"x": 1}', "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}, receive)
    assert (await bodies.read_json(request, Anything)).x == 1
    with pytest.raises(RuntimeError, match="consumed"):
        await request.body()


def listening(gone: asyncio.Event) -> Request:
    """A request whose client leaves with ``gone``, after something that is no leaving."""
    messages = iter(["http.request"])

    async def receive() -> dict[str, Any]:
        if kind := next(messages, ""):
            return {"type": kind}
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "headers": []}, receive)


async def test_work_ends_with_the_client() -> None:
    """It is cancelled, and what it cleans up is done before the caller goes on."""
    gone, steps = asyncio.Event(), []

    async def work() -> None:
        gone.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned")

    with pytest.raises(bodies.ClientGone):
        await bodies.unless_gone(listening(gone), work())
    assert steps == ["cleaned"]


async def test_work_of_a_client_that_stays() -> None:
    """Its result, or what it raises; also where the client leaves in the same moment."""

    async def work(gone: asyncio.Event, error: Exception | None = None) -> str:
        gone.set()
        if error:
            raise error
        return "done"

    assert await bodies.unless_gone(listening(gone := asyncio.Event()), work(gone)) == "done"
    with pytest.raises(RequestError, match="own"):
        await bodies.unless_gone(listening(gone := asyncio.Event()), work(gone, RequestError("overloaded", "own")))


async def test_an_error_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """A request's own is none of the program's, and asyncio does not log it as one; a fault is logged."""

    async def fail(error: Exception) -> None:
        raise error

    for error in (RequestError("overloaded", "own"), bodies.ClientGone(), ItemError("question_empty", "none", 0)):
        task = asyncio.create_task(fail(error))
        task.add_done_callback(bodies.heed)
        await asyncio.wait((task,))
        del task
        gc.collect()
    assert not caplog.records
    task = asyncio.create_task(fail(KeyError("fault")))
    task.add_done_callback(bodies.heed)
    await asyncio.wait((task,))
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [KeyError]


async def test_errors_of_work_that_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelled, the work ends with an error of its own; nobody is left to be told of it."""
    gone = asyncio.Event()

    async def work() -> None:
        gone.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RequestError("worker_failed", "own") from None

    with pytest.raises(bodies.ClientGone):
        await bodies.unless_gone(listening(gone), work())
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("count", [bodies.MOST_PARAMETERS, bodies.MOST_PARAMETERS + 1])
@pytest.mark.parametrize("place", ["the field's head", "Content-Type"])
async def test_parameters_of_a_form(client: httpx.AsyncClient, image_bytes: bytes, place: str, count: int) -> None:
    """Some browsers write a file's name with a semicolon for every letter; who writes thousands means harm."""
    in_type = place == "Content-Type"
    name = "" if in_type else f'; filename="{"&#1;" * (count - 2)}"'
    part = '--B\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    head = part.format("question", "") + "what?\r\n" + part.format("image", name or "; filename=a")
    kind = "multipart/form-data; boundary=B" + (";x=1" * (count - 1) if in_type else "")
    content = head.encode() + image_bytes + b"\r\n--B--\r\n"
    response = await client.post("/v1/answer", content=content, headers={"Content-Type": kind})
    if count <= bodies.MOST_PARAMETERS:
        assert response.status_code == 200, response.text
    else:
        assert "parameters" in failed(response, "malformed_request").error.message


async def test_others_have_their_turn_while_a_form_is_parsed() -> None:
    """A body comes in pieces as large as a connection reads at once, and its parser can be made slow."""
    turns, size = [], 10 * bodies._PARSED

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(size), "more_body": False}

    async def other() -> None:
        while True:
            turns.append(len(pieces))
            await asyncio.sleep(0)

    pieces: list[bytes] = []
    waiting = asyncio.create_task(other())
    async for piece in bodies._in_pieces(Request({"type": "http", "method": "POST", "headers": []}, receive)):
        pieces.append(piece)
    waiting.cancel()
    assert sum(map(len, pieces)) == size
    assert set(turns) >= set(range(1, 10))
