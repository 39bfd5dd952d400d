"""The whole path on a real model: what comes over HTTP is what the model says when it is called directly."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from app.engine.engine import LOADER
from app.intake.images import loader
from app.request_context import image_limits
from app.settings import Settings
from crosslook.types import AnswerResponse, FloatMap
from model.compact import model as compact
from model.interface import Item, MapRequest, Output
from tests.app import counting
from tests.app.conftest import running

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAT = Path(__file__).resolve().parents[2] / "examples" / "cat.jpg"
QUESTIONS = ["What is this?", "How many cats are there?", "Is the dog red?"]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that serves `compact.tiny`."""
    async with running(loader=LOADER, model="tiny", threads=1) as (_, client):
        yield client


async def ask(client: httpx.AsyncClient, data: dict[str, Any], path: str = "/v1/answer") -> httpx.Response:
    """Ask about the cat, in a form."""
    return await client.post(path, files={"image": CAT.read_bytes()}, data=data)


def asked_directly(model: compact.CompactModel, *questions: str, maps: MapRequest) -> Output:
    """What the model says itself of the cat, with the service's limits of images."""
    limits = image_limits(Settings(_env_file=None))
    encoded = model.encode([loader(CAT.read_bytes(), limits)(model.info.preprocess)])[0]
    output = model.run("answer", [Item(encoded, questions, maps=maps)])[0]
    assert isinstance(output, Output)
    return output


def same_answer_map(found: AnswerResponse, output: Output) -> None:
    """Of the first question, to 4 digits."""
    expected, own = output.texts[0].answer_map, found.results[0].answer_map
    assert expected is not None
    assert isinstance(own, FloatMap)
    np.testing.assert_allclose(own.values, expected.values, rtol=6e-4, atol=1e-6)


async def test_answers_and_maps_are_the_models_own(client: httpx.AsyncClient) -> None:
    """Scores to 6 digits, maps to 4, tokens and spans exactly; each question alone gives the same."""
    model = compact.tiny()
    output = asked_directly(model, *QUESTIONS, maps=MapRequest())
    response = await ask(client, {"question": QUESTIONS})
    assert response.status_code == 200, response.text
    body = AnswerResponse.model_validate_json(response.content)
    assert body.model.revision == model.info.revision
    for question, result, expected in zip(QUESTIONS, body.results, output.texts, strict=True):
        assert [(r.answer, r.score) for r in result.ranking] == [
            (r.answer, pytest.approx(r.score, rel=1e-4)) for r in expected.ranking
        ]
        assert [(t.text, t.span) for t in result.question_tokens] == [(t.text, t.span) for t in expected.tokens]
        for word in result.question_words:
            assert question[slice(*word.span)] == word.text
        for token, source in zip(result.question_tokens, expected.tokens, strict=True):
            assert isinstance(token.map, FloatMap)
            assert source.map is not None
            np.testing.assert_allclose(token.map.values, source.map.values, rtol=6e-4)
            assert sum(map(sum, token.map.values)) + token.map.elsewhere == pytest.approx(1.0, abs=1e-3)
        alone = await ask(client, {"question": question})
        single = AnswerResponse.model_validate_json(alone.content).results[0]
        assert single.answer == result.answer
        assert single.score == pytest.approx(result.score, abs=1e-5)


async def test_maps_do_not_change_the_answer(client: httpx.AsyncClient) -> None:
    """With maps off the scores agree to 1e-5."""
    both = []
    for maps in ("float", "none"):
        data = {"question": QUESTIONS, "maps": maps}
        response = await ask(client, data)
        both.append(AnswerResponse.model_validate_json(response.content))
    for with_maps, without in zip(both[0].results, both[1].results, strict=True):
        assert with_maps.answer == without.answer
        assert with_maps.score == pytest.approx(without.score, abs=1e-5)


async def test_candidates(client: httpx.AsyncClient) -> None:
    """Scores are over the candidates alone, each counted once."""
    data = {"question": "What is this?", "candidates": ["cat", "dog", "cat", "Dog", " cat "], "top_k": "5"}
    response = await ask(client, data)
    result = AnswerResponse.model_validate_json(response.content).results[0]
    assert result.score_over == "candidates"
    assert sorted(ranked.answer for ranked in result.ranking) == ["cat", "dog"]
    assert sum(ranked.score for ranked in result.ranking) == pytest.approx(1.0, abs=1e-5)


async def test_candidates_that_are_no_answers_of_the_model_are_marked(client: httpx.AsyncClient) -> None:
    """In the native body and in the native part of OpenAI's; nowhere without candidates, nor in other dialects."""
    image = base64.b64encode(CAT.read_bytes()).decode()
    body = {"image": image, "questions": ["What is this?"], "maps": "none"}
    given = {"candidates": ["a sleeping cat", "cat"]}
    ranking = (await client.post("/v1/answer", json=body | given)).json()["results"][0]["ranking"]
    assert {ranked["answer"]: ranked["in_vocabulary"] for ranked in ranking} == {"a sleeping cat": False, "cat": True}
    plain = await client.post("/v1/answer", json=body)
    assert "in_vocabulary" not in plain.text
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
    ]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": content}], "logprobs": True, "top_logprobs": 2}
    found = (await client.post("/v1/chat/completions", json=chat | given)).json()
    assert found["crosslook"]["results"][0]["ranking"] == ranking
    assert "in_vocabulary" not in json.dumps(found["choices"])


@pytest.mark.parametrize("encoding", ["json", "multipart"])
@pytest.mark.parametrize("kind", [None, "raw", "gradient", "rollout"])
async def test_layers_are_chosen_by_the_request(client: httpx.AsyncClient, encoding: str, kind: str | None) -> None:
    """The response names what it averaged, and the maps are the model's own of these layers."""
    model = compact.tiny()
    card = (await client.get("/v1/models")).json()["data"][0]
    assert (card["map_kinds"], card["layers"]) == (["raw", "gradient", "rollout"], [0, 1])
    assert "default_layers" not in card
    for layers in (None, [1], [1, 0, 1]):
        options: dict[str, Any] = {} if layers is None else {"layers": layers}
        if kind is not None:
            options["map_kind"] = kind
        if encoding == "json":
            body = {"image": base64.b64encode(CAT.read_bytes()).decode(), "questions": [QUESTIONS[1]], **options}
            response = await client.post("/v1/answer", json=body)
        else:
            data = {"question": QUESTIONS[1], **options}
            response = await ask(client, data)
        assert response.status_code == 200, response.text
        found = AnswerResponse.model_validate_json(response.content)
        assert found.attention is not None
        assert found.attention.layers == ([1] if layers == [1] else [0, 1])
        assert found.attention.kind == (kind or card["default_map_kind"])
        request = MapRequest(kind, None if layers is None else tuple(layers))  # type: ignore[arg-type]
        same_answer_map(found, asked_directly(model, QUESTIONS[1], maps=request))


async def test_heads_are_chosen_by_the_request(client: httpx.AsyncClient) -> None:
    """The maps are the model's own of these heads, and drawings are of them."""
    model = compact.tiny()
    assert (await client.get("/v1/models")).json()["data"][0]["heads"] == 2
    data = {"question": QUESTIONS[1], "map_kind": "raw", "layers": "1"}
    drawn = set()
    for heads in ({}, {"heads": ["1"]}):
        response = await ask(client, data | heads)
        found = AnswerResponse.model_validate_json(response.content)
        assert found.attention is not None
        assert found.attention.heads == ([1] if heads else None)
        request = MapRequest("raw", (1,), (1,) if heads else None)
        same_answer_map(found, asked_directly(model, QUESTIONS[1], maps=request))
        drawn.add((await ask(client, data | heads, "/v1/overlay")).content)
    assert len(drawn) == 2
    refused = await ask(client, data | {"heads": ["2"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "heads")


@pytest.mark.parametrize("layers", [["2"], ["-1"], ["0", "7"], ["x"]])
async def test_layers_that_there_are_none_of(client: httpx.AsyncClient, layers: list[str]) -> None:
    data = {"question": "What is this?", "layers": layers}
    response = await ask(client, data)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == ("invalid_request" if layers == ["x"] else "map_not_supported")
    assert error["param"].startswith("layers")


async def test_what_only_the_model_can_refuse(client: httpx.AsyncClient) -> None:
    """Too many tokens, too many unknown ones: 422 with the index."""
    for question, code in (("what " * 150, "question_too_long"), ("你好吗 你好", "question_not_understood")):
        data = {"question": ["What is this?", question]}
        response = await ask(client, data)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["param"] == "questions[1]"


async def test_keys_and_values_are_made_once_an_image(tmp_path: Path) -> None:
    """Counted in the worker: four requests with six questions see and project their image once, and all their layers
    attend to those very keys and values, with maps and without. Another image has its own."""
    counts = tmp_path / "counts"
    async with running(loader=counting.LOADER, model=str(counts), threads=1) as (_, client):
        counts.write_text("")  # what the warm-up did
        attended = []
        for name in ("cat.jpg", "coffee.jpg"):
            image = (CAT.parent / name).read_bytes()
            for texts, maps in ((QUESTIONS[:1], "float"), (QUESTIONS, "none"), (QUESTIONS[1:], "u8")):
                response = await client.post(
                    "/v1/answer", files={"image": image}, data={"question": texts, "maps": maps}
                )
                assert response.status_code == 200, response.text
            key = {"image_id": response.json()["image"]["id"], "questions": QUESTIONS[:1]}
            assert (await client.post("/v1/answer", json=key)).headers["x-cache"] == "hit"
            lines = counts.read_text().splitlines()
            counts.write_text("")
            assert lines.count("see") == lines.count("project") == 1
            layers = [line for line in lines if line.startswith("attend")]
            assert len(layers) == 4 * 2  # requests x layers: the questions of one request go together
            assert len(set(layers)) == 2
            attended.append(set(layers))
        assert not attended[0] & attended[1]


async def test_the_language_of_answers(client: httpx.AsyncClient) -> None:
    """The tiny model has English alone, and says so."""
    card = (await client.get("/v1/models")).json()["data"][0]
    assert (card["languages"], card["answer_languages"]) == (["en"], ["en"])
    body = {"image": base64.b64encode(CAT.read_bytes()).decode(), "questions": ["What is this?"], "maps": "none"}
    plain = await client.post("/v1/answer", json=body)
    english = await client.post("/v1/answer", json=body | {"language": "en"})
    assert english.content == plain.content
    assert "language" not in plain.text
    for language in ("zh", "es", "English"):
        error = (await client.post("/v1/answer", json=body | {"language": language})).json()["error"]
        assert (error["code"], error["param"]) == ("invalid_request", "language")
    error = (await client.post("/v1/answer", json=body | {"questions": ["what", "这是什么？"]})).json()["error"]
    assert (error["code"], error["param"]) == ("question_not_understood", "questions[1]")
    assert error["message"] == "The text is in Chinese; the model reads English."
