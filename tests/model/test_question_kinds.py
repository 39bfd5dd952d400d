"""A question's kind is told by its wording, in English and in Chinese alike."""

from __future__ import annotations

import json

from model.evaluation.in_chinese import QUESTIONS
from model.evaluation.objects import article, plural
from model.evaluation.reliability import OBJECTS, WORDINGS
from model.question_kinds import question_form, question_kind


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


def test_can_you_tell_me_asks_for_what_is_to_be_told() -> None:
    kinds = {
        "Can you tell me what colour the bus is?": "colour", "Could you please say how many dogs there are?": "count",
        "Do you know what this is?": "other", "Would you tell me who is in the photo?": "other",
        "Can you read what the sign says?": "reading", "Can you tell from the picture where this is?": "other",
        "Can you see a dog?": "yes/no", "Do you see the man who runs?": "yes/no", "Can you tell if it rains?": "yes/no",
        "Could the man see what falls?": "yes/no",
        "能告诉我有几个人吗？": "count", "能不能告诉我公共汽车是什么颜色？": "colour",
        "你知道这是什么吗？": "other", "能说出桌上有多少杯子吗？": "count", "你知道这是谁吗？": "other",
        "你知道这是哪里吗？": "other", "可以告诉我牌子上写着什么吗？": "reading",
        "你能看到狗吗？": "yes/no", "盘子几乎是空的吗？": "yes/no", "能不能看到狗？": "yes/no",
    }  # fmt: skip
    assert {text: question_kind(text) for text in kinds} == kinds


def test_whether_a_thing_is_there_is_a_form_of_its_own() -> None:
    asked = (
        "Is there a dog?", "are there any people in the picture", "Do you  see a hot dog?", "Can you see skis here?",
        "有狗吗？", "有没有狗？", "图里有人吗", "这张照片里有没有笔记本电脑？", "你能看到一只猫吗？", "能不能看到船?",
    )  # fmt: skip
    others = (
        "Is there a red dog?", "Is there a dog on the sofa?", "Is there a church?", "Is there a dog or a cat?",
        "Is this a dog?", "Are there two dogs?", "Is there more than one dog?", "Is there a dog house?",
        "What is there?", "How many dogs are there?", "Why is there a dog?", "Is there no dog?",
        "有红色的狗吗？", "桌上有狗吗？", "有教堂吗？", "这是狗吗？", "有几只狗？", "有狗还是有猫？", "有狗",
        "没有狗吗？", "Can you see the dog's tail?", "A dog?", "",
    )  # fmt: skip
    assert [text for text in asked if question_form(text) != "is there"] == []
    assert [text for text in others if question_form(text) is not None] == []


def test_all_things_that_are_asked_of_photographs_with_boxes_have_that_form() -> None:
    things = dict(line.split("\t") for line in OBJECTS.read_text(encoding="utf-8").splitlines())
    assert len(things) == 80
    asked = [
        wording.format(a=article(name), plural=plural(name), chinese=chinese)
        for name, chinese in things.items()
        for wording in (*WORDINGS["en"], *WORDINGS["zh"])
    ]
    assert [text for text in asked if question_form(text) != "is there"] == []


def test_a_translated_question_keeps_its_kind() -> None:
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    same = [question_kind(row["question"]) == question_kind(row["chinese"]) for row in rows]
    assert len(rows) == 300
    assert sum(same) >= 295
