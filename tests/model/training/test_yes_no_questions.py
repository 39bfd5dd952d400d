"""Yes/no questions made from others say yes of the right answer and no of a wrong one, and of nothing else."""

import random

import pytest

from model.evaluation.judging import Kind
from model.training.yes_no_questions import YesNoRewriter

PAIRS: list[tuple[str, str, Kind]] = [
    ("What color is the bus?", "red", "other"),
    ("What color are the cars?", "blue", "other"),
    ("What animal is this?", "elephant", "other"),
    ("What animal is this?", "cat", "other"),
    ("How many dogs are there?", "2", "number"),
    ("How many cats are there?", "3", "number"),
    ("What is on the table?", "pizza", "other"),
    ("What is on the plate?", "cakes", "other"),
    ("What is the man doing?", "surfing", "other"),
    ("What is the woman doing?", "eating", "other"),
]


@pytest.fixture(scope="module")
def turner() -> YesNoRewriter:
    return YesNoRewriter(PAIRS)


def turned(turner: YesNoRewriter, question: str, answer: str, kind: Kind = "other") -> set[tuple[str, str]]:
    found = (turner.turn(question, answer, kind, random.Random(seed)) for seed in range(60))
    return {(one.text, next(iter(one.targets))) for one in found if one is not None}


@pytest.mark.parametrize(
    ("question", "answer", "kind", "expected"),
    [
        ("What color is the bus?", "red", "other", {("Is the bus red?", "yes"), ("Is the bus blue?", "no")}),
        ("What color are the cars?", "blue", "other", {("Are the cars blue?", "yes"), ("Are the cars red?", "no")}),
        ("How many dogs are there?", "2", "number", {("Are there 2 dogs?", "yes"), ("Are there 3 dogs?", "no")}),
        ("what animal is this", "cat", "other", {("Is this a cat?", "yes"), ("Is this an elephant?", "no")}),
        ("What is on the table?", "pizza", "other", {("Is there a pizza on the table?", "yes")}),
        ("What is the man doing?", "surfing", "other", {("Is the man surfing?", "yes"), ("Is the man eating?", "no")}),
    ],
)
def test_turned(turner: YesNoRewriter, question: str, answer: str, kind: Kind, expected: set[tuple[str, str]]) -> None:
    assert turned(turner, question, answer, kind) >= expected


def test_a_no_never_holds_the_right_answer(turner: YesNoRewriter) -> None:
    for question, answer, kind in PAIRS:
        for text, truth in turned(turner, question, answer, kind):
            assert (answer in text) == (truth == "yes"), text


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("Is this a cat?", "yes", "yes/no"),
        ("Why is he sad?", "rain", "other"),
        ("What is on the table?", "nothing", "other"),
        ("How many dogs are there?", "lots", "number"),
    ],
)
def test_what_has_no_form_is_left_alone(turner: YesNoRewriter, question: str, answer: str, kind: Kind) -> None:
    assert turner.turn(question, answer, kind, random.Random(0)) is None


def test_an_answer_that_may_also_be_right_makes_no_no() -> None:
    ask = "What animal is this?"
    turner = YesNoRewriter([(ask, "brown dog", "other"), (ask, "dogs", "other")])
    assert {truth for _, truth in turned(turner, ask, "dog")} == {"yes"}
