"""What is answered: a response for each task, with its results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crosslook.types.base import QuestionKind, ScoreOver, WireModel, is_none
from crosslook.types.maps import Attention, Map, Token, Word


class ModelRef(WireModel):
    """Which model answered. ``revision`` changes whenever its weights or configuration do."""

    id: str
    revision: str


class ImageRef(WireModel):
    """The image as the server saw it: its id (stands for the bytes in later requests) and size in pixels."""

    id: str
    width: int
    height: int


class RankedAnswer(WireModel):
    """An answer and its probability.

    ``in_vocabulary`` is there only where a model with an answer vocabulary ranked the request's candidates: false for a
    candidate that is none of the model's own answers. That one was scored by its wording alone, which is less to be
    trusted. ``english`` is there only where ``answer`` is in another language: the model's own word for it.
    """

    answer: str
    score: float
    in_vocabulary: bool | None = Field(None, exclude_if=is_none)
    english: str | None = Field(None, exclude_if=is_none)


class Reliability(WireModel):
    """What such a score has meant for this ``kind`` of question: of ``count`` answers about photographs kept from
    training the share ``right`` was right, from 0 to 1. ``form`` is there only where questions of this wording were
    measured by themselves: ``is there``, whether some thing is in the image."""

    kind: QuestionKind
    right: float
    count: int
    form: str | None = Field(None, exclude_if=is_none)


class AnswerResult(WireModel):
    """What the model says to one question.

    ``score_over`` names what ``score`` is a probability over: the model's whole answer ``vocabulary``, the request's
    ``candidates``, the generated ``sequence``, or the ``text`` that was read in the image. ``rest`` is the probability
    the ranking leaves to other answers (null for a sequence). ``answer_map`` is where the answer itself was read from;
    ``answer_tokens`` and ``answer_words`` are filled by models that generate. ``reliability`` is there only where the
    model has a table of them and the answer is none of given ``candidates``.
    """

    question: str
    answer: str
    score: float
    score_over: ScoreOver
    ranking: list[RankedAnswer]
    rest: float | None
    question_tokens: list[Token]
    question_words: list[Word]
    answer_map: Map | None
    answer_tokens: list[Token]
    answer_words: list[Word]
    reliability: Reliability | None = Field(None, exclude_if=is_none)
    finish_reason: Literal["length"] | None = Field(None, exclude_if=is_none)
    """There only where the answer was cut off by its limit of tokens."""
    language: str | None = Field(None, exclude_if=is_none)
    """The language of the answers (ISO 639-1), there only where it is not English."""
    sink_share: float | None = Field(None, exclude_if=is_none)
    """How much of the answer's attention to the image lies on tokens that get much of it whatever is asked, 0 to 1;
    there only for models that attend to the image as a part of their text."""


class AnswerResponse(WireModel):
    """The body of ``POST /v1/answer``. ``results`` are in the order of the questions."""

    model: ModelRef
    image: ImageRef
    attention: Attention | None
    results: list[AnswerResult]


class MatchResult(WireModel):
    """How well one text fits the image: ``score`` is a probability over the request's texts (``candidates``).

    ``text_map`` is where the score itself was read from. ``fit`` is there only where the model has a probability for
    each pair by itself: that this text fits, whatever the others.
    """

    text: str
    score: float
    score_over: ScoreOver
    text_map: Map | None
    text_tokens: list[Token]
    text_words: list[Word]
    fit: float | None = Field(None, exclude_if=is_none)


class MatchResponse(WireModel):
    """The body of ``POST /v1/match``. ``results`` are in the order of the texts; their scores sum to 1."""

    model: ModelRef
    image: ImageRef
    attention: Attention | None
    results: list[MatchResult]


class CaptionResult(WireModel):
    """One generated description of the image; ``score`` is the probability of the whole ``sequence``.

    ``prompt`` is the beginning that was given (empty when none was) and is part of ``caption``; spans are in
    ``caption``. ``caption_map`` is where the caption as a whole was read from.
    """

    prompt: str
    caption: str
    score: float
    score_over: ScoreOver
    caption_map: Map | None
    caption_tokens: list[Token]
    caption_words: list[Word]


class CaptionResponse(WireModel):
    """The body of ``POST /v1/caption``. ``results`` are in the order of the prompts."""

    model: ModelRef
    image: ImageRef
    attention: Attention | None
    results: list[CaptionResult]


class ImageUploadResponse(WireModel):
    """The body of ``POST /v1/images``: ``image.id`` stands for the bytes until the server needs their place."""

    image: ImageRef
