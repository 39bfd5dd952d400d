"""What the client returns: typed results, each with its maps placed on the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crosslook.drawn import read_nothing
from crosslook.maps import AttentionMap, find_word, read_map, read_words
from crosslook.types import (
    AnswerResponse,
    AnswerResult,
    CaptionResponse,
    CaptionResult,
    ImageRef,
    MatchResponse,
    MatchResult,
    ModelRef,
    RankedAnswer,
    Reliability,
    ScoreOver,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from crosslook.overlay import Style

_LEAST = 0.6  # of such answers were right: fewer, and it is not sure
_NEAR = 0.75  # a runner-up with so much of the best score is a tie


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What every result has.

    ``map`` is where the result as a whole was read from (None without maps), ``words`` one map per word of the text
    that the model was given, in its order. ``image`` stands for the same image in later requests. ``request_id`` finds
    the request in the server's log. ``source`` is the image as it was passed; None where it is not here (a URL, an id).
    """

    score: float
    score_over: ScoreOver
    map: AttentionMap | None
    words: tuple[AttentionMap, ...]
    model: ModelRef
    image: ImageRef
    request_id: str | None
    source: Any = field(default=None, kw_only=True, compare=False)

    def overlay(
        self,
        image: Any = None,
        *,
        word: str | int | None = None,
        opacity: float = 0.65,
        legend: bool = True,
        style: Style = "colours",
    ) -> Image:
        """The map of the whole, or of one word (as for `for_word`), drawn over the image: see `AttentionMap.overlay`.

        Raises as that, LookupError where there is no such word, and ValueError where there are no maps.
        """
        drawn = self.map if word is None else self.for_word(word)
        if drawn is None:
            raise ValueError("this result has no map: it was asked for with maps='none', or the model makes none")
        return drawn.overlay(image, opacity=opacity, legend=legend, style=style)

    def for_word(self, word: str | int, occurrence: int = 0) -> AttentionMap:
        """The map of one word: see `AttentionMap.for_word`."""
        return find_word(self.words, word, occurrence)


def is_unsure(scores: Sequence[float], reliability: Reliability | None, score_over: ScoreOver) -> bool:
    """`Answer.unsure` of an answer with these ``scores`` in its ranking, the best first, 0 to 1."""
    seldom = reliability is not None and reliability.right < _LEAST
    near = score_over != "sequence" and any(score >= _NEAR * scores[0] for score in scores[1:])
    return seldom or near


@dataclass(frozen=True, slots=True, repr=False)
class Answer(Result):
    """An answer to one question. ``words`` are the question's; ``answer_words`` are filled by models that generate.

    ``reliability`` says how many answers with such a score to such a question were right on photographs kept from
    training; None where the model has no such figures. ``raw`` is the result as it came over the wire, with every
    token's map.
    """

    question: str
    answer: str
    ranking: tuple[RankedAnswer, ...]
    rest: float | None
    answer_words: tuple[AttentionMap, ...]
    reliability: Reliability | None
    raw: AnswerResult

    def __str__(self) -> str:
        return self.answer

    @property
    def unsure(self) -> bool:
        """Whether to doubt it: such answers were right too seldom when the model was tested (`reliability`: less than
        60% of them), or a runner-up has nearly the same score. Not where it says that no text was found or
        could be read."""
        return not read_nothing(self) and is_unsure(
            [ranked.score for ranked in self.ranking], self.reliability, self.score_over
        )

    def __repr__(self) -> str:
        return f"Answer({self.answer!r}, score={self.score:.3g}, question={self.question!r})"

    def show(self, image: Any = None) -> None:
        """Show question, answer and every word's map: below the cell of a notebook, else in the system's viewer.

        Raises as `overlay`.
        """
        from crosslook.notebook import show_answer

        show_answer(self, image)

    def _repr_html_(self) -> str | None:
        from crosslook.notebook import answer_html

        return answer_html(self)

    def _repr_png_(self) -> bytes | None:
        from crosslook.notebook import answer_png

        return answer_png(self)


@dataclass(frozen=True, slots=True, repr=False)
class Match(Result):
    """How well one text fits the image; ``score`` is its probability among the texts of the request.

    ``fit`` is the probability that this text fits, whatever the others; None where the model has none.
    """

    text: str
    fit: float | None
    raw: MatchResult

    def __repr__(self) -> str:
        return f"Match({self.text!r}, score={self.score:.3g})"


@dataclass(frozen=True, slots=True, repr=False)
class Caption(Result):
    """A description of the image. ``words`` are the caption's own, the given beginning (``prompt``) included."""

    prompt: str
    caption: str
    raw: CaptionResult

    def __str__(self) -> str:
        return self.caption

    def __repr__(self) -> str:
        return f"Caption({self.caption!r}, score={self.score:.3g})"


@dataclass(frozen=True, slots=True)
class Health:
    """``ready``: requests are answered now. ``detail`` is the server's own account of itself."""

    ready: bool
    detail: dict[str, object]


def read_answers(response: AnswerResponse, request_id: str | None, source: Any = None) -> list[Answer]:
    """The answers of a response, in the order of its questions."""
    attention, image = response.attention, response.image
    answers = []
    for result in response.results:
        words = read_words(result.question_words, result.question_tokens, attention, image, source)
        answers.append(
            Answer(
                score=result.score,
                score_over=result.score_over,
                map=read_map(result.answer_map, attention, image, source=source, text=result.answer, words=words),
                words=words,
                model=response.model,
                image=image,
                request_id=request_id,
                source=source,
                question=result.question,
                answer=result.answer,
                ranking=tuple(result.ranking),
                rest=result.rest,
                answer_words=read_words(result.answer_words, result.answer_tokens, attention, image, source),
                reliability=result.reliability,
                raw=result,
            )
        )
    return answers


def read_matches(response: MatchResponse, request_id: str | None, source: Any = None) -> list[Match]:
    """The matches of a response, in the order of its texts."""
    attention, image = response.attention, response.image
    matches = []
    for result in response.results:
        words = read_words(result.text_words, result.text_tokens, attention, image, source)
        matches.append(
            Match(
                score=result.score,
                score_over=result.score_over,
                map=read_map(result.text_map, attention, image, source=source, text=result.text, words=words),
                words=words,
                model=response.model,
                image=image,
                request_id=request_id,
                source=source,
                text=result.text,
                fit=result.fit,
                raw=result,
            )
        )
    return matches


def read_captions(response: CaptionResponse, request_id: str | None, source: Any = None) -> list[Caption]:
    """The captions of a response, in the order of its prompts."""
    attention, image = response.attention, response.image
    captions = []
    for result in response.results:
        words = read_words(result.caption_words, result.caption_tokens, attention, image, source)
        captions.append(
            Caption(
                score=result.score,
                score_over=result.score_over,
                map=read_map(result.caption_map, attention, image, source=source, text=result.caption, words=words),
                words=words,
                model=response.model,
                image=image,
                request_id=request_id,
                source=source,
                prompt=result.prompt,
                caption=result.caption,
                raw=result,
            )
        )
    return captions


def as_list(text: str | Sequence[str]) -> list[str]:
    """One text or several, as a list."""
    return [text] if isinstance(text, str) else list(text)
