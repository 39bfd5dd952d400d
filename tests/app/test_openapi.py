"""The OpenAPI document: its examples can be sent as they are."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator

from app.auth import make_key
from tests.app.conftest import running

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_example_is_answered(client: httpx.AsyncClient) -> None:
    """200 for each, or the word that this model lacks the task; never a complaint about the example."""
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    statuses: dict[str, int] = {}
    for path, methods in document["paths"].items():
        for name, example in _examples(methods.get("post", {})).items():
            served = path.format(model_name="stand-in", version="sha256:0")
            response = await client.post(served, json=example["value"])
            code = response.headers.get("x-error-code")
            assert response.status_code == 200 or code == "task_not_supported", f"{path} {name}: {response.text[:300]}"
            statuses[f"{path} {name}"] = response.status_code
    assert {path.split()[0] for path in statuses} >= {"/v1/answer", "/v1/images", "/v1/overlay", "/v1/match", "/"}
    assert list(statuses.values()).count(200) >= 4


def _examples(operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    found: dict[str, Any] = content.get("application/json", {}).get("examples", {})
    return found


async def test_a_key_is_asked_for_only_where_one_is_set(client: httpx.AsyncClient) -> None:
    """The empty requirement is OpenAPI's word for a free choice."""
    pair = make_key("someone")[1]
    async with running(api_keys=[pair]) as (_, guarded):
        for asked, where in (([{"HTTPBearer": []}, {}], client), ([{"HTTPBearer": []}], guarded)):
            paths = (await where.get("/openapi.json")).json()["paths"]
            assert paths["/v1/answer"]["post"]["security"] == asked
            assert "security" not in paths["/health/live"]["get"]


SOUND: list[tuple[str, dict[str, Any]]] = [
    ("AnswerRequest", {"image": "a", "questions": ["q"]}),
    ("AnswerRequest", {"image_id": "a", "questions": [" q "], "layers": None}),
    ("AnswerRequest", {"image_id": "a", "image": None, "questions": ["q"] * 3}),
    ("AnswerForm", {"image": "a", "question": ["q"]}),
    ("MatchRequest", {"image_id": "a", "texts": ["q", "r"]}),
    ("CaptionRequest", {"image": "a", "prompts": ["", "x" * 20]}),
    ("OverlayRequest", {"image": "a", "question": "q"}),
    ("HuggingFaceRequest", {"inputs": "a", "question": None}),
    ("ImageUploadRequest", {"image": "a"}),
]
UNSOUND: list[tuple[str, dict[str, Any]]] = [
    ("AnswerRequest", {"questions": ["q"]}),
    ("AnswerRequest", {"image": None, "questions": ["q"]}),
    ("AnswerRequest", {"image": "a", "image_id": "a", "questions": ["q"]}),
    ("AnswerRequest", {"image": "a", "questions": []}),
    ("AnswerRequest", {"image": "a", "questions": [""]}),
    ("AnswerRequest", {"image": "a", "questions": [" \t"]}),
    ("AnswerRequest", {"image": "a", "questions": ["q"] * 4}),
    ("AnswerRequest", {"image": "a", "questions": ["x" * 21]}),
    ("AnswerForm", {"question": ["q"]}),
    ("AnswerForm", {"image": "a", "image_id": "a", "question": ["q"]}),
    ("MatchRequest", {"image": "a", "texts": ["q", " "]}),
    ("CaptionRequest", {"image": "a", "prompts": ["x" * 21]}),
    ("OverlayRequest", {"question": "q"}),
    ("OverlayRequest", {"image": "a", "question": " "}),
    ("HuggingFaceRequest", {"inputs": "a", "question": ""}),
    ("ImageUploadRequest", {}),
]


async def test_schemas_say_what_routes_check() -> None:
    """Limits of the settings, texts that are none, and the image: once, by value or by id."""
    async with running(questions=3, question_characters=20) as (_, client):
        document = (await client.get("/openapi.json")).json()
    for expected, cases in ((True, SOUND), (False, UNSOUND)):
        for name, body in cases:
            schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            assert Draft202012Validator(schema).is_valid(body) == expected, (name, body)


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/match"])
async def test_what_schemas_forbid_is_refused(client: httpx.AsyncClient, path: str) -> None:
    """None of the unsound bodies is answered."""
    names = {"/v1/answer": "AnswerRequest", "/v1/match": "MatchRequest"}
    async with running(questions=3, question_characters=20) as (_, other):
        for name, body in UNSOUND:
            if name == names[path]:
                assert 400 <= (await other.post(path, json=body)).status_code < 500, body


async def test_a_proxys_prefix_is_no_part_of_the_routes() -> None:
    """Stripped by the proxy or not; and it is set without a warning, which would be an error here."""
    async with running(root_path="/vqa") as (_, client):
        for path in ("/openapi.json", "/vqa/openapi.json"):
            assert (await client.get(path)).json()["servers"] == [{"url": "/vqa"}]


@pytest.mark.parametrize("given", ["", "/vqa"])
async def test_a_redirect_keeps_the_prefix(given: str) -> None:
    """A trailing slash too many, whether or not the proxy strips the prefix."""
    async with running(root_path="/vqa") as (_, client):
        for path in ("/v1/answer", "/v1/chat/completions", "/docs", "/health/live"):
            redirected = await client.get(f"{given}{path}/?a=b")
            assert redirected.status_code == 307
            assert httpx.URL(redirected.headers["location"]).raw_path == f"/vqa{path}?a=b".encode()
        assert (await client.get(f"{given}/docs/", follow_redirects=True)).status_code == 200
        assert (await client.get(f"{given}/vqaother/")).status_code == 404
    async with running() as (_, client):
        assert httpx.URL((await client.get("/docs/")).headers["location"]).path == "/docs"
