"""Both clients against a scripted server: the same test, blocking and not."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

import crosslook
from crosslook import errors
from tests.crosslook.conftest import Connect, golden

IMAGE = b"image bytes"


class Server:
    """Plays back responses and keeps the requests. Knows the ids of the images that it was sent, until they are
    dropped."""

    def __init__(self, *scripted: httpx.Response | Exception, body: str = "answer_one") -> None:
        self.scripted = list(scripted)
        self.body = golden(body)
        self.requests: list[httpx.Request] = []
        self.known: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.scripted:
            response = self.scripted.pop(0)
            if isinstance(response, Exception):
                raise response
            return response
        sent = self.sent(-1)
        if "image_id" in sent and sent["image_id"] not in self.known:
            return failure("image_not_found")
        image_id = sent.get("image_id") or "img_" + sent["image"][:12]
        self.known.add(image_id)
        body = self.body | {"image": self.body["image"] | {"id": image_id}}
        if "questions" in sent:
            body["results"] = [body["results"][0] | {"question": question} for question in sent["questions"]]
        return httpx.Response(200, json=body, headers={"X-Request-Id": "r1"})

    def sent(self, index: int) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.requests[index].content or b"{}")
        return body

    @property
    def fields(self) -> list[str]:
        return ["image_id" if "image_id" in self.sent(i) else "image" for i in range(len(self.requests))]


def failure(code: str, **headers: str) -> httpx.Response:
    case = golden("errors")[code]
    return httpx.Response(case["status"], json=case["body"], headers=headers)


def test_one_question_gives_one_answer(connect: Connect) -> None:
    server = Server()
    answer = connect(server, url="http://h/prefix/", api_key="k").answer(
        IMAGE, "Is it?", top_k=2, candidates=["yes", "no"], maps="u8", map_kind="raw", layers=[0], heads=[1],
        model="compact",
    )  # fmt: skip
    assert isinstance(answer, crosslook.Answer)
    assert (answer.question, answer.answer, answer.request_id) == ("Is it?", "yes", "r1")
    request = server.requests[0]
    assert (request.method, str(request.url)) == ("POST", "http://h/prefix/v1/answer")
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-request-timeout"] == "60"
    assert server.sent(0) == {
        "questions": ["Is it?"],
        "image": base64.b64encode(IMAGE).decode(),
        "top_k": 2,
        "candidates": ["yes", "no"],
        "maps": "u8",
        "map_kind": "raw",
        "layers": [0],
        "heads": [1],
        "model": "compact",
    }


def test_several_questions_give_a_list(connect: Connect) -> None:
    answers = connect(Server()).answer(IMAGE, ["a?", "b?"])
    assert [answer.question for answer in answers] == ["a?", "b?"]


def test_a_second_question_sends_the_id_alone(connect: Connect, tmp_path: Path) -> None:
    server, path = Server(), tmp_path / "copy.jpg"
    path.write_bytes(IMAGE)
    client = connect(server)
    client.answer(IMAGE, "a?")
    client.answer(path, "b?")  # other name, same content
    client.answer(b"another", "c?")
    assert server.fields == ["image", "image_id", "image"]


def test_an_image_that_the_server_dropped_is_sent_again(connect: Connect) -> None:
    server = Server()
    client = connect(server)
    client.answer(IMAGE, "a?")
    server.known.clear()
    assert client.answer(IMAGE, "b?").question == "b?"
    client.answer(IMAGE, "c?")
    assert server.fields == ["image", "image_id", "image", "image_id"]


def test_a_url_is_always_sent_as_it_is(connect: Connect) -> None:
    server = Server()
    client = connect(server)
    for _ in range(2):
        client.answer("https://example.org/cat.jpg", "a?")
    assert server.fields == ["image", "image"]


def test_the_image_of_an_answer_is_an_image(connect: Connect) -> None:
    server = Server()
    client = connect(server)
    answer = client.answer(IMAGE, "a?")
    client.answer(answer.image, "b?")
    assert server.sent(1)["image_id"] == answer.image.id
    server.known.clear()
    with pytest.raises(errors.ImageNotFound):  # the bytes are not here to send them again
        client.answer(answer.image, "c?")


def test_an_upload_is_used_by_later_questions(connect: Connect) -> None:
    server = Server(body="upload")
    client = connect(server)
    ref = client.upload(IMAGE)
    assert str(server.requests[0].url).endswith("/v1/images")
    assert client.upload(ref) is ref
    server.body = golden("answer_one")
    client.answer(ref, "a?")
    client.answer(IMAGE, "b?")
    assert server.fields == ["image", "image_id", "image_id"]


def test_match_and_caption(connect: Connect) -> None:
    server = Server(body="match")
    matches = connect(server).match(IMAGE, ["a cat", "a dog"], maps="float")
    assert [(match.text, match.score) for match in matches] == [("a cat", 0.9), ("a dog", 0.1)]
    assert matches[0].for_word("cat").peak().value == 0.6
    assert matches[0].fit is None
    assert server.sent(0)["texts"] == ["a cat", "a dog"]

    server = Server(body="caption")
    caption = connect(server).caption(IMAGE, "a")
    assert str(caption) == "a cat on a sofa"
    assert [word.text for word in caption.words] == ["cat", "on", "a", "sofa"]  # the given beginning has no map
    assert server.sent(0)["prompts"] == ["a"]


def test_a_single_text_to_match_is_one_text(connect: Connect) -> None:
    server = Server(body="match")
    assert isinstance(connect(server).match(IMAGE, "dog"), list)
    assert server.sent(0)["texts"] == ["dog"]


def test_models_and_health(connect: Connect) -> None:
    assert connect(lambda _: httpx.Response(200, json=golden("models"))).models()[0].tasks == ["answer"]
    ready = connect(lambda _: httpx.Response(200, json={"status": "ready"})).health()
    assert (ready.ready, ready.detail) == (True, {"status": "ready"})
    starting = Server(failure("not_ready"))
    assert connect(starting).health().ready is False
    assert len(starting.requests) == 1
    with pytest.raises(errors.NotFound):
        connect(lambda _: httpx.Response(404, text="who?")).health()


@pytest.mark.parametrize("code", ["overloaded", "rate_limited", "not_ready", "worker_failed", "deadline_exceeded"])
def test_what_may_get_better_is_tried_again_with_the_same_body(connect: Connect, code: str) -> None:
    server = Server(failure(code, **{"Retry-After": "0"}), httpx.ConnectError("refused"))
    assert connect(server).answer(IMAGE, "a?").answer == "yes"
    assert len({(request.url, request.content) for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_at_last_the_error_is_raised(connect: Connect) -> None:
    server = Server(*[failure("overloaded", **{"retry-after-ms": "1"}) for _ in range(3)])
    with pytest.raises(errors.Overloaded) as caught:
        connect(server).answer(IMAGE, "a?")
    assert caught.value.retry_after == 0.001
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("thrown", "expected", "tries"),
    [
        (httpx.ConnectError("refused"), errors.ConnectionFailed, 3),
        (httpx.ConnectTimeout("slow"), errors.ConnectionFailed, 3),
        (httpx.RemoteProtocolError("cut"), errors.ConnectionFailed, 3),
        (httpx.ReadError("reset"), errors.ConnectionFailed, 3),
        (httpx.ReadTimeout("slow"), errors.TimedOut, 1),
        (httpx.DecodingError("gzip"), errors.BadResponse, 1),
    ],
)
def test_failures_below_http(
    connect: Connect, thrown: Exception, expected: type[errors.CrosslookError], tries: int
) -> None:
    server = Server(*[thrown] * 3)
    with pytest.raises(expected, match="POST /v1/answer"):
        connect(server).answer(IMAGE, "a?")
    assert len(server.requests) == tries


@pytest.mark.parametrize(
    "response",
    [
        {"status_code": 200, "html": "<html>"},
        {"status_code": 200, "content": b"{}"},
        {"status_code": 200, "json": []},
        {"status_code": 200, "json": {"model": 3}},
        {"status_code": 200, "content": b'{"model": {"id"', "headers": {"content-type": "application/json"}},
        {"status_code": 302, "headers": {"location": "/"}},
        {"status_code": 200, "json": golden("answer_one") | {"attention": None, "results": 5}},
        {"status_code": 200, "json": golden("answer_u8") | {"attention": golden("answer_one")["attention"] | {
            "grid": {"rows": 9, "columns": 9}}}},
    ],
)  # fmt: skip
def test_a_response_that_is_not_ours(connect: Connect, response: dict[str, Any]) -> None:
    with pytest.raises(errors.BadResponse):
        connect(lambda _: httpx.Response(**response)).answer(IMAGE, "a?")


def test_many_images_keep_their_order(connect: Connect) -> None:
    server, seen = Server(), []
    items = [(f"image {i}".encode(), [f"a{i}?", f"b{i}?"] if i % 2 else f"a{i}?") for i in range(9)]
    results = connect(server).ask_many(items, concurrency=3, progress=lambda *at: seen.append(at))
    assert [[answer.question for answer in answers] for answers in results] == [
        [f"a{i}?", f"b{i}?"] if i % 2 else [f"a{i}?"] for i in range(9)
    ]
    assert sorted(seen) == [(i, 9) for i in range(1, 10)]
    assert connect(server).ask_many([]) == []


def test_one_bad_item_of_many(connect: Connect) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content)["questions"] == ["bad"]:
            return failure("question_empty")
        return httpx.Response(200, json=golden("answer_one"))

    items = [(b"1", "a?"), (b"2", "bad"), ("no-such-file.jpg", "a?"), (b"3", "a?")]
    results = connect(server).ask_many(items, errors="return")
    assert [type(result).__name__ for result in results] == ["list", "QuestionEmpty", "FileNotFoundError", "list"]
    with pytest.raises(errors.QuestionEmpty):
        connect(server).ask_many(items[:2], concurrency=1)


@pytest.mark.parametrize("concurrency", [0, -1])
def test_many_images_need_at_least_one_place(connect: Connect, concurrency: int) -> None:
    for items in ([(IMAGE, "a?")], []):
        with pytest.raises(ValueError, match="concurrency must be at least 1"):
            connect(Server()).ask_many(items, concurrency=concurrency)


class Crowd:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1


ITEMS: list[tuple[crosslook.ImageLike, str]] = [(bytes([i]), "a?") for i in range(12)]


def test_no_more_than_so_many_threads_at_once() -> None:
    crowd = Crowd()

    def handler(_: httpx.Request) -> httpx.Response:
        with crowd:
            time.sleep(0.02)
        return httpx.Response(200, json=golden("answer_one"))

    with httpx.Client(transport=httpx.MockTransport(handler)) as http, crosslook.Client(http_client=http) as client:
        assert len(client.ask_many(ITEMS, concurrency=3)) == 12
    assert 1 < crowd.most <= 3


async def test_no_more_than_so_many_tasks_at_once() -> None:
    crowd = Crowd()

    async def handler(_: httpx.Request) -> httpx.Response:
        with crowd:
            await asyncio.sleep(0.02)
        return httpx.Response(200, json=golden("answer_one"))

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http,
        crosslook.AsyncClient(http_client=http) as client,
    ):
        assert len(await client.ask_many(ITEMS, concurrency=3)) == 12
    assert 1 < crowd.most <= 3


async def test_a_failure_of_many_cancels_the_rest() -> None:
    begun: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        question = json.loads(request.content)["questions"][0]
        begun.append(question)
        if question == "1":
            return failure("question_empty")
        await asyncio.sleep(60)
        raise AssertionError

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http,
        crosslook.AsyncClient(http_client=http) as client,
    ):
        with pytest.raises(errors.QuestionEmpty):
            await client.ask_many([(bytes([i]), str(i)) for i in range(9)], concurrency=2)
    assert set(begun) <= {"0", "1", "2"}


def test_both_clients_have_the_same_surface() -> None:
    def surface(cls: type) -> dict[str, inspect.Signature]:
        names = [name for name in vars(cls) if not name.startswith("_")]
        return {name: inspect.signature(getattr(cls, name)) for name in names}

    def without_http_client(cls: type) -> list[inspect.Parameter]:
        parameters = inspect.signature(cls).parameters.values()
        return [parameter for parameter in parameters if parameter.name != "http_client"]

    assert surface(crosslook.Client) == surface(crosslook.AsyncClient)
    assert without_http_client(crosslook.Client) == without_http_client(crosslook.AsyncClient)
    for name in surface(crosslook.AsyncClient):
        assert inspect.iscoroutinefunction(getattr(crosslook.AsyncClient, name)), name
        assert inspect.getdoc(getattr(crosslook.Client, name)), name
