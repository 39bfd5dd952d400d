"""The published sizes, with random weights, through a real server: what a user would download and serve."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from crosslook.types import AnswerResponse, CaptionResponse, MatchResponse
from tests.app import servers
from tests.model.published import checkpoints
from tests.model.published import hub as standin
from tests.model.published.conftest import Pair
from tests.model.published.vilt.conftest import ViltPair, published_vilt

pytestmark = pytest.mark.long
QUESTION = "what is the color of the cat?"


@pytest.fixture
def image() -> Image.Image:
    """Not square, so that a transposed map would show."""
    return checkpoints.make_image(451, 300)


@contextmanager
def serving(model: Path | str, log: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a server process that was told CROSSLOOK_MODEL; loading gigabytes takes a while."""
    monkeypatch.setattr(servers, "wait_for", functools.partial(servers.wait_for, seconds=600.0))
    options = {"threads": 2, "request_seconds": 300, "worker_seconds": 300, "queue_seconds": 300, **settings}
    with servers.serving(log, loader=None, model=model, **options) as server, server.client(300.0) as client:
        yield client


def post(client: httpx.Client, path: str, image: Image.Image, **fields: Any) -> httpx.Response:
    """Multipart, as a browser sends it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    response = client.post(path, files={"image": file.getvalue()}, data=fields)
    assert response.status_code == 200, response.text
    return response


@torch.no_grad()
def test_blip_answers(tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer and the maps are transformers' own; the second question is asked of the image that is kept."""
    folder = checkpoints.published_blip("answer", tmp_path / "blip-vqa-base")
    with serving(folder, tmp_path / "log", monkeypatch) as client:
        body = AnswerResponse.model_validate_json(post(client, "/v1/answer", image, question=QUESTION).content)
        for kind in ("gradient", "rollout"):
            assert post(client, "/v1/answer", image, question=QUESTION, map_kind=kind).headers["x-cache"] == "hit"
        ranked = post(client, "/v1/answer", image, question=QUESTION, candidates=["cat", "a red dog"], maps="none")
    assert sum(r["score"] for r in ranked.json()["results"][0]["ranking"]) == pytest.approx(1.0, abs=1e-5)
    theirs = checkpoints.TASKS["answer"].from_pretrained(folder)
    tokenizer = checkpoints.bert_tokenizer(checkpoints.full_size_vocabulary())
    ids = tokenizer(QUESTION, return_tensors="pt")["input_ids"]
    ids[:, 0] = theirs.config.text_config.bos_token_id + 1
    size = {"height": 384, "width": 384}
    pixels = checkpoints.image_processor("Blip", size=size)(image, return_tensors="pt")["pixel_values"]
    expected = theirs.generate(ids, pixels, num_beams=3, max_new_tokens=10)
    result = body.results[0]
    assert result.answer == tokenizer.decode(expected[0], skip_special_tokens=True).strip()
    assert body.attention is not None
    assert body.attention.composition == "answer>question>image"
    assert (body.attention.grid.rows, body.attention.grid.columns) == (24, 24)
    features = theirs.vision_model(pixels).last_hidden_state
    states = theirs.text_encoder(ids, encoder_hidden_states=features, output_attentions=True)
    heads = torch.stack(states.cross_attentions)
    assert -(heads * heads.clamp_min(1e-30).log()).sum(-1).mean() < 0.5 * math.log(heads.shape[-1])
    rows = heads.mean((0, 2))[0].numpy()
    for token, row in zip(result.question_tokens, rows, strict=True):
        found: Any = token.map
        np.testing.assert_allclose(np.ravel(found.values), row[1:], atol=1e-5, rtol=1e-3)
        assert found.elsewhere == pytest.approx(row[0], abs=1e-5)


@torch.no_grad()
def test_blip_captions(tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.published_blip("caption", tmp_path / "blip-image-captioning-base")
    with serving(folder, tmp_path / "log", monkeypatch) as client:
        response = post(client, "/v1/caption", image, prompt=["", "a photo of"])
        refused = client.post("/v1/answer", json={"image": "aW1hZ2U=", "questions": ["what?"]})
    body = CaptionResponse.model_validate_json(response.content)
    theirs = checkpoints.TASKS["caption"].from_pretrained(folder)
    tokenizer = checkpoints.bert_tokenizer(checkpoints.full_size_vocabulary())
    size = {"height": 384, "width": 384}
    pixels = checkpoints.image_processor("Blip", size=size)(image, return_tensors="pt")["pixel_values"]
    for prompt, result in zip(("", "a photo of"), body.results, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"] if prompt else None
        expected = theirs.generate(pixels, ids, num_beams=3, max_new_tokens=20)
        assert result.caption == tokenizer.decode(expected[0], skip_special_tokens=True).strip()
        assert result.caption_words
        for token in result.caption_tokens:
            found: Any = token.map
            assert np.shape(found.values) == (24, 24)
            assert np.sum(found.values) + found.elsewhere == pytest.approx(1.0, abs=1e-3)
    assert refused.json()["error"]["code"] == "task_not_supported"


@torch.no_grad()
def test_clip_matches(tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.published_clip(tmp_path / "clip-vit-base-patch32")
    texts = ["a photo of the cat", "the red dog", "two"]
    with serving(folder, tmp_path / "log", monkeypatch) as client:
        body = MatchResponse.model_validate_json(post(client, "/v1/match", image, text=texts).content)
    import transformers

    theirs = transformers.CLIPModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = checkpoints.image_processor("CLIP")
    inputs = {**tokenizer(texts, padding=True, return_tensors="pt"), **processor(image, return_tensors="pt")}
    expected = theirs(**inputs).logits_per_image[0].softmax(0).tolist()
    assert [result.score for result in body.results] == pytest.approx(expected, abs=1e-5)
    assert body.attention is not None
    assert body.attention.kind == "similarity"
    assert (body.attention.grid.rows, body.attention.grid.columns) == (7, 7)
    region = body.attention.region
    assert (region.top, region.bottom) == (0.0, 300.0)
    assert region.right - region.left == pytest.approx(300.0, abs=2.0)


@torch.no_grad()
def test_vilt_answers(tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that Hugging Face's task was answered by, in that task's shape and in ours."""
    folder = published_vilt(tmp_path / "vilt-b32-finetuned-vqa")
    with serving(folder, tmp_path / "log", monkeypatch) as client:
        body = AnswerResponse.model_validate_json(post(client, "/v1/answer", image, question=QUESTION).content)
        file = io.BytesIO()
        image.save(file, "PNG")
        asked = {"image": base64.b64encode(file.getvalue()).decode(), "question": QUESTION}
        task = client.post("/", json={"inputs": asked, "parameters": {"top_k": 3}}).json()
    import transformers

    theirs = transformers.ViltForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = SimpleNamespace(hub=transformers.AutoTokenizer.from_pretrained(folder))
    pair = ViltPair(SimpleNamespace(tokenizer=tokenizer), theirs, folder, short=384, divisor=32)
    logits, attention = pair.ask(image, QUESTION)
    best = logits.sigmoid().topk(3)
    assert [one["answer"] for one in task] == [f"answer{i}" for i in best.indices.tolist()]
    assert [one["score"] for one in task] == pytest.approx(best.values.tolist(), abs=1e-4)
    result = body.results[0]
    assert result.answer == task[0]["answer"]
    assert result.rest is None
    assert body.attention is not None
    rows, columns = body.attention.grid.rows, body.attention.grid.columns
    assert (rows, columns) == (12, 18)
    tokens = len(result.question_tokens)
    mean = torch.stack(attention).mean((0, 1))[:tokens, tokens + 1 :].numpy()
    for token, row in zip(result.question_tokens, mean, strict=True):
        found: Any = token.map
        np.testing.assert_allclose(np.ravel(found.values), row, atol=1e-4)


def test_a_hub_name_takes_the_same_path(
    answer: Pair, tmp_path: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CROSSLOOK_MODEL=owner/name, with HF_ENDPOINT pointing at a stand-in: download, progress, serve."""
    with standin.serve(blip=answer.folder) as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        with serving("owner/blip", tmp_path / "log", monkeypatch) as client:
            body = post(client, "/v1/answer", image, question=QUESTION).json()
            listed = client.get("/v1/models").json()["data"][0]
    assert body["model"] == {"id": "owner/blip", "revision": standin.COMMIT}
    assert listed["tasks"] == ["answer"]
    assert listed["map_kinds"] == ["raw", "gradient", "rollout"]
    assert "model.safetensors" in (tmp_path / "log").read_text() or "Fetching" in (tmp_path / "log").read_text()


def test_a_wrong_name_ends_the_server_with_a_clear_message(
    answer: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standin.serve(blip=answer.folder) as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(AssertionError, match="the hub has no model owner/nope"),
            serving("owner/nope", tmp_path / "log", monkeypatch),
        ):
            pass
