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
import torch

from crosslook.types import AnswerResponse
from tests.app import servers
from tests.model.published.causal import checkpoints, sizes
from tests.model.published.causal.checkpoints import QUESTION
from tests.model.published.checkpoints import make_image

pytestmark = pytest.mark.long


def filled(net: Any) -> Any:
    """A model from the meta device with random weights. What is no weight is not saved, and made as it is loaded."""
    return checkpoints.peaked(net.to_empty(device="cpu"))


def smolvlm_256m(folder: Path) -> None:
    """The folder of SmolVLM 256M."""
    special = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    tokenizer = checkpoints.byte_tokenizer(special, eos="<end_of_utterance>", bos="<|im_start|>", image_token="<image>")
    with torch.device("meta"):
        net = sizes.smolvlm_256m(
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    images = checkpoints.image_processor("Idefics3", size={"longest_edge": 2048}, max_image_size={"longest_edge": 512})
    chat = checkpoints.QWEN_CHAT.replace("IMAGE", "<image>").replace("<|im_end|>", "<end_of_utterance>")
    keep(folder, filled(net), tokenizer, images, chat)


def llava_onevision_0_5b(folder: Path) -> None:
    """The folder of LLaVA-OneVision 0.5B."""
    special = ["<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = checkpoints.byte_tokenizer(special, eos="<|im_end|>", image_token="<image>", video_token="<video>")
    with torch.device("meta"):
        net = sizes.llava_onevision_0_5b(
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        )
    images = checkpoints.image_processor("LlavaOnevision")
    keep(folder, filled(net), tokenizer, images, checkpoints.QWEN_CHAT.replace("IMAGE", "<image>\n"))


def keep(folder: Path, net: Any, tokenizer: Any, images: Any, chat: str) -> None:
    """Save all parts of a folder."""
    net.generation_config.eos_token_id = net.generation_config.pad_token_id = tokenizer.eos_token_id
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat)


@pytest.mark.parametrize("build", [smolvlm_256m, llava_onevision_0_5b])
def test_served_through_every_dialect(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / build.__name__
    build(folder)
    file = io.BytesIO()
    make_image(451, 300).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    monkeypatch.setattr(servers, "wait_for", functools.partial(servers.wait_for, seconds=1800.0))
    settings = {"threads": 2, "request_seconds": 900, "worker_seconds": 900, "queue_seconds": 900, "load_seconds": 1800}
    with (
        servers.serving(tmp_path / "log", loader=None, model=folder, **settings) as server,
        server.client(900.0) as client,
    ):
        check(client, data)


def check(client: httpx.Client, data: str) -> None:
    """The native dialect, streamed; OpenAI's two; Hugging Face's task; all say the same."""
    body = {"image": data, "questions": [QUESTION], "max_new_tokens": 5}
    plain = client.post("/v1/answer", json=body)
    assert plain.status_code == 200, plain.text
    parsed = AnswerResponse.model_validate_json(plain.content)
    result = parsed.results[0]
    assert parsed.attention is not None
    grid = parsed.attention.grid.rows, parsed.attention.grid.columns
    assert len(result.answer_tokens) == 5
    for token in (*result.question_tokens, *result.answer_tokens):
        found: Any = token.map
        assert np.shape(found.values) == grid
        assert np.sum(found.values) + found.elsewhere == pytest.approx(1.0, abs=1e-2)
    streamed = client.post("/v1/answer", json={**body, "stream": True})
    assert streamed.text.count("event: token") >= 1
    assert json.loads(streamed.text.rstrip().rsplit("data: ", 1)[1]) == plain.json()
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    chat = {"messages": [{"role": "user", "content": parts}], "max_tokens": 5}
    completion = client.post("/v1/chat/completions", json=chat).json()
    assert completion["choices"][0]["message"]["content"] == result.answer
    chunks = client.post("/v1/chat/completions", json={**chat, "stream": True}).text
    assert chunks.endswith("data: [DONE]\n\n")
    newer = [
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}, {"type": "input_image", **image(data)}]}
    ]
    response = client.post("/v1/responses", json={"input": newer, "max_output_tokens": 5}).json()
    assert response["output"][0]["content"][0]["text"] == result.answer


def image(data: str) -> dict[str, str]:
    """An image as the newer route takes it."""
    return {"image_url": f"data:image/png;base64,{data}"}
