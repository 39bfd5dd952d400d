"""Kinds of questions, told by their wording alone: what a score is worth differs from one to the next."""

from __future__ import annotations

import re

from model.interface import QuestionKind

QUESTION_KINDS: tuple[QuestionKind, ...] = ("yes/no", "count", "colour", "reading", "other")

PATTERNS: tuple[tuple[QuestionKind, str], ...] = (
    # "Is it red or blue?" asks for one of two, "Can you tell me what it is?" for what it is. A question word behind a
    # thing tells of it: "Do you see the man who runs?"
    (
        "yes/no",
        r"^(?!.* or )(?!(?:can|could|do|would) you (?:(?:from|in|on) the \S+ |"
        r"(?!(?:an?|the|any|some|if|whether) )\S+ )*(?:what|which|who|where|how|when|why)\b)"
        r"(?:is|are|was|were|does|do|did|can|could|has|have|had|will|would|should|am|isn't|aren't|doesn't|don't)\b",
    ),
    ("count", r"\bhow many\b|\bnumber of\b|^count\b"),
    ("colour", r"\b(?:what|which) colou?rs?\b|\bcolou?r (?:is|are)\b|\bwhat is the colou?r\b"),
    (
        "reading",
        r"\bsays?\b|\bwritten\b|\bspell|\b(?:what|which) (?:word|words|letter|letters|text)\b|\bwhat number\b|"
        r"\bwhat time\b|\bwhat (?:brand|street|company|airline|team)\b|\bname (?:of|on)\b|"
        r"\blicen[cs]e plate\b|\blogo\b|\bread(?:s)?\b",
    ),
    # The same in Chinese; 还是 is "or". With a question word, 吗 and 能不能 are "can you tell me"; 几乎 is "almost".
    ("yes/no", "^(?!.*还是)(?:.*(?:有没有|是不是|是否|会不会)|(?!.*(?:什么|几(?!乎)|多少|谁|哪)).*(?:吗|能不能))"),
    ("count", "几(?!点|岁|号|路)|多少(?!钱|岁|号|路)|数量"),
    ("colour", "(?:什么|哪种|何种|哪些)颜色|颜色(?:是什么|有哪些)"),
    (
        "reading",
        "写(?:着|了|的)|什么字|哪些字|什么单词|几点|几号|什么数字|数字是什么|什么(?:牌子|品牌|街|路)|车牌|"
        "(?:叫|是)什么名字|号码|(?:标志|牌子)上是|什么时间|哪[家个]公司|标识",
    ),
)
"""The first that is found in a question, in lower case and with single blanks, tells its kind. The page has them from
here, so they are written in what Python and JavaScript have in common."""

_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in PATTERNS)


def question_kind(text: str) -> QuestionKind:
    """The kind of a question: ``other`` where no pattern is found in it."""
    text = " ".join(text.lower().split())
    return next((kind for kind, pattern in _COMPILED if pattern.search(text)), "other")
