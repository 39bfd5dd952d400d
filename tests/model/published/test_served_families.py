"""Every family that answers, from a folder through a real server: what it says in process is what comes over HTTP."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from crosslook.types import AnswerResponse
from model.interface import Item, MapRequest, Output
from model.published.loading import load
from tests.app import servers
from tests.model.published.blip2.conftest import save_query
from tests.model.published.checkpoints import make_image
from tests.model.published.idefics.conftest import save_idefics
from tests.model.published.mllama.conftest import save_mllama
from tests.model.published.vilt.conftest import save_vilt, vilt_net

QUESTION = "what is the color of the cat?"
SAVERS: dict[str, Callable[[Path], Path]] = {
    "vilt": lambda folder: save_vilt(folder, vilt_net()),
    "blip-2": lambda folder: save_query(folder, "opt"),
    "instructblip": lambda folder: save_query(folder, "flan"),
    "mllama": save_mllama,
    "idefics": lambda folder: save_idefics(folder, "instruct"),
}
COMPOSED = {"blip-2": "answer>queries>image", "instructblip": "answer>queries>image", "idefics": "answer>latents>image"}


@pytest.mark.parametrize("name", SAVERS)
def test_it_is_served(name: str, tmp_path: Path) -> None:
    """In the native dialect, in OpenAI's and in Hugging Face's; the image is encoded once."""
    folder = SAVERS[name](tmp_path / name)
    picture = io.BytesIO()
    make_image(90, 50).save(picture, "PNG")
    data = base64.b64encode(picture.getvalue()).decode()
    with servers.serving(tmp_path / "log", loader=None, model=folder) as server, server.client() as client:
        listed = client.get("/v1/models").json()["data"][0]
        native = client.post("/v1/answer", json={"image": data, "questions": [QUESTION]})
        chat = _chat(client, data, listed["id"]).json()
        plain = client.post("/", json={"inputs": {"image": data, "question": QUESTION}})
        streamed = client.post("/v1/answer", json={"image": data, "questions": [QUESTION], "stream": True})
        chunks = _chat(client, data, listed["id"], stream=True).text.strip().split("\n\n")
        caption = client.post("/v1/caption", json={"image": data, "prompts": ["a photo"]})
    assert native.status_code == 200, native.text
    body = AnswerResponse.model_validate_json(native.content)
    ours = load(folder, id=name)
    [image] = ours.encode([ours.info.preprocess(make_image(90, 50))])
    [output] = ours.run("answer", [Item(image, (QUESTION,), maps=MapRequest())])
    assert isinstance(output, Output)
    [expected], [found] = output.texts, body.results
    assert found.answer == expected.ranking[0].answer
    assert found.score == pytest.approx(expected.ranking[0].score, rel=1e-3, abs=1e-6)
    assert body.attention is not None
    assert body.attention.composition == COMPOSED.get(name)
    assert (body.attention.gates is not None) == (name in ("mllama", "idefics"))
    pairs = [*zip(found.question_tokens, expected.tokens, strict=True)]
    pairs += zip(found.answer_tokens, expected.answer_tokens, strict=True)
    for token, own in pairs:
        sent: Any = token.map
        assert own.map is not None
        np.testing.assert_allclose(sent.values, own.map.values, atol=1e-3)
    assert listed["tasks"] == list(ours.info.tasks)
    assert chat["choices"][0]["message"]["content"] == found.answer
    assert chat["crosslook"]["results"][0]["answer_map"] == native.json()["results"][0]["answer_map"]
    assert chat["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert chunks.pop() == "data: [DONE]"
    deltas = [json.loads(chunk.removeprefix("data: "))["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == found.answer
    if ours.info.streams:
        *steps, last = [dict(_fields(block)) for block in streamed.text.strip().split("\n\n")]
        assert "".join(json.loads(step["data"])["text"] for step in steps) == found.answer
        assert len(steps) > 1
        assert json.loads(last["data"])["results"] == native.json()["results"]
    assert plain.status_code == 200, plain.text
    assert plain.json()[0]["answer"] == found.answer
    assert caption.status_code == (200 if "caption" in ours.info.tasks else 422), caption.text


def _fields(block: str) -> list[list[str]]:
    """The fields of a server-sent event."""
    return [line.split(": ", 1) for line in block.split("\n")]


def _chat(client: httpx.Client, data: str, model: str, **options: Any) -> httpx.Response:
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": QUESTION},
    ]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "maps": "float", **options}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response
