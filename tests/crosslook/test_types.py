"""The wire format is frozen: what these files hold is what servers send and clients read."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from crosslook import types
from crosslook.errors import CODES
from crosslook.results import read_answers
from crosslook.types import FloatMap
from tests.crosslook.conftest import golden

BODIES = [
    ("answer_one", types.AnswerResponse),
    ("answer_several", types.AnswerResponse),
    ("answer_u8", types.AnswerResponse),
    ("answer_none", types.AnswerResponse),
    ("answer_candidates", types.AnswerResponse),
    ("answer_chinese", types.AnswerResponse),
    ("match", types.MatchResponse),
    ("caption", types.CaptionResponse),
    ("upload", types.ImageUploadResponse),
    ("models", types.ModelList),
]


@pytest.mark.parametrize(("name", "wire"), BODIES)
def test_a_golden_body_goes_through_its_type_unchanged(name: str, wire: type[types.WireModel]) -> None:
    body = golden(name)
    through = wire.model_validate(body).model_dump_json()
    assert json.dumps(json.loads(through)) == json.dumps(body)  # dumps, so that the order of the keys counts too


@pytest.mark.parametrize(("name", "wire"), BODIES)
def test_every_key_is_needed(name: str, wire: type[types.WireModel]) -> None:
    body = golden(name)
    for key in [key for key in body if key != "object"]:  # constant, so it may have a default
        with pytest.raises(ValidationError, match=key):
            wire.model_validate({other: value for other, value in body.items() if other != key})


@pytest.mark.parametrize("code", CODES)
def test_every_error_has_its_golden_body(code: str) -> None:
    expected = golden("errors")[code]
    parsed = types.ErrorBody.model_validate(expected["body"])
    assert json.loads(parsed.model_dump_json()) == expected["body"]
    assert (CODES[code].status, CODES[code].type) == (expected["status"], parsed.error.type)


def test_no_golden_error_is_forgotten() -> None:
    assert set(golden("errors")) == set(CODES)


def test_default_layers_are_listed_only_where_they_are_not_all() -> None:
    card = golden("models")["data"][0]
    assert "default_layers" not in json.loads(types.ModelCard.model_validate(card).model_dump_json())
    some = card | {"default_layers": [3]}
    assert json.loads(types.ModelCard.model_validate(some).model_dump_json()) == some


def test_reliability_is_there_only_where_it_was_measured() -> None:
    band = {"kind": "yes/no", "right": 0.8, "count": 40, "low": 0.7, "high": 1.0}
    card = golden("models")["data"][0] | {"reliability": [band]}
    assert json.loads(types.ModelCard.model_validate(card).model_dump_json()) == card
    body = golden("answer_one")
    body["results"][0]["reliability"] = {"kind": "yes/no", "right": 0.8, "count": 40}
    response = types.AnswerResponse.model_validate(body)
    assert json.loads(response.model_dump_json()) == body
    (answer,) = read_answers(response, None)
    assert (answer.reliability.right, answer.reliability.count) == (0.8, 40)
    assert read_answers(types.AnswerResponse.model_validate(golden("answer_one")), None)[0].reliability is None


def test_the_languages_of_a_model_are_listed_where_the_server_knows_them() -> None:
    card = golden("models")["data"][0] | {"languages": ["en", "zh"], "answer_languages": ["en"]}
    assert json.loads(types.ModelCard.model_validate(card).model_dump_json()) == card


def test_an_encoding_decides_the_type_of_every_map() -> None:
    answer = types.AnswerResponse.model_validate(golden("answer_one")).results[0]
    assert isinstance(answer.answer_map, FloatMap)
    answer = types.AnswerResponse.model_validate(golden("answer_u8")).results[0]
    assert isinstance(answer.answer_map, types.U8Map)
    assert all(isinstance(token.map, types.U8Map) for token in answer.question_tokens)


def test_a_response_of_a_newer_server_is_read_by_an_older_client() -> None:
    body = golden("answer_one") | {"new": 1}
    body["results"][0]["newer"] = {"x": 1}
    assert types.AnswerResponse.model_validate(body) == types.AnswerResponse.model_validate(golden("answer_one"))


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (types.AnswerRequest, {"image": "aGk=", "questions": ["a?"]}),
        (types.MatchRequest, {"image": "aGk=", "texts": ["a"]}),
        (types.CaptionRequest, {"image_id": "img_1"}),
        (types.ImageUploadRequest, {"image": "aGk="}),
    ],
)
def test_an_unknown_field_of_a_request_is_refused(wire: type[types.WireModel], body: dict[str, object]) -> None:
    wire.model_validate(body)
    with pytest.raises(ValidationError, match="topk"):
        wire.model_validate(body | {"topk": 3})


@pytest.mark.parametrize(
    "wrong",
    [{"top_k": 0}, {"candidates": []}, {"candidates": [""]}, {"maps": "png"}, {"questions": []}, {"layers": []}],
)
def test_a_field_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        types.AnswerRequest.model_validate({"image": "aGk=", "questions": ["a?"]} | wrong)
