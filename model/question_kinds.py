"""Kinds of questions, told by their wording alone: what a score is worth differs from one to the next."""

from __future__ import annotations

import re
from typing import Literal

QuestionKind = Literal["yes/no", "count", "colour", "reading", "other"]
QUESTION_KINDS: tuple[QuestionKind, ...] = ("yes/no", "count", "colour", "reading", "other")

_COUNT = re.compile(r"\bhow many\b|\bnumber of\b")
_COLOUR = re.compile(r"\b(?:what|which) colou?rs?\b|\bcolou?r (?:is|are)\b|\bwhat is the colou?r\b")
_READING = re.compile(
    r"\bsays?\b|\bwritten\b|\bspell|\b(?:what|which) (?:word|words|letter|letters|text)\b|\bwhat number\b|\bwhat time\b"
    r"|\bwhat (?:brand|street|company|airline|team)\b|\bname (?:of|on)\b|\blicen[cs]e plate\b|\blogo\b|\bread(?:s)?\b"
)
_YES_NO = re.compile(
    r"(?:is|are|was|were|does|do|did|can|could|has|have|had|will|would|should|am|isn't|aren't|doesn't|don't)\b"
)


def question_kind(text: str) -> QuestionKind:
    """The kind of an English question. "Is it red or blue?" asks for one of two, so it is not a yes/no question."""
    text = text.strip().lower()
    if _YES_NO.match(text) and " or " not in text:
        return "yes/no"
    if _COUNT.search(text):
        return "count"
    if _COLOUR.search(text):
        return "colour"
    return "reading" if _READING.search(text) else "other"
