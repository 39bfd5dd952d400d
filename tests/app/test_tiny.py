"""The whole path on a real model: what comes over HTTP is what the model says when it is called directly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio

from app.asking import image_limits
from app.engine.engine import LOADER
from app.images import loader
from app.settings import Settings
from crosslook.types import AnswerResponse, FloatMap
from model import compact
from model.interface import Item, MapRequest, Output
from tests.app.conftest import running

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAT = Path(__file__).resolve().parents[2] / "examples" / "cat.jpg"
QUESTIONS = ["What is this?", "How many cats are there?", "Is the dog red?"]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that serves `compact.tiny`."""
    async with running(loader=LOADER, model="tiny", threads=1) as (_, client):
        yield client


async def test_answers_and_maps_are_the_models_own(client: httpx.AsyncClient) -> None:
    """Scores to 6 digits, maps to 4, tokens and spans exactly; each question alone gives the same."""
    model = compact.tiny()
    limits = image_limits(Settings(_env_file=None))
    encoded = model.encode([loader(CAT.read_bytes(), limits, "image")(model.info.preprocess)])[0]
    output = model.run("answer", [Item(encoded, tuple(QUESTIONS), maps=MapRequest())])[0]
    assert isinstance(output, Output)
    response = await client.post("/v1/answer", files={"image": CAT.read_bytes()}, data={"question": QUESTIONS})
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
        alone = await client.post("/v1/answer", files={"image": CAT.read_bytes()}, data={"question": question})
        single = AnswerResponse.model_validate_json(alone.content).results[0]
        assert single.answer == result.answer
        assert single.score == pytest.approx(result.score, abs=1e-5)


async def test_maps_do_not_change_the_answer(client: httpx.AsyncClient) -> None:
    """With maps off the scores agree to 1e-5."""
    both = []
    for maps in ("float", "none"):
        data = {"question": QUESTIONS, "maps": maps}
        response = await client.post("/v1/answer", files={"image": CAT.read_bytes()}, data=data)
        both.append(AnswerResponse.model_validate_json(response.content))
    for with_maps, without in zip(both[0].results, both[1].results, strict=True):
        assert with_maps.answer == without.answer
        assert with_maps.score == pytest.approx(without.score, abs=1e-5)


async def test_candidates(client: httpx.AsyncClient) -> None:
    """Scores are over the candidates alone, each counted once."""
    data = {"question": "What is this?", "candidates": ["cat", "dog", "cat"], "top_k": "5"}
    response = await client.post("/v1/answer", files={"image": CAT.read_bytes()}, data=data)
    result = AnswerResponse.model_validate_json(response.content).results[0]
    assert result.score_over == "candidates"
    assert {ranked.answer for ranked in result.ranking} == {"cat", "dog"}
    assert sum(ranked.score for ranked in result.ranking) == pytest.approx(1.0, abs=1e-5)


async def test_what_only_the_model_can_refuse(client: httpx.AsyncClient) -> None:
    """Too many tokens, too many unknown ones: 422 with the index."""
    for question, code in (("what " * 150, "question_too_long"), ("你好吗 你好", "question_not_understood")):
        data = {"question": ["What is this?", question]}
        response = await client.post("/v1/answer", files={"image": CAT.read_bytes()}, data=data)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["param"] == "questions[1]"
