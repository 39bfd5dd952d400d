"""``POST /v1/caption`` and ``POST /v1/match``: the same bodies, errors, limits and maps as ``/v1/answer``."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from app import wire
from app.engine.engine import LOADER
from app.engine.messages import Encode, Failure, Run, RunItem
from app.engine.model_runner import ModelRunner
from crosslook.types import CaptionResponse, FloatMap, MatchResponse, U8Map
from model.compact import model as compact
from model.interface import Item, MapInfo, MapRequest, Output
from tests.app.conftest import encoded, running
from tests.fakes import speaker
from tests.fakes.model import preprocess

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAT = Path(__file__).resolve().parents[2] / "examples" / "cat.jpg"
TEXTS = ["is this a cat", "are there two red dogs", "is this true"]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def speaking() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app whose model captions and matches."""
    async with running(loader=speaker.LOADER, questions=4, question_characters=40) as (_, client):
        yield client


def as_json(image: bytes, **fields: Any) -> dict[str, Any]:
    """A JSON body."""
    return {"image": base64.b64encode(image).decode(), **fields}


def failed(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """An error of that status and code."""
    error: dict[str, Any] = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), response.text
    if param is not None:
        assert error["param"] == param
    return error


async def test_captions_in_both_encodings(speaking: httpx.AsyncClient, image_bytes: bytes) -> None:
    """JSON and multipart give the same bytes; every prompt its caption, in order."""
    json = await speaking.post("/v1/caption", json=as_json(image_bytes, prompts=["a photo of", ""]))
    form = await speaking.post("/v1/caption", files={"image": image_bytes}, data={"prompt": ["a photo of", ""]})
    assert json.status_code == 200, json.text
    assert json.content == form.content
    assert form.headers["x-cache"] == "hit"
    body = CaptionResponse.model_validate_json(json.content)
    assert [result.prompt for result in body.results] == ["a photo of", ""]
    assert body.results[0].caption.startswith("a photo of ")
    assert body.results[0].score_over == "sequence"
    assert body.results[0].caption_words[0].tokens == [1]
    assert isinstance(body.results[0].caption_map, FloatMap)
    assert "composition" not in json.json()["attention"]


async def test_a_caption_needs_no_prompt(speaking: httpx.AsyncClient, image_bytes: bytes) -> None:
    response = await speaking.post("/v1/caption", files={"image": image_bytes}, data={"maps": "none"})
    body = CaptionResponse.model_validate_json(response.content)
    assert [result.prompt for result in body.results] == [""]
    assert body.attention is None
    assert body.results[0].caption_map is None
    assert body.results[0].caption_tokens == []


async def test_matches_in_both_encodings(speaking: httpx.AsyncClient, image_bytes: bytes) -> None:
    json = await speaking.post("/v1/match", json=as_json(image_bytes, texts=["abc", "a"], maps="u8"))
    form = await speaking.post("/v1/match", files={"image": image_bytes}, data={"text": ["abc", "a"], "maps": "u8"})
    assert json.status_code == 200, json.text
    assert json.content == form.content
    body = MatchResponse.model_validate_json(json.content)
    assert [(result.text, result.score) for result in body.results] == [("abc", 0.75), ("a", 0.25)]
    assert isinstance(body.results[0].text_map, U8Map)
    assert isinstance(body.results[0].text_tokens[1].map, U8Map)
    assert body.attention is not None
    assert body.attention.encoding == "u8"


async def test_fit_is_there_where_the_model_has_it(speaking: httpx.AsyncClient, image_bytes: bytes) -> None:
    response = await speaking.post("/v1/match", json=as_json(image_bytes, texts=["fit", "none"], maps="none"))
    first, second = response.json()["results"]
    assert first["fit"] == 0.125
    assert "fit" not in second


async def test_an_image_is_known_to_every_task(speaking: httpx.AsyncClient, image_bytes: bytes) -> None:
    """Its id from one answer serves the next, and it is encoded once."""
    first = await speaking.post("/v1/match", json=as_json(image_bytes, texts=["a"]))
    image_id = first.json()["image"]["id"]
    for path, fields in (("caption", {}), ("match", {"texts": ["b"]}), ("answer", {"questions": ["c?"]})):
        response = await speaking.post(f"/v1/{path}", json={"image_id": image_id, **fields})
        assert response.status_code == 200, response.text
        assert response.headers["x-cache"] == "hit"


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "param"),
    [
        ("match", {"texts": ["a b", "c", "A  b"]}, 422, "invalid_request", "texts[2]"),
        ("match", {"texts": ["a", " "]}, 422, "question_empty", "texts[1]"),
        ("match", {"texts": []}, 422, "invalid_request", "texts"),
        ("match", {"texts": ["a"] * 5}, 422, "too_many_questions", "texts"),
        ("match", {"texts": ["a", "b" * 41]}, 422, "question_too_long", "texts[1]"),
        ("match", {"texts": ["a", "xyzzy"]}, 422, "question_not_understood", "texts[1]"),
        ("match", {"texts": ["a"], "map_kind": "similarity"}, 422, "map_not_supported", "map_kind"),
        ("match", {"texts": ["a"], "layers": [9]}, 422, "map_not_supported", "layers"),
        ("match", {"texts": ["a"], "model": "other"}, 404, "model_not_found", "model"),
        ("match", {"texts": ["a"], "top_k": 3}, 422, "invalid_request", "top_k"),
        ("match", {}, 422, "invalid_request", "texts"),
        ("caption", {"prompts": ["b" * 41]}, 422, "question_too_long", "prompts[0]"),
        ("caption", {"prompts": ["a"] * 5}, 422, "too_many_questions", "prompts"),
        ("caption", {"questions": ["a"]}, 422, "invalid_request", "questions"),
    ],
)
async def test_what_is_refused(
    speaking: httpx.AsyncClient,
    image_bytes: bytes,
    path: str,
    fields: dict[str, Any],
    status: int,
    code: str,
    param: str,
) -> None:
    failed(await speaking.post(f"/v1/{path}", json=as_json(image_bytes, **fields)), status, code, param)


async def test_broken_images_are_refused_as_ever(speaking: httpx.AsyncClient) -> None:
    failed(await speaking.post("/v1/match", json=as_json(b"no image", texts=["a"])), 415, "unsupported_image")
    failed(await speaking.post("/v1/caption", json={"prompts": [""]}), 422, "invalid_request", "image")


async def test_a_task_that_a_model_lacks(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """The error says what it can do instead."""
    for path, fields in (("caption", {}), ("match", {"texts": ["a"]})):
        response = await client.post(f"/v1/{path}", json=as_json(image_bytes, **fields))
        error = failed(response, 422, "task_not_supported")
        assert error["detail"] == {"tasks": ["answer"]}
        assert "answer" in error["message"]


async def test_the_document_describes_both(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for path in ("/v1/caption", "/v1/match"):
        content = paths[path]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}


async def test_the_default_model_matches() -> None:
    """What comes over HTTP is what the model says when it is called directly."""
    model = compact.tiny()
    with Image.open(CAT) as opened:
        image = opened.convert("RGB").resize((180, 120))
    kept = model.encode([model.info.preprocess(image)])[0]
    output = model.run("match", [Item(kept, tuple(TEXTS), maps=MapRequest())])[0]
    assert isinstance(output, Output)
    async with running(loader=LOADER, model="tiny", threads=1) as (_, client):
        response = await client.post("/v1/match", files={"image": encoded(image)}, data={"text": TEXTS})
        refused = await client.post("/v1/caption", files={"image": encoded(Image.new("RGB", (40, 30)))})
    body = MatchResponse.model_validate_json(response.content)
    assert sum(result.score for result in body.results) == pytest.approx(1.0, abs=1e-5)
    for result, expected in zip(body.results, output.texts, strict=True):
        assert result.score == pytest.approx(expected.ranking[0].score, rel=1e-4)
        assert isinstance(result.text_map, FloatMap)
        assert expected.answer_map is not None
        np.testing.assert_allclose(result.text_map.values, expected.answer_map.values, rtol=6e-4)
        for word in result.text_words:
            assert result.text[slice(*word.span)] == word.text
    failed(refused, 422, "task_not_supported")


async def test_texts_that_are_compared_are_never_torn_apart() -> None:
    """Where memory is too short for a request to match, it fails; halves would have scores of their own."""

    class Small(speaker.Speaker):
        def run(self, task: Any, items: Any) -> Any:
            if sum(len(item.texts) for item in items) > 1:
                raise MemoryError
            return super().run(task, items)

    runner = ModelRunner(Small())
    runner.handle(Encode((("a", preprocess(Image.new("RGB", (40, 30)))),)))
    (match,) = runner.handle(Run("match", (RunItem("a", ("one", "two")),))).results
    assert isinstance(match, Failure)
    assert match.out_of_memory
    (caption,) = runner.handle(Run("caption", (RunItem("a", ("one", "two")),))).results
    assert len(caption.texts) == 2


async def test_how_composed_maps_are_named() -> None:
    """In the response of a model that composes them, and in no other."""
    geometry = preprocess(Image.new("RGB", (40, 30))).geometry
    path = "answer>question>image"
    composed = wire.attention(MapInfo("raw", (0,), composition=path), geometry, "float")
    plain = wire.attention(MapInfo("raw", (0,)), geometry, "float")
    assert composed is not None
    assert plain is not None
    assert composed.model_dump()["composition"] == path
    assert "composition" not in plain.model_dump()
    assert "gates" not in plain.model_dump()
    gated = wire.attention(MapInfo("raw", (3, 8), gates=(0.25, -0.123456)), geometry, "float")
    assert gated is not None
    assert gated.model_dump()["gates"] == [0.25, -0.1235]
