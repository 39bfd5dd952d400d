"""Telling languages apart, and signs of full width."""

from __future__ import annotations

import pytest

from model.compact.model import EMBEDDED
from model.languages import foreign_script, has_han, is_foreign_latin, language_of, plain_width

WORDS = frozenset((EMBEDDED / "vocabulary.txt").read_text("utf-8").split("\n"))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("What is this？", "What is this?"),
        ("有３只猫！", "有3只猫!"),
        ("Ａ　Ｂ。", "A B."),
        ("naïve – café", "naïve – café"),
    ],
)
def test_full_width_is_what_it_looks_like(text: str, plain: str) -> None:
    assert plain_width(text) == plain
    assert len(plain) == len(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What animal is this?", "en"),
        ("这是什么动物？", "zh"),
        ("这是 iPhone 吗？", "zh"),
        ("What does 出口 mean here?", "en"),
        ("3？", "en"),
    ],
)
def test_the_language_of_a_text(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What animal is this?", None),
        ("这是什么动物？", None),
        ("¿Qué es?", None),  # Latin: told by its words
        ("これは何ですか", "Japanese"),
        ("이것은 무엇입니까?", "Korean"),
        ("Какого цвета кошка?", "another script"),
        ("ما هذا؟", "another script"),
        ("What does 'Привет' mean on this sign?", None),
        ("12:30?", None),
    ],
)
def test_foreign_scripts(text: str, found: str | None) -> None:
    assert foreign_script(text) == found
    assert has_han("何")
    assert not has_han("これは")


@pytest.mark.parametrize(
    "text",
    [
        "¿De qué color es el gato?",
        "¿Qué hay en la mesa?",
        "¿Cuántas personas hay?",
        "De quelle couleur est le chat ?",
        "Y a-t-il un chien ?",
        "Welche Farbe hat die Katze?",
        "Ist das ein Hund?",
        "Di che colore è il gatto?",
        "Qual é a cor do gato?",
        "Hoeveel mensen zijn er?",
        "Đây là con gì?",
        "asdf ghjk qwer",
        "sdkfjh sdkjfh",
    ],
)
def test_other_languages_in_latin_letters_and_mashed_keys(text: str) -> None:
    assert is_foreign_latin(text, WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "What animal is this?",
        "Is the labradoodle asleep?",
        "Is Frauenkirche a church?",
        "zugspitze",
        "how many",
        "Overcast or sunny?",
        "a DC-3",
        "?",
    ],
)
def test_english_is_not_foreign(text: str) -> None:
    assert not is_foreign_latin(text, WORDS)


def test_a_small_vocabulary_tells_nothing() -> None:
    assert not is_foreign_latin("asdf ghjk", frozenset({"what", "is"}))
