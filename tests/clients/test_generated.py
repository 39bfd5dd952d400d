"""A client that openapi-python-client generates from ``/openapi.json``, and what that document must hold for others."""

from __future__ import annotations

import base64
import importlib
import io
import subprocess
import sys
from typing import Any

import httpx
import pytest

from crosslook.errors import CODES


@pytest.fixture(scope="session")
def document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    return found


@pytest.fixture(scope="session")
def generated(url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The generated package, imported."""
    folder = tmp_path_factory.mktemp("generated")
    config = folder / "config.yml"
    config.write_text("post_hooks: []\ncontent_type_overrides: {image/png: application/octet-stream}\n")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--url", f"{url}/openapi.json", "--output-path", str(folder / "made"), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("made")
    finally:
        sys.path.remove(str(folder))


def part(generated: Any, name: str) -> Any:
    return importlib.import_module(f"{generated.__name__}.{name}")


def test_an_answer_as_json_and_as_multipart(generated: Any, url: str, red: bytes) -> None:
    models, answer = part(generated, "models"), part(generated, "api.native.answer")
    body = models.AnswerRequest(image=base64.b64encode(red).decode(), questions=["What colour?", "And the red?"])
    with generated.Client(base_url=url) as client:
        response = answer.sync(client=client, body=body)
    assert isinstance(response, models.AnswerResponse)
    assert [result.answer for result in response.results] == ["red", "red"]
    assert response.attention.grid.rows == 4
    assert isinstance(response.results[0].answer_map, models.FloatMap)

    file = part(generated, "types").File(payload=io.BytesIO(red), file_name="red.png", mime_type="image/png")
    form = models.AnswerForm(image=file, question=["What colour?"])
    with generated.Client(base_url=url) as client:
        assert answer.sync(client=client, body=form).results[0].answer == "red"


def test_errors_have_their_type(generated: Any, url: str, guarded: str) -> None:
    models, answer = part(generated, "models"), part(generated, "api.native.answer")
    body = models.AnswerRequest(image="bm8=", questions=["What colour?"])
    with generated.Client(base_url=url) as client:
        detailed = answer.sync_detailed(client=client, body=body)
    assert detailed.status_code == 415
    assert isinstance(detailed.parsed, models.ErrorBody)
    assert detailed.parsed.error.code == "unsupported_image"
    with generated.AuthenticatedClient(base_url=guarded, token="wrong") as client:
        refused = answer.sync_detailed(client=client, body=body)
    assert (refused.status_code, refused.parsed.error.code) == (401, "invalid_api_key")


async def test_other_routes(generated: Any, url: str, red: bytes) -> None:
    models = part(generated, "models")
    async with generated.Client(base_url=url) as client:
        listed = await part(generated, "api.native.models").asyncio(client=client)
        assert listed.data[0].id == "colours"
        upload = models.ImageUploadRequest(image=base64.b64encode(red).decode())
        uploaded = await part(generated, "api.native.upload").asyncio(client=client, body=upload)
        assert uploaded.image.width == 60
        content = [
            models.ChatContentPart(type_=models.ChatContentPartType.TEXT, text="What?"),
            models.ChatContentPart(
                type_=models.ChatContentPartType.IMAGE_URL,
                image_url=models.ImageURL(url="data:;base64," + base64.b64encode(red).decode()),
            ),
        ]
        chat = models.ChatRequest(messages=[models.ChatMessage(role="user", content=content)])
        completion = await part(generated, "api.openai.chat_completions").asyncio(client=client, body=chat)
        assert completion.choices[0].message.content == "red"
        visual = models.HuggingFaceRequest(inputs=base64.b64encode(red).decode(), question="What?")
        found = await part(generated, "api.hugging_face.hugging_face").asyncio(client=client, body=visual)
        assert found[0].answer == "red"


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values() if operation["tags"]
    ]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() for name in names)
    assert all(operation["summary"] and operation["description"] for operation in operations)
    assert "HTTPValidationError" not in document["components"]["schemas"]  # FastAPI's own shape is not ours


_ERROR_SHAPES = {"": "HuggingFaceError", "v2": "InferenceError"}


def test_every_error_is_shown_where_it_can_happen(document: dict[str, Any]) -> None:
    shown = set()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status == "200":
                    continue
                schema = response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                assert schema == _ERROR_SHAPES.get(path.split("/")[1], "ErrorBody")
                for code, example in response["content"]["application/json"]["examples"].items():
                    assert str(CODES[code].status) == status
                    if schema == "ErrorBody":
                        assert example["value"]["error"]["code"] == code
                    elif schema == "HuggingFaceError":
                        assert example["value"]["code"] == code
                    shown.add(code)
    # These answer requests that are no operation of the document, or whose operation is not known yet.
    assert set(CODES) - shown == {"method_not_allowed", "url_too_long", "head_too_large"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    assert {reference.rpartition("/")[2] for reference in references(document)} <= set(schemas)
    assert all(reference.startswith("#/components/schemas/") for reference in references(document))
