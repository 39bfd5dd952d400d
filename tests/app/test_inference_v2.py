"""The Open Inference Protocol, by hand; tests/clients has other people's clients."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.conftest import running
from tests.fakes.reference_server import LOADER

pytestmark = pytest.mark.asyncio(loop_scope="session")
INFER = "/v2/models/colours/infer"


def tensor(name: str, *values: Any, **fields: Any) -> dict[str, Any]:
    """An input in JSON."""
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": list(values), **fields}


def outputs(response: httpx.Response) -> dict[str, Any]:
    """The outputs by name, as arrays of their shapes."""
    assert response.status_code == 200, response.text
    made = response.json()
    assert (made["model_name"], made["model_version"]) == ("colours", "sha256:0")
    found = {}
    for each in made["outputs"]:
        kind = {"BYTES": object, "FP32": np.float32}[each["datatype"]]
        found[each["name"]] = np.array(each["data"], kind).reshape(each["shape"])
    return found


def error(response: httpx.Response, code: str) -> str:
    """The message of an error in the protocol's envelope."""
    assert response.headers["x-error-code"] == code, response.text
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])


async def test_who_is_there(colours: httpx.AsyncClient) -> None:
    """Server, model and version, with their health."""
    server = (await colours.get("/v2")).json()
    assert server["name"] == "crosslook"
    assert server["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert (await colours.get(path)).json() == {"live": True, "ready": True}
    for path in ("/v2/models/colours", "/v2/models/colours/versions/sha256:0"):
        found = (await colours.get(path)).json()
        assert (found["name"], found["versions"], found["platform"]) == ("colours", ["sha256:0"], "crosslook")
        assert {each["name"]: each["shape"] for each in found["inputs"]} == {"image": [1], "question": [-1]}
        shapes = {each["name"]: each["shape"] for each in found["outputs"]}
        assert shapes["answer_map"] == [-1, 4, 6]
        assert (await colours.get(f"{path}/ready")).json() == {"name": "colours", "ready": True}
    for path in ("/v2/models/none", "/v2/models/none/ready", "/v2/models/colours/versions/1", "/v2/models/a/b/ready"):
        error(await colours.get(path), "model_not_found")
    error(await colours.get("/v2/nothing"), "not_found")
    error(await colours.get(INFER), "model_not_found")  # a name may have slashes


@pytest.mark.parametrize("content_type", [None, "application/json", "application/octet-stream"])
async def test_questions_as_json(colours: httpx.AsyncClient, half_red: str, content_type: str | None) -> None:
    """Whatever the Content-Type, for a client sends none. Everything that the native route says is there too."""
    body = {
        "id": "7",
        "inputs": [tensor("image", half_red), tensor("question", "is it red?", "or blue?")],
        "parameters": {"maps": "float", "top_k": 2, "another_servers": 1},
    }
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await colours.post(INFER, content=json.dumps(body), headers=headers)
    found = outputs(response)
    assert response.json()["id"] == "7"
    native = {"image": half_red, "questions": ["is it red?", "or blue?"], "top_k": 2}
    expected = (await colours.post("/v1/answer", json=native)).json()
    assert json.loads(found["result"][0]) == expected
    results = expected["results"]
    assert list(found["answer"]) == [each["answer"] for each in results]
    assert np.allclose(found["score"], [each["score"] for each in results])
    assert np.allclose(found["answer_map"], [each["answer_map"]["values"] for each in results])
    for mine, result in zip(found["question_map"], results, strict=True):
        theirs = [token["map"]["values"] for token in result["question_tokens"]]
        assert np.allclose(mine[: len(theirs)], theirs)
        assert not mine[len(theirs) :].any()
    assert list(found["region"]) == [0, 0, 60, 40]


def binary(*elements: bytes) -> bytes:
    """A BYTES tensor as the extension has it."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


async def test_questions_as_bytes(colours: httpx.AsyncClient, half_red: str) -> None:
    """The file itself, behind the JSON; only what was asked for comes back, and maps because one was."""
    image, question = binary(base64.b64decode(half_red)), binary(b"red?", "größer?".encode())
    head = json.dumps(
        {
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(image)}},
                {
                    "name": "question",
                    "datatype": "BYTES",
                    "shape": [2, 1],
                    "parameters": {"binary_data_size": len(question)},
                },
            ],
            "outputs": [{"name": "answer", "parameters": {"binary_data": True}}, {"name": "answer_map"}],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    found = outputs(await colours.post(INFER, content=head + image + question, headers=headers))
    assert set(found) == {"answer", "answer_map"}
    assert found["answer_map"].shape == (2, 4, 6)
    for wrong in ("x", "-1", str(len(head + image + question) + 1)):
        error(
            await colours.post(INFER, content=head, headers={"Inference-Header-Content-Length": wrong}),
            "malformed_request",
        )
    error(await colours.post(INFER, content=head + image[:-1], headers=headers), "malformed_request")
    cut = head + image[:-1] + b"\xff" + question[:-1]
    error(await colours.post(INFER, content=cut, headers=headers), "malformed_request")


async def test_an_image_once_and_then_its_id(colours: httpx.AsyncClient, half_red: str) -> None:
    image_id = (await colours.post("/v1/images", json={"image": half_red})).json()["image"]["id"]
    body = {"inputs": [tensor("image_id", image_id), tensor("question", "red?")]}
    assert (await colours.post(INFER, json=body)).headers["x-cache"] == "hit"


@pytest.mark.parametrize("value", ["red,green", '["red", "green"]', ["red", "green"]])
async def test_candidates_may_be_a_text(colours: httpx.AsyncClient, half_red: str, value: Any) -> None:
    """Parameters of the protocol are no lists."""
    inputs = [tensor("image", half_red), tensor("question", "which?")]
    found = outputs(await colours.post(INFER, json={"inputs": inputs, "parameters": {"candidates": value}}))
    ranking = json.loads(found["result"][0])["results"][0]["ranking"]
    assert {each["answer"] for each in ranking} == {"red", "green"}


@pytest.mark.parametrize(
    ("inputs", "extra", "said"),
    [
        ([tensor("question", "a?")], {}, "Give one image"),
        ([tensor("image", "IMAGE")], {}, "Field required: question"),
        ([tensor("image", "IMAGE", "IMAGE"), tensor("question", "a?")], {}, "Give one image"),
        ([tensor("image", "IMAGE"), tensor("image", "IMAGE"), tensor("question", "a?")], {}, "inputs[1]"),
        ([tensor("image", "IMAGE"), tensor("picture", "a?")], {}, "not picture"),
        ([tensor("image", "IMAGE"), tensor("question", "a?", shape=[2])], {}, "as its shape says"),
        ([tensor("image", "IMAGE"), tensor("question", "a?", datatype="FP32")], {}, "must be BYTES"),
        ([tensor("image", "IMAGE"), tensor("question", 5)], {}, "must be texts"),
        ([tensor("image", "IMAGE"), tensor("question", [["a?"]])], {}, "must be texts"),
        ([tensor("image", "IMAGE"), tensor("question", "a?")], {"outputs": [{"name": "masks"}]}, "there is no masks"),
        ([tensor("image", "IMAGE"), tensor("question", "a?")], {"parameters": {"top_k": 0}}, "parameters.top_k"),
        ([tensor("image", "IMAGE"), tensor("question", "a?")], {"parameters": {"layers": "[9"}}, "parameters.layers"),
        ([], {}, "inputs"),
    ],
)
async def test_what_is_refused(colours: httpx.AsyncClient, half_red: str, inputs: Any, extra: Any, said: str) -> None:
    filled = [{**each, "data": [half_red if value == "IMAGE" else value for value in each["data"]]} for each in inputs]
    assert said in error(await colours.post(INFER, json={"inputs": filled, **extra}), "invalid_request")


async def test_every_error_has_the_protocols_envelope() -> None:
    """Of limits, keys and fallen workers alike, also behind a prefix; and health asks for no key."""
    digest = "0" * 64
    async with running(loader=LOADER, api_keys=[f"a:{digest}"], root_path="/x") as (app, client):
        error(await client.get("/v2/models/colours"), "invalid_api_key")
        error(await client.get("/x/v2/models/colours"), "invalid_api_key")
        error(await client.post(INFER, json={}), "invalid_api_key")
        assert (await client.get("/v2/health/ready")).status_code == 200
        app.state.engine.draining = True
        error(await client.get("/v2/health/ready"), "not_ready")
        native = await client.get("/v1/models")
        assert native.json()["error"]["code"] == "invalid_api_key"


async def test_elements_of_a_binary_tensor_are_bounded(colours: httpx.AsyncClient) -> None:
    """Empty ones cost four bytes each: a megabyte of them is a quarter of a million texts."""
    size = 1 << 20
    head = {"name": "question", "datatype": "BYTES", "shape": [size // 4], "parameters": {"binary_data_size": size}}
    body = json.dumps({"inputs": [head]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    response = await colours.post(INFER, content=body + bytes(size), headers=headers)
    assert "more than 1000 elements" in error(response, "invalid_request")


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 20, "-1", "1e3", "\u0663"])
async def test_a_length_that_is_none(colours: httpx.AsyncClient, length: str) -> None:
    """Also one of so many digits that Python reads no number in them."""
    headers = {b"Inference-Header-Content-Length": length.encode()}
    error(await colours.post(INFER, content=b"{}", headers=headers), "malformed_request")


async def test_an_id_is_given_back_and_bounded(colours: httpx.AsyncClient, half_red: str) -> None:
    """An answer must not be as long as a body."""
    inputs = [tensor("image", half_red), tensor("question", "a?")]
    assert (await colours.post(INFER, json={"inputs": inputs, "id": "x" * 1000})).json()["id"] == "x" * 1000
    response = await colours.post(INFER, json={"inputs": inputs, "id": "x" * 1001})
    assert error(response, "invalid_request").startswith("id: ")


async def test_what_is_no_error_of_ours_keeps_its_body() -> None:
    """CORS refuses in plain text, before any route."""
    asking = {"Origin": "https://example.com", "Access-Control-Request-Method": "GET"}
    async with running(loader=LOADER, cors_origins=["https://example.org"]) as (_, client):
        refused = await client.options("/v2/models/colours", headers=asking)
        assert (refused.status_code, refused.text) == (400, "Disallowed CORS origin")
