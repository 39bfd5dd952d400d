"""How outputs become JSON: the same text however it is made, and large ones beside the event loop."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from app import wire
from crosslook.types import AnswerResponse, MatchResponse
from model.interface import Geometry, Map, MapInfo, ModelInfo, Output, Ranked, Region, TextOutput, Token, Word
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
