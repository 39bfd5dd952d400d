"""A causal model behind a real worker: the native dialect and OpenAI's, with options, log-probabilities and maps."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI
from PIL import Image

from app.engine.engine import ImageSource
from crosslook.types import AnswerResponse
from model.interface import Generation
from tests.app.conftest import running
from tests.model.published.causal.pairs import QUESTION, CausalPair
from tests.model.published.checkpoints import make_image

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def service(llava: CausalPair) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with running(loader="model.registry:load_model", model=str(llava.folder), threads=1) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(service: tuple[FastAPI, httpx.AsyncClient]) -> httpx.AsyncClient:
    return service[1]


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return make_image(90, 60)


@pytest.fixture(scope="module")
def data(image: Image.Image) -> str:
    return png(image)


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def chat(data: str, **options: Any) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    return {"messages": [{"role": "user", "content": parts}], **options}


async def test_answers_have_transformers_own_words_and_maps(
    client: httpx.AsyncClient, llava: CausalPair, image: Image.Image, data: str
) -> None:
    body = {"image": data, "questions": [QUESTION], "max_new_tokens": 6}
    first = await client.post("/v1/answer", json=body)
    again = await client.post("/v1/answer", json=body)
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert first.json() == again.json()
    result = AnswerResponse.model_validate(first.json()).results[0]
    theirs = llava.reference(image, QUESTION)
    assert result.score_over == "sequence"
    assert result.finish_reason == "length"
    assert len(result.answer_tokens) == 6
    columns = [i for i, token in enumerate(theirs.ids) if token == llava.ours.prompt.image_id]
    for index, token in enumerate(result.answer_tokens):
        found: Any = token.map
        row = theirs.attention[len(theirs.ids) - 1 + index, columns]
        np.testing.assert_allclose(found.values, llava.place(row, image), atol=2e-4)


async def test_openai_gets_a_log_probability_a_token(
    client: httpx.AsyncClient, llava: CausalPair, image: Image.Image, data: str
) -> None:
    found = await post(client, "/v1/chat/completions", chat(data, max_tokens=6, logprobs=True, top_logprobs=3))
    choice = found["choices"][0]
    theirs = llava.reference(image, QUESTION).logits.log_softmax(-1)
    assert choice["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == len(choice["logprobs"]["content"]) == 6
    for step, entry in enumerate(choice["logprobs"]["content"]):
        assert entry["logprob"] == pytest.approx(float(theirs[step].max()), abs=1e-4)
        top = [one["logprob"] for one in entry["top_logprobs"]]
        assert top == pytest.approx(theirs[step].topk(3).values.tolist(), abs=1e-4)


async def test_an_answer_ends_before_a_stop_string(client: httpx.AsyncClient, data: str) -> None:
    whole = (await post(client, "/v1/chat/completions", chat(data, max_tokens=8)))["choices"][0]
    text = whole["message"]["content"]
    stop = text[2:4]
    found = (await post(client, "/v1/chat/completions", chat(data, max_tokens=8, stop=stop)))["choices"][0]
    assert found["message"]["content"] == text[: text.index(stop)].strip()
    assert found["finish_reason"] == "stop"


async def test_the_same_seed_draws_the_same(client: httpx.AsyncClient, data: str) -> None:
    async def drawn(seed: int) -> str:
        body = {"image": data, "questions": [QUESTION], "max_new_tokens": 12, "temperature": 1.5, "seed": seed}
        found = await post(client, "/v1/answer", {**body, "maps": "none"})
        return str(found["results"][0]["answer"])

    assert await drawn(1) == await drawn(1)
    assert len({await drawn(seed) for seed in range(4)}) > 1


def png(image: Image.Image) -> str:
    """Base64 of an image's file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


async def test_several_images_in_one_question(client: httpx.AsyncClient, llava: CausalPair) -> None:
    images = [make_image(90, 60), make_image(48, 80, seed=1)]
    body = {"images": [png(image) for image in images], "questions": [QUESTION], "max_new_tokens": 6}
    response = await client.post("/v1/answer", json=body)
    assert response.status_code == 200, response.text
    parsed = AnswerResponse.model_validate(response.json())
    theirs = llava.reference(images, QUESTION)
    columns = [i for i, token in enumerate(theirs.ids) if token == llava.ours.prompt.image_id]
    for index, token in enumerate(parsed.results[0].answer_tokens):
        found: Any = token.map
        row = theirs.attention[len(theirs.ids) - 1 + index, columns].reshape(2, 6, 6)
        np.testing.assert_allclose([found.values, *found.others], row, atol=2e-4)
    assert parsed.attention is not None
    (second,) = parsed.attention.others or ()
    assert (second.width, second.height) == (48, 80)
    assert (second.region.top, second.region.bottom) == (16.0, 64.0)
    again = {"image_id": parsed.image.id, "questions": [QUESTION], "max_new_tokens": 6}
    known = await client.post("/v1/answer", json=again)
    assert known.headers["x-cache"] == "hit"
    assert known.json() == response.json()
    urls = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(image)}"}} for image in images]
    asked = {"role": "user", "content": [*urls, {"type": "text", "text": QUESTION}]}
    completion = await post(client, "/v1/chat/completions", {"messages": [asked], "max_tokens": 6, "maps": "float"})
    assert completion["crosslook"] == response.json()
    assert completion["usage"]["prompt_tokens_details"]["image_tokens"] == 72
    parts = [{"type": "input_image", "image_url": url["image_url"]["url"]} for url in urls]
    newer = {"role": "user", "content": [*parts, {"type": "input_text", "text": QUESTION}]}
    body = {"input": [newer], "max_output_tokens": 6, "maps": "u8"}
    coarse = AnswerResponse.model_validate((await post(client, "/v1/responses", body))["crosslook"]).results[0]
    bytes_of: Any = coarse.answer_map
    exact: Any = parsed.results[0].answer_map
    values = [np.frombuffer(base64.b64decode(data), np.uint8) for data in (bytes_of.data, *bytes_of.others)]
    expected = np.array([exact.values, *exact.others]).reshape(2, 36)
    np.testing.assert_allclose(np.array(values) * bytes_of.scale, expected, atol=bytes_of.scale)


async def test_bad_requests_about_several_images_are_told(client: httpx.AsyncClient, data: str) -> None:
    broken = base64.b64encode(b"no image").decode()
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"images": [data] * 9}, "invalid_request", "at most 8 images"),
        ({"images": [data, data], "image": data}, "invalid_request", "or one image"),
        ({"images": [data, broken]}, "unsupported_image", "Image 2 of 2"),
        ({"images": [data, "?"]}, "invalid_base64", "images[1]"),
    ]
    for fields, code, message in wrong:
        response = await client.post("/v1/answer", json={**fields, "questions": [QUESTION], "max_new_tokens": 2})
        error = response.json()["error"]
        assert error["code"] == code, error
        assert message in error["message"] or message in error["param"], error
        assert error["param"].startswith("images")
    body = {"images": [data, data], "questions": [QUESTION], "max_new_tokens": 2}
    response = await client.post("/v1/answer", json=body, headers={"accept": "application/x-npz"})
    assert response.json()["error"]["param"] == "images"


async def test_a_caption_has_a_map_for_each_word(client: httpx.AsyncClient, data: str) -> None:
    result = (await post(client, "/v1/caption", {"image": data}))["results"][0]
    asked = {"image": data, "questions": ["Describe this image."]}
    answer = (await post(client, "/v1/answer", asked))["results"][0]
    assert result["caption"] == answer["answer"]
    assert result["caption_tokens"] == answer["answer_tokens"]
    assert result["caption_words"] == answer["answer_words"]
    assert result["caption_words"]


async def test_candidates_are_ranked(client: httpx.AsyncClient, data: str) -> None:
    body = {"image": data, "questions": [QUESTION], "candidates": ["red", "blue", "a cat"]}
    result = (await post(client, "/v1/answer", body))["results"][0]
    assert sum(one["score"] for one in result["ranking"]) == pytest.approx(1.0, abs=1e-5)
    assert result["score_over"] == "candidates"
    assert result["answer"] == result["ranking"][0]["answer"]
    assert result["answer_words"][0]["text"] == result["answer"].split()[0]


async def test_a_special_token_that_is_typed_is_text(client: httpx.AsyncClient, data: str) -> None:
    body = {"image": data, "questions": ["is <image> the </s> cat?"], "max_new_tokens": 2}
    result = (await post(client, "/v1/answer", body))["results"][0]
    joined = "".join(token["text"] for token in result["question_tokens"] if not token["special"])
    assert joined.replace(" ", "") == "is<image>the</s>cat?"


def events_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """The names and contents of server-sent events."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event", ""), lines["data"]))
    return [(name, data if data == "[DONE]" else json.loads(data)) for name, data in found]


async def test_a_native_stream_ends_with_the_whole_response(client: httpx.AsyncClient, data: str) -> None:
    body = {"image": data, "questions": [QUESTION, "is it?"], "max_new_tokens": 7}
    plain = await post(client, "/v1/answer", body)
    *steps, (name, answer) = events_of(await client.post("/v1/answer", json={**body, "stream": True}))
    assert (name, answer) == ("answer", plain)
    assert {name for name, _ in steps} == {"token"}
    for index, result in enumerate(plain["results"]):
        own = [step for _, step in steps if step["question"] == index]
        assert "".join(step["text"] for step in own) == result["answer"]
        assert sum(len(step["tokens"]) for step in own) == 7
        assert len(own) > 1


async def test_chunks_of_a_completion_are_its_tokens(client: httpx.AsyncClient, data: str) -> None:
    options = {"max_tokens": 7, "logprobs": True, "top_logprobs": 2, "maps": "float"}
    plain = await post(client, "/v1/chat/completions", chat(data, **options))
    streamed = chat(data, **options, stream=True, stream_options={"include_usage": True})
    *chunks, (_, done) = events_of(await client.post("/v1/chat/completions", json=streamed))
    assert done == "[DONE]"
    first, *middle, last, usage = [chunk for _, chunk in chunks]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(c["choices"][0]["delta"]["content"] for c in middle) == plain["choices"][0]["message"]["content"]
    entries = [entry for c in middle for entry in c["choices"][0]["logprobs"]["content"]]
    assert entries == plain["choices"][0]["logprobs"]["content"]
    assert len(middle) > 1
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["crosslook"] == plain["crosslook"]
    assert usage["usage"]["completion_tokens"] == 7


async def test_the_newer_route_streams_each_token(client: httpx.AsyncClient, data: str) -> None:
    parts = [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": f"data:image/png;base64,{data}"},
    ]
    body = {"input": [{"role": "user", "content": parts}], "max_output_tokens": 7, "top_logprobs": 1}
    plain = await post(client, "/v1/responses", body)
    events = events_of(await client.post("/v1/responses", json={**body, "stream": True}))
    assert [one["sequence_number"] for _, one in events] == list(range(len(events)))
    assert [name for name, _ in events] == [one["type"] for _, one in events]
    deltas = [one for name, one in events if name == "response.output_text.delta"]
    said = plain["output"][0]["content"][0]
    assert len(deltas) > 1
    assert "".join(one["delta"] for one in deltas) == said["text"]
    assert [entry for one in deltas for entry in one["logprobs"]] == said["logprobs"]
    name, last = events[-1]
    assert name == "response.completed"
    assert last["response"]["output"][0]["content"] == plain["output"][0]["content"]
    assert last["response"]["crosslook"] == plain["crosslook"]


async def test_errors_of_a_stream_have_their_status(client: httpx.AsyncClient, data: str) -> None:
    response = await client.post("/v1/answer", json={"image": data, "questions": ["x" * 2000], "stream": True})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "question_too_long"


async def test_requests_that_come_and_go_say_what_each_says_alone(client: httpx.AsyncClient, data: str) -> None:
    bodies = [
        {"image": data, "questions": [text], "max_new_tokens": tokens}
        for text, tokens in ((QUESTION, 40), ("is it?", 5), ("where is the dog?", 23), ("how many cat?", 11))
    ]
    alone = [await post(client, "/v1/answer", body) for body in bodies]
    together = await asyncio.gather(*(post(client, "/v1/answer", body) for body in bodies))
    for one, other in zip(alone, together, strict=True):
        assert one["results"][0]["answer"] == other["results"][0]["answer"]


async def test_writing_ends_when_nobody_waits(service: tuple[FastAPI, httpx.AsyncClient], data: str) -> None:
    app, client = service
    writers = app.state.engine.replicas[0].writers
    image_id = (await post(client, "/v1/images", {"image": data}))["image"]["id"]
    started = asyncio.Event()
    source = ImageSource(image_id=image_id)
    long = Generation(max_new_tokens=4000, stop=("never said",))
    work = app.state.engine.run("answer", source, [QUESTION], generation=long, on_progress=lambda _: started.set())
    task = asyncio.create_task(work)
    await asyncio.wait_for(started.wait(), 60)
    assert len(writers.running) == 1
    task.cancel()
    answered = await post(client, "/v1/answer", {"image_id": image_id, "questions": [QUESTION], "max_new_tokens": 2})
    assert answered["results"]
    assert not writers.running
    assert task.cancelled()
