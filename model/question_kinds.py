"""Kinds of questions, told by their wording alone: what a score is worth differs from one to the next."""

from __future__ import annotations

import re

from model.interface import QuestionKind

QUESTION_KINDS: tuple[QuestionKind, ...] = ("yes/no", "count", "colour", "reading", "other")

PATTERNS: tuple[tuple[QuestionKind, str], ...] = (
    # "Is it red or blue?" asks for one of two.
    (
        "yes/no",
        r"^(?!.* or )(?:is|are|was|were|does|do|did|can|could|has|have|had|will|would|should|am|isn't|aren't|doesn't|"
        r"don't)\b",
    ),
    ("count", r"\bhow many\b|\bnumber of\b"),
    ("colour", r"\b(?:what|which) colou?rs?\b|\bcolou?r (?:is|are)\b|\bwhat is the colou?r\b"),
    (
        "reading",
        r"\bsays?\b|\bwritten\b|\bspell|\b(?:what|which) (?:word|words|letter|letters|text)\b|\bwhat number\b|"
        r"\bwhat time\b|\bwhat (?:brand|street|company|airline|team)\b|\bname (?:of|on)\b|"
        r"\blicen[cs]e plate\b|\blogo\b|\bread(?:s)?\b",
    ),
)
"""The first that is found in a question, in lower case and with single blanks, tells its kind. The page has them from
here, so they are written in what Python and JavaScript have in common."""

_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in PATTERNS)


def question_kind(text: str) -> QuestionKind:
    """The kind of a question: ``other`` where no pattern is found in it."""
    text = " ".join(text.lower().split())
    return next((kind for kind, pattern in _COMPILED if pattern.search(text)), "other")
