"""``POST /v1/answer`` and ``GET /v1/models``: every way in, every way out."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from app.engine.engine import Engine
from crosslook.errors import CODES
from crosslook.types import AnswerResponse, ErrorBody, ModelCard, ModelList, U8Map
from tests.app.conftest import encoded

pytestmark = pytest.mark.asyncio(loop_scope="session")


def as_json(data: bytes, *questions: str, **options: Any) -> dict[str, Any]:
    """A JSON body."""
    return {"image": base64.b64encode(data).decode(), "questions": list(questions), **options}


def failed(response: httpx.Response, code: str, param: str | None = None) -> ErrorBody:
    """Check an error's shape, status and headers."""
    body = ErrorBody.model_validate_json(response.content)
    assert body.error.code == code, body
    assert response.status_code == CODES[code].status
    assert body.error.type == CODES[code].type
    assert body.error.param == param
    assert body.error.request_id == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) is CODES[code].retry
    return body


async def test_json_and_multipart_give_the_same_body(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """Both encodings, twice each: one body, and the second one comes from the cache."""
    fields = {"question": ["one?", "two?"], "top_k": "1"}
    first = await client.post("/v1/answer", files={"image": image_bytes}, data=fields)
    second = await client.post("/v1/answer", json=as_json(image_bytes, "one?", "two?", top_k=1))
    assert first.status_code == 200, first.text
    assert first.content == second.content
    assert first.headers["x-cache"] == "miss"
    assert second.headers["x-cache"] == "hit"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert {"decode", "encode", "run", "total"} <= {
        part.split(";")[0].strip() for part in first.headers["server-timing"].split(",")
    }
    body = AnswerResponse.model_validate_json(first.content)
    assert [result.question for result in body.results] == ["one?", "two?"]
    assert len(body.results[0].ranking) == 1
    assert body.results[0].rest == pytest.approx(0.25)
    assert (body.image.width, body.image.height) == (40, 30)


async def test_data_uri_and_base64_are_one_image(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """The id depends on the bytes, not on their wrapping; line breaks in base64 are allowed."""
    plain = base64.b64encode(image_bytes).decode()
    folded = base64.encodebytes(image_bytes).decode()
    ids = set()
    for image in (plain, folded, f"data:image/png;base64,{plain}", f"DATA:;BASE64,{plain}"):
        response = await client.post("/v1/answer", json={"image": image, "questions": ["what?"]})
        assert response.status_code == 200, response.text
        ids.add(response.json()["image"]["id"])
    assert len(ids) == 1


async def test_maps_float_u8_and_none(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """One map in its three forms."""
    bodies = {}
    for choice in ("float", "u8", "none"):
        response = await client.post("/v1/answer", json=as_json(image_bytes, "what?", maps=choice))
        bodies[choice] = AnswerResponse.model_validate_json(response.content)
    none = bodies["none"]
    assert none.attention is None
    assert none.results[0].answer_map is None
    assert none.results[0].question_tokens == []
    assert none.results[0].question_words == []
    attention = bodies["float"].attention
    assert attention is not None
    floats = bodies["float"].results[0].answer_map
    assert floats is not None
    assert not isinstance(floats, U8Map)
    total = sum(map(sum, floats.values)) + floats.elsewhere
    assert total == pytest.approx(1.0, abs=1e-3)
    u8 = bodies["u8"].results[0].answer_map
    assert isinstance(u8, U8Map)
    levels = base64.b64decode(u8.data)
    assert len(levels) == attention.grid.rows * attention.grid.columns
    flat = [value for row in floats.values for value in row]
    assert [level * u8.scale for level in levels] == pytest.approx(flat, abs=u8.scale)
    assert bodies["u8"].attention is not None
    assert bodies["u8"].attention.encoding == "u8"


async def test_eight_questions_encode_once(client: httpx.AsyncClient, engine: Engine, image_bytes: bytes) -> None:
    """The vision encoder runs once for an image, however many questions, in one request or several."""
    before = engine.encoded
    questions = [f"question {n}?" for n in range(8)]
    response = await client.post("/v1/answer", json=as_json(image_bytes, *questions))
    assert len(response.json()["results"]) == 8
    await client.post("/v1/answer", json=as_json(image_bytes, "another?"))
    assert engine.encoded == before + 1


async def test_image_id_stands_for_the_bytes(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """The id of an answered image can be used in its place."""
    first = await client.post("/v1/answer", json=as_json(image_bytes, "what?"))
    image_id = first.json()["image"]["id"]
    again = await client.post("/v1/answer", json={"image_id": image_id, "questions": ["what?"]})
    form = await client.post("/v1/answer", files={"image_id": (None, image_id), "question": (None, "what?")})
    assert first.content == again.content == form.content
    unknown = await client.post("/v1/answer", json={"image_id": "img_unknown", "questions": ["what?"]})
    failed(unknown, "image_not_found", "image_id")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"questions": ["what?"]}, "invalid_request", "image"),
        ({"image": "aGk=", "image_id": "img_1", "questions": ["what?"]}, "invalid_request", "image"),
        ({"image": "aGk="}, "invalid_request", "questions"),
        ({"image": "aGk=", "questions": []}, "invalid_request", "questions"),
        ({"image": "aGk=", "questions": "what?"}, "invalid_request", "questions"),
        ({"image": "aGk=", "questions": ["a", 1]}, "invalid_request", "questions[1]"),
        ({"image": "aGk=", "questions": ["a", "  "]}, "question_empty", "questions[1]"),
        ({"image": "aGk=", "questions": ["a", "b" * 1001]}, "question_too_long", "questions[1]"),
        ({"image": "aGk=", "questions": ["a"] * 33}, "too_many_questions", "questions"),
        ({"image": "aGk=", "questions": ["a"], "colour": 1}, "invalid_request", "colour"),
        ({"image": "aGk=", "questions": ["a"], "#colour": 1}, "invalid_request", "#colour"),
        ({"image": "aGk=", "questions": ["a"], "top_k": 0}, "invalid_request", "top_k"),
        ({"image": "aGk=", "questions": ["a"], "maps": "png"}, "invalid_request", "maps"),
        ({"image": "aGk=", "questions": ["a"], "model": "gpt"}, "model_not_found", "model"),
        ({"image": "aGk=", "questions": ["a"], "map_kind": "gradient"}, "map_not_supported", "map_kind"),
        ({"image": "aGk=", "questions": ["a"], "layers": [7]}, "map_not_supported", "layers"),
        ({"image": "aGk=", "questions": ["a"], "heads": [0]}, "map_not_supported", "heads"),
        ({"image": "aGk=", "questions": ["a"], "candidates": []}, "invalid_request", "candidates"),
        ({"image": "not base64!", "questions": ["a"]}, "invalid_base64", "image"),
        ({"image": "", "questions": ["a"]}, "invalid_base64", "image"),
        ({"image": "data:image/png,abc", "questions": ["a"]}, "invalid_base64", "image"),
        ({"image": "https://example.org/cat.jpg", "questions": ["a"]}, "url_not_allowed", "image"),
        ({"image": "file:///etc/passwd", "questions": ["a"]}, "url_not_allowed", "image"),
        ({"image": "aGVsbG8=", "questions": ["a"]}, "unsupported_image", "image"),
    ],
)
async def test_what_is_refused(client: httpx.AsyncClient, body: dict[str, Any], code: str, param: str) -> None:
    """Each mistake has its code and names its field."""
    failed(await client.post("/v1/answer", json=body), code, param)


async def test_bodies_that_are_not_what_they_say(client: httpx.AsyncClient) -> None:
    """Broken JSON, broken multipart, neither."""
    json_type = {"content-type": "application/json"}
    failed(await client.post("/v1/answer", content=b"{", headers=json_type), "malformed_request")
    failed(await client.post("/v1/answer", content=b'{"a":"\xff"}', headers=json_type), "malformed_request")
    failed(await client.post("/v1/answer", content=b"[]", headers=json_type), "invalid_request")
    failed(
        await client.post("/v1/answer", content=b"x", headers={"content-type": "text/plain"}), "unsupported_media_type"
    )
    failed(await client.post("/v1/answer", content=b"x"), "unsupported_media_type")
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        response = await client.post("/v1/answer", content=b"nonsense", headers={"content-type": content_type})
        failed(response, "malformed_request")


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "punycode", "idna", "utf-16"])
async def test_charsets_that_make_no_text(client: httpx.AsyncClient, image_bytes: bytes, charset: str) -> None:
    """Lone surrogates, which no response can hold, or (punycode) a decoder that takes hours for a few megabytes."""
    content = multipart(image_bytes, b"+2AA- \\ud800 what?" + b"a" * 100_000)
    headers = {"content-type": f"multipart/form-data; boundary=B; charset={charset}"}
    failed(await client.post("/v1/answer", content=content, headers=headers), "unsupported_media_type")


@pytest.mark.parametrize(("charset", "sent"), [("UTF-8", "é"), ("iso-8859-1", "é"), ("us-ascii", "e"), ("none", "e")])
async def test_charsets_of_multipart(client: httpx.AsyncClient, image_bytes: bytes, charset: str, sent: str) -> None:
    """Those that clients name; one that nobody knows says nothing."""
    content = multipart(image_bytes, sent.encode("utf-8" if charset == "UTF-8" else "latin-1"))
    headers = {"content-type": f'multipart/form-data; boundary=B; charset="{charset}"'}
    response = await client.post("/v1/answer", content=content, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["results"][0]["question"] == sent


def multipart(image: bytes, question: bytes) -> bytes:
    """A body with the boundary ``B``."""
    head = b'--B\r\nContent-Disposition: form-data; name="'
    parts = [b'image"; filename="a"\r\n\r\n' + image, b'question"\r\n\r\n' + question, b'maps"\r\n\r\nnone']
    return b"".join(head + part + b"\r\n" for part in parts) + b"--B--\r\n"


async def test_multipart_refuses_what_it_does_not_know(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """Fields given twice, unknown fields and unknown files."""
    image = ("image", ("a.png", image_bytes))
    question = ("question", (None, "what?"))
    twice = [image, question, ("top_k", (None, "1")), ("top_k", (None, "2"))]
    failed(await client.post("/v1/answer", files=twice), "invalid_request", "top_k")
    failed(await client.post("/v1/answer", files=[image, question, ("x", (None, "1"))]), "invalid_request", "x")
    failed(await client.post("/v1/answer", files=[("file", ("a.png", image_bytes))]), "invalid_request", "file")
    failed(await client.post("/v1/answer", files=[image]), "invalid_request", "question")


async def test_one_bad_question_fails_the_request_and_is_named(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """All or nothing; the figures of the case are in the detail."""
    response = await client.post("/v1/answer", json=as_json(image_bytes, "fine?", "xyzzy?"))
    body = failed(response, "question_not_understood", "questions[1]")
    assert body.error.detail == {"unknown": 1}


async def test_a_model_that_raises_is_a_500_and_harms_nobody(client: httpx.AsyncClient, image_bytes: bytes) -> None:
    """The guilty request fails; the next is answered."""
    failed(await client.post("/v1/answer", json=as_json(image_bytes, "!raise")), "internal_error")
    assert (await client.post("/v1/answer", json=as_json(image_bytes, "fine?"))).status_code == 200
    poison = encoded(Image.new("RGB", (40, 30), (255, 0, 255)))
    failed(await client.post("/v1/answer", json=as_json(poison, "fine?")), "internal_error")
    failed(await client.post("/v1/answer", json=as_json(poison, "fine?")), "internal_error")


async def test_models(client: httpx.AsyncClient) -> None:
    """The list, one entry of it, and one that is not there."""
    listed = ModelList.model_validate_json((await client.get("/v1/models")).content)
    one = ModelCard.model_validate_json((await client.get("/v1/models/stand-in")).content)
    assert listed.data == [one]
    assert one.limits.questions == 32
    failed(await client.get("/v1/models/gpt"), "model_not_found", "model")


async def test_routes_and_methods_that_do_not_exist(client: httpx.AsyncClient) -> None:
    """404 and 405 have the one shape too; 405 says what is allowed."""
    failed(await client.get("/nope"), "not_found")
    response = await client.get("/v1/answer")
    failed(response, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_request_ids(client: httpx.AsyncClient) -> None:
    """A sound id of the client is kept, an unsound one replaced."""
    response = await client.get("/health/live", headers={"X-Request-ID": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    response = await client.get("/health/live", headers={"X-Request-ID": "a b\x7f" + "x" * 200})
    assert response.headers["x-request-id"].startswith("req_")


async def test_the_openapi_document_describes_both_encodings(client: httpx.AsyncClient) -> None:
    """The document is valid JSON and holds the hand-written body."""
    document = json.loads((await client.get("/openapi.json")).content)
    content = document["paths"]["/v1/answer"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    for encoding, field in (("application/json", "questions"), ("multipart/form-data", "question")):
        name = content[encoding]["schema"]["$ref"].rpartition("/")[2]
        assert field in document["components"]["schemas"][name]["properties"]
    assert (await client.get("/docs")).status_code == 200
