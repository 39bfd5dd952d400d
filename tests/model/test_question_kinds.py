"""A question's kind is told by its wording, in English and in Chinese alike."""

from __future__ import annotations

import json

from model.evaluation.in_chinese import QUESTIONS
from model.question_kinds import question_kind


def test_kinds_of_questions() -> None:
    kinds = {
        "Is there a dog?": "yes/no", "Is it red or blue?": "other", "how many dogs are there": "count",
        "Count the sheep.": "count",
        "What color is the bus?": "colour", "What does the sign say?": "reading", "What is this?": "other",
        "有狗吗？": "yes/no", "有没有狗？": "yes/no", "是红色还是蓝色？": "other", "有几只狗？": "count",
        "桌上有多少杯子？": "count", "公共汽车是什么颜色？": "colour", "牌子上写着什么？": "reading",
        "现在几点了？": "reading", "这是什么？": "other",
    }  # fmt: skip
    assert {text: question_kind(text) for text in kinds} == kinds


def test_a_translated_question_keeps_its_kind() -> None:
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    same = [question_kind(row["question"]) == question_kind(row["chinese"]) for row in rows]
    assert len(rows) == 300
    assert sum(same) >= 295
