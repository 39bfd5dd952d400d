"""The OpenAPI document: its examples can be sent as they are."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.app.conftest import running

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_example_is_answered(client: httpx.AsyncClient) -> None:
    """200 for each, or the word that this model lacks the task; never a complaint about the example."""
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    statuses: dict[str, int] = {}
    for path, methods in document["paths"].items():
        for name, example in _examples(methods.get("post", {})).items():
            response = await client.post(path, json=example["value"])
            code = response.headers.get("x-error-code")
            assert response.status_code == 200 or code == "task_not_supported", f"{path} {name}: {response.text[:300]}"
            statuses[f"{path} {name}"] = response.status_code
    assert {path.split()[0] for path in statuses} >= {"/v1/answer", "/v1/images", "/v1/overlay", "/v1/match", "/"}
    assert list(statuses.values()).count(200) >= 4


def _examples(operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    found: dict[str, Any] = content.get("application/json", {}).get("examples", {})
    return found


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
