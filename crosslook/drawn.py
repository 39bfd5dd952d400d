"""What of maps and answers is drawn and shown, as protocols: maps and answers call what draws them, so that imports
neither. Needs nothing but the wire types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from crosslook.types import Attention, ImageRef, RankedAnswer, Reliability, ScoreOver

NOTHING_READ = frozenset(("no text found", "unreadable", "没有找到文字", "无法读取文字"))
"""What the default model answers where no text was found or could be read. Its score is none to speak of: it says how
often people's answers to such questions are that."""


class DrawnMap(Protocol):
    """What of a `crosslook.maps.AttentionMap` is drawn."""

    @property
    def text(self) -> str:
        """The word, or the answer, whose map it is."""

    @property
    def values(self) -> Sequence[Sequence[float]]:
        """``[rows][columns]``, row 0 at the top."""

    @property
    def attention(self) -> Attention:
        """Where the grid lies on the image, in pixels, and how the map was made."""

    @property
    def image(self) -> ImageRef:
        """The image as the server saw it, with its size in pixels."""

    def format_value(self, value: float) -> str:
        """A value of this map as text."""

    @property
    def off_image(self) -> float:
        """The share of the map that lies on no place of the image, 0 to 1."""

    @property
    def mostly_off_image(self) -> bool:
        """Whether most of what it shows is not in the image."""


class DrawnAnswer(Protocol):
    """What of a `crosslook.results.Answer` is drawn."""

    @property
    def question(self) -> str:
        """The question as it was asked."""

    @property
    def answer(self) -> str:
        """The best answer."""

    @property
    def score(self) -> float:
        """The answer's probability, 0 to 1."""

    @property
    def score_over(self) -> ScoreOver:
        """What the score is a share of."""

    @property
    def map(self) -> DrawnMap | None:
        """The answer's own map; None without maps."""

    @property
    def words(self) -> Sequence[DrawnMap]:
        """The maps of the question's words."""


class ShownMap(DrawnMap, Protocol):
    """What of a `crosslook.maps.AttentionMap` is shown."""

    @property
    def span(self) -> tuple[int, int] | None:
        """The word's place in the question, in code points."""

    @property
    def source(self) -> Any:
        """The image that was asked about; None where it is not here."""


class ShownAnswer(DrawnAnswer, Protocol):
    """What of a `crosslook.results.Answer` is shown."""

    @property
    def words(self) -> Sequence[ShownMap]:
        """The maps of the question's words."""

    @property
    def answer_words(self) -> Sequence[DrawnMap]:
        """The maps of the answer's words, where a model writes them one by one."""

    @property
    def ranking(self) -> Sequence[RankedAnswer]:
        """The best answers with their scores, the best first."""

    @property
    def reliability(self) -> Reliability | None:
        """What such a score has meant."""

    @property
    def unsure(self) -> bool:
        """Whether to doubt it."""

    @property
    def source(self) -> Any:
        """The image that was asked about; None where it is not here."""


def read_nothing(answer: DrawnAnswer) -> bool:
    """Whether the answer is that no text was found or could be read."""
    return answer.score_over == "text" and answer.answer in NOTHING_READ


def is_mostly_off(attention_map: DrawnMap, answer: ShownAnswer) -> bool:
    """Whether most of a map is not in the image where that says something. Of a model that writes it does not, also
    where it chose among candidates: it attends to its text most, whatever is asked."""
    writes = answer.score_over == "sequence" or bool(answer.answer_words)
    return attention_map.mostly_off_image and not writes
