"""LLaVA-OneVision 0.5B and SmolVLM 256M at their published sizes, with random weights, served on the CPU by a real
server through every dialect, streamed, with maps."""

from __future__ import annotations

import base64
import functools
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from crosslook.types import AnswerResponse, CaptionResponse
from tests.app import servers
from tests.model.published.causal.folders import llava_onevision_0_5b, smolvlm_256m
from tests.model.published.causal.pairs import QUESTION
from tests.model.published.checkpoints import make_image

pytestmark = pytest.mark.long

TOKENS = 5


@pytest.mark.parametrize("build", [smolvlm_256m, llava_onevision_0_5b])
def test_served_through_every_dialect(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / build.__name__
    build(folder)
    file = io.BytesIO()
    make_image(451, 300).save(file, "PNG")
    monkeypatch.setattr(servers, "wait_for", functools.partial(servers.wait_for, seconds=1800.0))
    settings = {"threads": 2, "request_seconds": 900, "worker_seconds": 900, "queue_seconds": 900, "load_seconds": 1800}
    with (
        servers.serving(tmp_path / "log", loader=None, model=folder, **settings) as server,
        server.client(900.0) as client,
    ):
        Dialects(client, file.getvalue()).check()


def ended(response: httpx.Response) -> list[Any]:
    """What the events of a stream hold."""
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


class Dialects:
    """One question in every dialect."""

    def __init__(self, client: httpx.Client, image: bytes) -> None:
        self.client, self.image, self.data = client, image, base64.b64encode(image).decode()
        self.url = f"data:image/png;base64,{self.data}"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of an answer."""
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def check(self) -> None:
        """All say the same, with the same maps where they have a place for them."""
        body = {"image": self.data, "questions": [QUESTION], "max_new_tokens": TOKENS}
        plain = self.post("/v1/answer", body)
        answer = self._native(plain)
        *steps, last = ended(self.client.post("/v1/answer", json={**body, "stream": True}))
        assert last == plain
        assert "".join(step["text"] for step in steps) == answer
        self._chat(plain, answer)
        self._responses(plain, answer)
        self._others(answer)

    def _native(self, plain: Any) -> str:
        parsed = AnswerResponse.model_validate(plain)
        result = parsed.results[0]
        assert parsed.attention is not None
        grid = parsed.attention.grid.rows, parsed.attention.grid.columns
        assert len(result.answer_tokens) == TOKENS
        for token in (*result.question_tokens, *result.answer_tokens):
            found: Any = token.map
            assert np.shape(found.values) == grid
            assert np.sum(found.values) + found.elsewhere == pytest.approx(1.0, abs=1e-2)
        assert result.answer
        return result.answer

    def _chat(self, plain: Any, answer: str) -> None:
        parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": self.url}}]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": TOKENS, "maps": "float"}
        completion = self.post("/v1/chat/completions", body)
        assert completion["choices"][0]["message"]["content"] == answer
        assert completion["crosslook"] == plain
        _, *chunks, last = ended(self.client.post("/v1/chat/completions", json={**body, "stream": True}))
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == answer
        assert last["crosslook"] == plain

    def _responses(self, plain: Any, answer: str) -> None:
        parts = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": self.url}]
        body = {"input": [{"role": "user", "content": parts}], "max_output_tokens": TOKENS, "maps": "float"}
        response = self.post("/v1/responses", body)
        assert response["output"][0]["content"][0]["text"] == answer
        assert response["crosslook"] == plain
        events = ended(self.client.post("/v1/responses", json={**body, "stream": True}))
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        assert "".join(deltas) == answer
        assert events[-1]["response"]["crosslook"] == plain

    def _others(self, answer: str) -> None:
        """Those without a stream: tensors with maps, Hugging Face's tasks, captions, and the map as a picture."""
        tensors = [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": [self.data]},
            {"name": "question", "shape": [1], "datatype": "BYTES", "data": [QUESTION]},
        ]
        name = self.client.get("/v1/models").json()["data"][0]["id"]
        body = {"inputs": tensors, "parameters": {"maps": "float", "max_new_tokens": TOKENS}}
        outputs = {one["name"]: one for one in self.post(f"/v2/models/{name}/infer", body)["outputs"]}
        assert outputs["answer"]["data"] == [answer]
        assert np.sum(outputs["answer_map"]["data"]) <= 1.0
        said = self.post("/", {"inputs": {"image": self.data, "question": QUESTION}})[0]["answer"]
        assert said.startswith(answer)  # which has no place for a limit
        told = CaptionResponse.model_validate(self.post("/v1/caption", {"image": self.data})).results[0]
        assert all(word.tokens for word in told.caption_words)
        assert all(token.map is not None for token in told.caption_tokens)
        assert told.caption_words
        assert self.post("/", {"inputs": self.data}) == [{"generated_text": told.caption}]
        drawn = self.client.post("/v1/overlay", json={"image": self.data, "question": QUESTION})
        assert drawn.status_code == 200, drawn.text
        assert Image.open(io.BytesIO(drawn.content)).size == (451, 300)
