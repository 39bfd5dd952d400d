"""How outputs become JSON: how many digits, which maps, what is null, and large ones beside the event loop."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from app import wire
from crosslook.types import AnswerResponse, FloatMap, MatchResponse, ModelLimits, Reliability, U8Map
from model.interface import (
    Geometry,
    Map,
    MapInfo,
    ModelInfo,
    Output,
    Ranked,
    Region,
    ReliabilityBand,
    TextOutput,
    Token,
    Word,
)
from tests.fakes.model import StandIn

GEOMETRY = Geometry(60, 40, 4, 6, Region(0.0, 0.0, 60.0, 40.0))


def output(texts: int, tokens: int) -> Output:
    """Maps of 24 cells."""
    looked = Map(np.full((4, 6), 1 / 32, dtype=np.float32), 0.25)
    text = TextOutput(
        (Ranked("cat", 0.5),),
        "vocabulary",
        0.5,
        tuple(Token("[]}", (0, 3), False, looked) for _ in range(tokens)),
        (Word("[]}", (0, 3), (0,)),),
        looked,
    )
    return Output((text,) * texts, MapInfo("raw", (0,)))


def info() -> ModelInfo:
    """Any model's."""
    return StandIn().info


@pytest.mark.parametrize("texts", [1, 3])
def test_pieces_make_the_same_json(texts: int) -> None:
    """Of every response that has results, and of one without any."""
    questions = ['"results":[]}'] * texts
    answers = wire.answer_response(info(), "img", GEOMETRY, questions, output(texts, 2), "float")
    matches = wire.match_response(info(), "img", GEOMETRY, questions, output(texts, 2), "u8")
    for response in (answers, matches, answers.model_copy(update={"results": []})):
        assert wire.to_json(response) == response.model_dump_json()
    assert AnswerResponse.model_validate_json(wire.to_json(answers)) == answers
    assert MatchResponse.model_validate_json(wire.to_json(matches)) == matches


@pytest.mark.parametrize(("tokens", "beside"), [(10, False), (1000, True)])
async def test_large_outputs_are_formatted_beside_the_loop(tokens: int, beside: bool) -> None:
    """By their size alone; small ones would only be slower."""
    made_in = await wire.formatted(output(1, tokens), threading.get_ident)
    assert (made_in != threading.get_ident()) is beside


def digits_of(value: float) -> int:
    """How many significant digits the shortest text of a number has."""
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


@pytest.mark.parametrize("digits", [1, 4, 6])
def test_significant_digits(digits: int) -> None:
    """Those of Python's own rounding, for every sign and size below ``10**digits``, and no more of them in the JSON."""
    random = np.random.default_rng(0)
    given = random.uniform(-1.0, 1.0, (20, 50)) * 10.0 ** random.integers(-10, digits + 1, (20, 50))
    found = wire.significant(given, digits)
    assert found.shape == given.shape
    assert found.ravel().tolist() == [float(f"{value:.{digits}g}") for value in given.ravel().tolist()]
    assert max(map(digits_of, found.ravel().tolist())) == digits
    assert wire.significant(np.array([0.0, 1.0, 1e-30], np.float32), digits).tolist() == [0.0, 1.0, 0.0]


def test_one_number() -> None:
    assert [wire.number(value) for value in (0.123456, 123456.0, 1e-30, 0.0)] == [0.1235, 123500.0, 1e-30, 0.0]
    assert wire.number(2 / 3, 6) == 0.666667


def test_maps_keep_their_places() -> None:
    """Those that are None too, and each its own numbers."""
    one = Map(np.array([[0.12345678, 0.5]], np.float32), 0.3765432)
    other = Map(np.array([[0.0, 0.25]], np.float32), 0.75)
    found = wire.encode_maps([None, one, None, other], "float")
    assert found == [
        None,
        FloatMap(values=[[0.1235, 0.5]], elsewhere=0.3765),
        None,
        FloatMap(values=[[0.0, 0.25]], elsewhere=0.75),
    ]
    assert wire.encode_maps([None, None], "u8") == [None, None]
    assert wire.encode_maps([], "float") == []


def test_maps_in_eight_bits() -> None:
    """Each has 255 for its highest cell and is off by half a step at most; a map of nothing is one of zeros."""
    values = np.random.default_rng(0).uniform(0.0, 0.02, (3, 4, 6)).astype(np.float32)
    values[1] *= 40
    values[2] = 0.0
    for source, found in zip(values, wire.encode_maps([Map(v, 0.123456) for v in values], "u8"), strict=True):
        assert isinstance(found, U8Map)
        levels = np.frombuffer(base64.b64decode(found.data), np.uint8).reshape(4, 6)
        assert found.elsewhere == 0.1235
        assert levels.max() == (255 if source.any() else 0)
        assert found.scale == pytest.approx(source.max() / 255, rel=1e-5)
        np.testing.assert_allclose(levels * found.scale, source, atol=found.scale * 0.51)


def test_a_map_of_the_whole_text_is_apart_from_its_tokens() -> None:
    """With or without maps of the tokens."""
    one, whole = Map(np.full((1, 1), 0.5, np.float32), 0.5), Map(np.full((1, 1), 0.25, np.float32), 0.75)
    source = [Token("a", (0, 1), False, one), Token("[SEP]", None, True)]
    made, last = wire.tokens(source, "float", whole)
    assert [(t.text, t.span, t.special, t.map is None) for t in made] == [
        ("a", (0, 1), False, False),
        ("[SEP]", None, True, True),
    ]
    assert last == FloatMap(values=[[0.25]], elsewhere=0.75)
    assert wire.tokens(source, "float")[1] is None
    assert wire.tokens([], "float", whole) == ([], last)


def test_what_the_model_does_not_say_is_null() -> None:
    """Not a number that stands for it."""
    text = TextOutput((Ranked("cat", 2 / 3),), "sequence", None)
    plain = Output((text,))
    answer = wire.answer_response(info(), "img", GEOMETRY, ["a?"], plain, "none")
    assert (answer.attention, answer.results[0].rest, answer.results[0].answer_map) == (None, None, None)
    match = wire.match_response(info(), "img", GEOMETRY, ["cat"], plain, "none")
    assert (match.attention, match.results[0].fit, match.results[0].score) == (None, None, 0.666667)
    fits = wire.match_response(info(), "img", GEOMETRY, ["cat"], Output((replace(text, fit=1 / 3),)), "none")
    assert fits.results[0].fit == 0.333333
    limits = ModelLimits(**dict.fromkeys(ModelLimits.model_fields, 1))
    assert wire.model_card(info(), limits, 0).default_layers is None
    assert wire.model_card(replace(info(), default_layers=(1,)), limits, 0).default_layers == [1]


def test_reliability_goes_by_kind_and_score_and_not_with_candidates() -> None:
    bands = (ReliabilityBand("count", 0.0, 0.4, 20, 0.1), ReliabilityBand("count", 0.4, 1.0, 30, 0.6))
    measured = replace(info(), reliability=bands)
    made = output(3, 1)
    of_candidates = replace(made.texts[2], score_over="candidates")
    made = replace(made, texts=(*made.texts[:2], of_candidates))
    questions = ["How many cats?", "What is it?", "How many dogs?"]
    response = wire.answer_response(measured, "img", GEOMETRY, questions, made, "none")
    assert [result.reliability for result in response.results] == [
        Reliability(kind="count", right=0.6, count=30),
        None,
        None,
    ]
    assert response.model_dump_json().count('"reliability"') == 1
    plain = wire.answer_response(info(), "img", GEOMETRY, questions, made, "none")
    assert "reliability" not in plain.model_dump_json()
    limits = ModelLimits(
        questions=1, question_characters=1, question_tokens=1, image_bytes=1, image_pixels=1, image_side=1
    )
    card = wire.model_card(measured, limits, 0)
    assert card.reliability is not None
    assert [(band.kind, band.low, band.high) for band in card.reliability] == [("count", 0.0, 0.4), ("count", 0.4, 1.0)]
    assert wire.model_card(info(), limits, 0).reliability is None


def test_reliability_of_a_form_that_was_measured_by_itself() -> None:
    of_kind, of_form = ReliabilityBand("yes/no", 0.0, 1.0, 50, 0.6), ReliabilityBand("yes/no", 0.0, 1.0, 80, 0.9, "en")
    bands = (of_kind, replace(of_form, form="is there"))
    questions = ["Is it a dog?", "Is there a dog?"]
    made = output(2, 1)
    response = wire.answer_response(replace(info(), reliability=bands), "img", GEOMETRY, questions, made, "none")
    assert [result.reliability for result in response.results] == [
        Reliability(kind="yes/no", right=0.6, count=50),
        Reliability(kind="yes/no", right=0.9, count=80, form="is there"),
    ]
    assert response.model_dump_json().count('"form":') == 1
    limits = ModelLimits(**dict.fromkeys(ModelLimits.model_fields, 1))
    card = wire.model_card(replace(info(), reliability=bands), limits, 0)
    assert [band.form for band in card.reliability or ()] == [None, "is there"]
    assert card.model_dump_json().count('"form":') == 1


def test_reliability_of_a_question_in_chinese_is_that_of_such_questions() -> None:
    bands = (ReliabilityBand("count", 0.0, 1.0, 50, 0.6), ReliabilityBand("count", 0.0, 1.0, 20, 0.4, "zh"))
    made = output(2, 1)
    questions = ["How many cats?", "有几只猫？"]
    response = wire.answer_response(replace(info(), reliability=bands), "img", GEOMETRY, questions, made, "none")
    assert [result.reliability for result in response.results] == [
        Reliability(kind="count", right=0.6, count=50),
        Reliability(kind="count", right=0.4, count=20),
    ]
    response = wire.answer_response(replace(info(), reliability=bands[:1]), "img", GEOMETRY, questions, made, "none")
    assert response.results[1].reliability is None
    limits = ModelLimits(**dict.fromkeys(ModelLimits.model_fields, 1))
    card = wire.model_card(replace(info(), reliability=bands), limits, 0)
    assert [band.language for band in card.reliability or ()] == [None, "zh"]
    assert card.model_dump_json().count('"language":') == 1


def test_an_answer_in_chinese_has_its_english_beside_it() -> None:
    text = replace(output(1, 0).texts[0], ranking=(Ranked("猫", 0.5, english="cat"),), language="zh")
    result = wire.answer_result(replace(info(), answer_languages=("en", "zh")), "这是什么？", text, "float")
    assert (result.answer, result.language, result.ranking[0].english) == ("猫", "zh", "cat")
    plain = wire.answer_result(info(), "what?", output(1, 0).texts[0], "float").model_dump_json()
    assert "english" not in plain
    assert "language" not in plain
