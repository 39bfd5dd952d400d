"""``POST /v1/embeddings``, by a real CLIP of random weights; that the vectors are its own is tested with the model."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from app.engine.engine import LOADER
from tests.app.conftest import running
from tests.app.test_native import failed
from tests.model.published import checkpoints

pytestmark = pytest.mark.asyncio(loop_scope="session")
PATH = "/v1/embeddings"


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def clip(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that serves a tiny CLIP."""
    folder = checkpoints.save_clip(tmp_path_factory.mktemp("clip"), checkpoints.clip_net())
    async with running(loader=LOADER, model=str(folder), device="cpu", threads=1) as (_, client):
        yield client


def picture(colour: str) -> str:
    """A PNG in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def vectors(response: httpx.Response) -> Any:
    """All of a response, each checked to be one of the model's."""
    assert response.status_code == 200, response.text
    made = response.json()
    assert [each["index"] for each in made["data"]] == list(range(len(made["data"])))
    found = np.array([each["embedding"] for each in made["data"]])
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-4)
    return found


async def test_texts_and_images_in_one_space(clip: httpx.AsyncClient) -> None:
    """Alone or together, in their order; the model says how long they are."""
    card = (await clip.get("/v1/models")).json()["data"][0]
    texts = vectors(await clip.post(PATH, json={"input": ["a red cat", "two dogs"]}))
    assert texts.shape == (2, card["dimensions"])
    one = vectors(await clip.post(PATH, json={"input": "two dogs"}))
    assert np.allclose(one[0], texts[1], atol=1e-5)
    mixed = [{"image": picture("red")}, "two dogs", {"text": "a red cat"}, {"image": picture("blue")}]
    found = vectors(await clip.post(PATH, json={"input": mixed}))
    assert np.allclose(found[[2, 1]], texts, atol=1e-5)
    images = vectors(await clip.post(PATH, json={"input": [picture("red"), picture("blue")], "modality": "image"}))
    assert np.allclose(images, found[[0, 3]], atol=1e-5)
    assert not np.allclose(images[0], images[1], atol=1e-3)
    usage = (await clip.post(PATH, json={"input": "two dogs"})).json()["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > 0


async def test_as_base64(clip: httpx.AsyncClient) -> None:
    """As OpenAI's client asks for them."""
    plain = vectors(await clip.post(PATH, json={"input": "a red cat"}))
    coded = (await clip.post(PATH, json={"input": "a red cat", "encoding_format": "base64"})).json()
    assert np.allclose(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), plain[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": " "}, "question_empty", "input[0]"),
        ({"input": []}, "invalid_request", "input"),
        ({"input": [1, 2]}, "invalid_request", "input[0]"),
        ({"input": [{}]}, "invalid_request", "input[0]"),
        ({"input": [{"text": "a", "image": "b"}]}, "invalid_request", "input[0]"),
        ({"input": [{"image": "?"}]}, "invalid_base64", "input[0]"),
        ({"input": ["a"] * 33}, "too_many_questions", "input"),
        ({"input": "a", "dimensions": 7}, "invalid_request", "dimensions"),
        ({"input": "a", "model": "another"}, "model_not_found", "model"),
    ],
)
async def test_what_is_refused(clip: httpx.AsyncClient, body: dict[str, Any], code: str, param: str) -> None:
    failed(await clip.post(PATH, json=body), code, param)


async def test_a_model_without_vectors_says_so(client: httpx.AsyncClient) -> None:
    failed(await client.post(PATH, json={"input": "a"}), "task_not_supported")
