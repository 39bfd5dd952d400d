"""The released `huggingface_hub`, unmodified: its `InferenceClient` with this server's URL as the model."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.conftest import coloured


@pytest.fixture
def client(url: str) -> InferenceClient:
    return InferenceClient(model=url, token="unused")


def test_visual_question_answering(client: InferenceClient, red: bytes, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(red)
    for image in (red, path, str(path)):
        found = client.visual_question_answering(image, "What colour is it?", top_k=2)
        assert found[0].answer == "red"
        assert len(found) == 2
        assert found[0].score > 0.9 > found[1].score
    assert len(client.visual_question_answering(red, "What colour is it?")) == 4


def test_image_to_text(client: InferenceClient, red: bytes) -> None:
    assert client.image_to_text(red).generated_text == "a red image"


def test_zero_shot_image_classification(client: InferenceClient, red: bytes) -> None:
    found = client.zero_shot_image_classification(red, ["blue", "red", "green"])
    assert found[0].label == "red"
    assert found[0].score > 0.9
    assert {element.label for element in found} == {"blue", "red", "green"}
    template = client.zero_shot_image_classification(red, ["blue", "red"], hypothesis_template="all is {}")
    assert template[0].label == "red"


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # between the library and its own httpx2
async def test_async_client(url: str) -> None:
    async with AsyncInferenceClient(model=url, token="unused") as client:
        found = await asyncio.gather(
            *(client.visual_question_answering(coloured(name), "Which?") for name in ("red", "blue"))
        )
    assert [elements[0].answer for elements in found] == ["red", "blue"]


def test_chat_completion(client: InferenceClient, red: bytes) -> None:
    """The same client speaks OpenAI's dialect too."""
    uri = "data:image/png;base64," + base64.b64encode(red).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What colour?"}]
    completion = client.chat_completion([{"role": "user", "content": content}], model="colours")
    assert completion.choices[0].message.content == "red"


@pytest.mark.parametrize("uri", [True, False])
def test_the_documented_body(url: str, red: bytes, uri: bool) -> None:
    image = ("data:image/png;base64," if uri else "") + base64.b64encode(red).decode()
    body = {"inputs": {"image": image, "question": "Which?"}, "parameters": {"top_k": 1}}
    response = httpx.post(url, json=body)
    assert [element["answer"] for element in response.json()] == ["red"]
    described = httpx.post(url, json={"inputs": image})
    assert described.json() == [{"generated_text": "a red image"}]


def test_errors(url: str, red: bytes, big: bytes, huge: bytes) -> None:
    client = InferenceClient(model=url, token="unused")
    cases = [
        (b"no image", "What?", 415, "image"),
        (big, "What?", 413, "bytes"),
        (huge, "What?", 413, "bytes"),
        (red, " ", 422, "no text"),
        (red, "xyzzy", 422, "Unknown words"),
    ]
    for image, question, status, words in cases:
        with pytest.raises(HfHubHTTPError, match=words) as caught:
            client.visual_question_answering(image, question)
        assert caught.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match=r"candidate_labels\[1\]"):
        client.zero_shot_image_classification(red, ["a", " "])
    with pytest.raises(HfHubHTTPError, match="hypothesis_template"):
        client.zero_shot_image_classification(red, ["a", "b"], hypothesis_template="no place")
    with pytest.raises(HfHubHTTPError, match=r"[Uu]nsupported|image") as caught:
        client.image_to_text(b"no image")
    assert caught.value.response.status_code == 415


def classify(url: str, image: bytes, **parameters: Any) -> httpx.Response:
    """Zero-shot classification, sent by hand."""
    return httpx.post(url, json={"inputs": base64.b64encode(image).decode(), "parameters": parameters})


@pytest.mark.parametrize(
    ("template", "labels", "code", "param"),
    [
        ("{}" * 400, ["a", "b"], "invalid_request", "parameters.hypothesis_template"),
        ("{} and {}", ["a", "b"], "invalid_request", "parameters.hypothesis_template"),
        ("", ["a", "b"], "invalid_request", "parameters.hypothesis_template"),
        ("{}" + "z" * 1000, ["a", "b"], "invalid_request", "parameters.hypothesis_template"),
        ("{}" + "z" * 900, ["a", "b" * 101], "question_too_long", "parameters.candidate_labels[1]"),
        ("{}", ["a"] * 33, "too_many_questions", "parameters.candidate_labels"),
    ],
)
def test_a_template_takes_each_label_once_and_stays_short(
    url: str, red: bytes, template: str, labels: list[str], code: str, param: str
) -> None:
    """What reaches the model is bounded like a question, before anything is made of it."""
    response = classify(url, red, candidate_labels=labels, hypothesis_template=template)
    assert (response.status_code, response.json()["code"], response.json()["param"]) == (422, code, param)


def test_null_is_as_if_it_were_not_there(url: str, red: bytes) -> None:
    assert classify(url, red, candidate_labels=["red", "blue"], hypothesis_template=None).json()[0]["label"] == "red"
    body = {"inputs": base64.b64encode(red).decode(), "question": None, "parameters": None}
    assert httpx.post(url, json=body).json() == [{"generated_text": "a red image"}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"question": " "}, "question"),
        ({"question": "xyzzy"}, "question"),
        ({"inputs": {"image": "red", "question": "xyzzy"}}, "inputs.question"),
        ({"inputs": {"question": "What?"}}, "inputs.image"),
        ({"inputs": 5}, "inputs"),
        ({"parameters": {"#top_k": 1}}, "parameters.#top_k"),
    ],
)
def test_the_field_at_fault_is_one_of_the_request(url: str, red: bytes, fields: dict[str, Any], param: str) -> None:
    image = base64.b64encode(red).decode()
    text = json.dumps({"inputs": image, **fields}).replace('"image": "red"', f'"image": "{image}"')
    response = httpx.post(url, content=text, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["param"]) == (422, param)
    assert "[0]" not in response.json()["error"]


def test_refusals(guarded: str, key: str, red: bytes) -> None:
    for token, status, words in ((False, 401, "API key"), (key, 503, "queue"), (key, 429, "questions a minute")):
        client = InferenceClient(model=guarded, token=token or "wrong")
        with pytest.raises(HfHubHTTPError, match=words) as caught:
            client.visual_question_answering(red, "What?")
        assert caught.value.response.status_code == status


def test_parameters_of_documents_are_not_read(url: str, red: bytes) -> None:
    ignored = {"doc_stride": 64, "lang": "en", "max_answer_len": 15, "max_seq_len": 384, "word_boxes": [["a", [0, 0]]]}
    body = {"inputs": {"image": base64.b64encode(red).decode(), "question": "Which?"}, "parameters": {"top_k": 1}}
    plain = httpx.post(url, json=body)
    found = httpx.post(url, json=body | {"parameters": {"top_k": 1, **ignored}})
    assert found.status_code == 200, found.text
    assert found.json() == plain.json()


@pytest.mark.parametrize("parameters", [{"top_k": 3}, {"function_to_apply": "softmax"}])
def test_image_classification_says_what_to_do_instead(url: str, red: bytes, parameters: dict[str, Any]) -> None:
    response = classify(url, red, **parameters)
    assert (response.status_code, response.json()["code"]) == (422, "task_not_supported")
    assert "candidate_labels" in response.json()["error"]
