"""Which questions ask for text."""

from __future__ import annotations

import pytest

from model.compact.reading.questions import asks_for


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What does the sign say?", "words"),
        ("What do the street signs say", "words"),
        ("What is written on the side of the plane?", "words"),
        ("What's written on the wall?", "words"),
        ("What word is on the boat?", "words"),
        ("What is the name of the restaurant?", "words"),
        ("What street is the dog on?", "words"),
        ("What number is on the jersey?", "number"),
        ("What is the number on the back of the train?", "number"),
        ("What # is on the batter's jersey?", "number"),
        ("What is the speed limit?", "number"),
        ("What letter is on his hat?", "letter"),
    ],
)
def test_only_text_answers_them(question: str, kind: str) -> None:
    assert asks_for(question) == (kind, True)


@pytest.mark.parametrize(
    "question", ["What brand is the phone?", "Which airline is this?", "What time is it?", "What is on the sign?"]
)
def test_text_may_answer_them(question: str) -> None:
    asked = asks_for(question)
    assert asked is not None
    assert not asked.only_text


@pytest.mark.parametrize(
    "question",
    [
        "What color is the sign?",
        "What is the sign made of?",
        "What language is the sign written in?",
        "What does the letter p mean on the sign?",
        "What number of people are there?",
        "How many numbers are on the clock?",
        "What time of day is it?",
        "Is there a stop sign?",
        "Does the sign say stop?",
        "What animal is this?",
        "What is the name of this fruit?",
        "What kind of sign is this?",
        "",
    ],
)
def test_others_ask_for_no_text(question: str) -> None:
    assert asks_for(question) is None
