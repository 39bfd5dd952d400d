"""The answers in other languages than the English that the network knows: a table, made by hand, beside the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from model.compact.reading.answer import CANNOT_READ, NO_TEXT
from model.interface import Item, ItemError, Output, Ranked, TextOutput
from model.languages import has_han, language_of

TABLE = "answers.zh.tsv"
READING_ANSWERS = {NO_TEXT: "没有找到文字", CANNOT_READ: "无法读取文字"}
_THERE = {"yes": "有", "no": "没有"}
_IS_THERE = re.compile(r"有没有|^[^是]*(?<![所没只])有(?![机关名]).*吗")  # 所有, 没有, 只有, 有机 .. are other words
_WIDE = 50  # of so many answers the wordings are told apart: several English ones may be one Chinese one


def asks_whether_there(text: str) -> bool:
    """Whether a Chinese question asks if something is there: the answer is 有 or 没有 then, not 是 or 不是."""
    return _IS_THERE.search(text) is not None


class AnswerWords:
    """Answers between languages. ``folder`` holds `TABLE`: an English answer and its Chinese a line, divided by a tab.
    Without it there is English alone."""

    def __init__(self, folder: Path | None, answers: Sequence[str]) -> None:
        file = None if folder is None else folder / TABLE
        self._chinese: dict[str, str] = {}
        if file is not None and file.is_file():
            rows = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
            self._chinese = {row[0]: row[1] for row in rows} | READING_ANSWERS
        self._english: dict[str, str] = {}
        for answer in answers:  # the commonest first: it is what a Chinese wording of several stands for
            if answer in self._chinese:
                self._english.setdefault(self._chinese[answer].casefold(), answer)
        for answer in _THERE.keys() & self._chinese.keys():
            self._english.setdefault(_THERE[answer], answer)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it can answer in."""
        return ("en", "zh") if self._chinese else ("en",)

    def in_english(self, text: str) -> str:
        """An answer in English where it is known in another language; else as it is."""
        return self._english.get(" ".join(text.split()).casefold(), text) if has_han(text) else text

    def language(self, item: Item, text: str) -> str:
        """In which language the answer to one of an item's texts is to be."""
        language = item.language or language_of(text)
        return language if language in self.languages else "en"

    def translates(self, item: Item) -> bool:
        """Whether any answer of the item is to be in another language than English."""
        return any(self.language(item, text) != "en" for text in item.texts)

    def top_k(self, item: Item) -> int:
        """How many answers to rank in English, so that the item's own number is left when they are translated."""
        return max(_WIDE, item.top_k) if self.translates(item) else item.top_k

    def answer(self, output: Output | ItemError, item: Item) -> Output | ItemError:
        """The output with every text's answers in the language they are to be in, and no more than the item asks."""
        if isinstance(output, ItemError):
            return output
        texts = [
            self._translate(found, item, self._chinese | _THERE if asks_whether_there(text) else self._chinese)
            if self.language(item, text) == "zh"
            else _cut(found, found.ranking, item.top_k)
            for text, found in zip(item.texts, output.texts, strict=True)
        ]
        return replace(output, texts=tuple(texts))

    def _translate(self, found: TextOutput, item: Item, words: Mapping[str, str]) -> TextOutput:
        ranking: dict[str, Ranked] = {}
        for ranked in found.ranking:
            if item.candidates is not None:  # they are said as they were given
                known = self.in_english(ranked.answer)
                ranking[ranked.answer] = replace(ranked, english=None if known == ranked.answer else known)
                continue
            answer = words.get(ranked.answer, ranked.answer)
            english = ranked.answer if ranked.answer in words else None
            first = ranking.setdefault(answer, replace(ranked, answer=answer, english=english, score=0.0))
            ranking[answer] = replace(first, score=first.score + ranked.score)
        ordered = sorted(ranking.values(), key=lambda ranked: -ranked.score)
        return replace(_cut(found, ordered, item.top_k), language="zh")


def _cut(found: TextOutput, ranking: Sequence[Ranked], top_k: int) -> TextOutput:
    """The output with the first of a ranking, and what that leaves."""
    kept = tuple(ranking[:top_k])
    rest = None if found.rest is None else max(0.0, found.rest + sum(ranked.score for ranked in ranking[top_k:]))
    return replace(found, ranking=kept, rest=rest)
