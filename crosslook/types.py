"""The wire types: what requests and responses of the native routes hold, for the server and for every client.

Conventions, the same everywhere:

* Positions on the image are floats in pixels of the original image after its EXIF rotation.
* Spans are half-open ``(start, end)`` in Unicode code points of the text exactly as it was sent.
* A map's ``values`` (or ``data``) cover ``attention.region`` cut evenly into ``attention.grid``; row 0 is the top.
* Keys never vanish: what does not apply is ``null`` or an empty list.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MapKind = Literal["raw", "gradient", "rollout", "similarity"]
"""``raw``: attention of the very pass that made the answer. ``gradient``: what counted for the answer, where a stronger
look would have raised it. ``rollout``: attention, followed through that within the text. ``similarity``: no attention
at all, a cosine between a token and each patch."""

MapEncoding = Literal["float", "u8"]
MapChoice = Literal["float", "u8", "none"]
ScoreOver = Literal["vocabulary", "candidates", "sequence", "text"]
QuestionKind = Literal["yes/no", "count", "colour", "reading", "other"]


def _is_none(value: object) -> bool:
    return value is None


class WireModel(BaseModel):
    """Base of all wire types. Unknown keys of a *response* are ignored, so that an old client reads a newer server."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ModelRef(WireModel):
    """Which model answered. ``revision`` changes whenever its weights or configuration do."""

    id: str
    revision: str


class ImageRef(WireModel):
    """The image as the server saw it: its id (stands for the bytes in later requests) and size in pixels."""

    id: str
    width: int
    height: int


class Grid(WireModel):
    """How many cells a map has."""

    rows: int
    columns: int


class Region(WireModel):
    """The rectangle of the original image that the grid covers, in pixels. May exceed the image where a model pads."""

    left: float
    top: float
    right: float
    bottom: float


class Attention(WireModel):
    """How every map of one response was made and how to place it on the image.

    ``composition`` is there only where the answer's tokens do not look at the image themselves: then their raw and
    rollout maps, and ``answer_map``, are products along this path, such as ``answer>question>image``. ``gates`` is
    there only where a learned gate stands behind the attention of each of ``layers``: how much of what it found goes
    on, 0 for nothing. Maps are not weighted by it.
    """

    kind: MapKind
    layers: list[int]
    layer_reduction: str
    head_reduction: str
    encoding: MapEncoding
    grid: Grid
    region: Region
    composition: str | None = Field(None, exclude_if=_is_none)
    gates: list[float] | None = Field(None, exclude_if=_is_none)


class Point(WireModel):
    """Where a map points, in pixels of the original image: the middle of its strongest cell, and ``half``, the smallest
    rectangle of whole cells that holds half of what the map has in the grid. No detection of a thing."""

    x: float
    y: float
    half: Region


class FloatMap(WireModel):
    """A map as numbers of 4 significant digits. Raw maps: ``values`` and ``elsewhere`` together sum to 1. ``point`` is
    there only where the request asked for ``points``."""

    values: list[list[float]]
    elsewhere: float
    point: Point | None = Field(None, exclude_if=_is_none)


class U8Map(WireModel):
    """A map as bytes: base64 of rows x columns bytes, row-major; a cell's value is its byte times ``scale``."""

    data: str
    scale: float
    elsewhere: float
    point: Point | None = Field(None, exclude_if=_is_none)


Map = FloatMap | U8Map


class Token(WireModel):
    """One token of a text. ``span`` is null for tokens that are not in the text (``special`` ones)."""

    text: str
    span: tuple[int, int] | None
    special: bool
    map: Map | None


class Word(WireModel):
    """One word of a text and the indices of its tokens. Its map is the mean of theirs."""

    text: str
    span: tuple[int, int]
    tokens: list[int]


class RankedAnswer(WireModel):
    """An answer and its probability.

    ``in_vocabulary`` is there only where a model with an answer vocabulary ranked the request's candidates: false for a
    candidate that is none of the model's own answers. That one was scored by its wording alone, which is less to be
    trusted. ``english`` is there only where ``answer`` is in another language: the model's own word for it.
    """

    answer: str
    score: float
    in_vocabulary: bool | None = Field(None, exclude_if=_is_none)
    english: str | None = Field(None, exclude_if=_is_none)


class Reliability(WireModel):
    """What such a score has meant for this ``kind`` of question: of ``count`` answers about photographs kept from
    training the share ``right`` was right, from 0 to 1."""

    kind: QuestionKind
    right: float
    count: int


class ReliabilityBand(Reliability):
    """A row of a model's table of reliability: it holds for scores from ``low`` up to ``high``, which is outside but
    for 1."""

    low: float
    high: float


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
    reliability: Reliability | None = Field(None, exclude_if=_is_none)
    finish_reason: Literal["length"] | None = Field(None, exclude_if=_is_none)
    """There only where the answer was cut off by its limit of tokens."""
    language: str | None = Field(None, exclude_if=_is_none)
    """The language of the answers (ISO 639-1), there only where it is not English."""


class AnswerResponse(WireModel):
    """The body of ``POST /v1/answer``. ``results`` are in the order of the questions."""

    model: ModelRef
    image: ImageRef
    attention: Attention | None
    results: list[AnswerResult]


class MapOptions(WireModel):
    """Options that every task takes, the same in JSON and in multipart fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Refused with 404 when this server does not serve it.")
    maps: MapChoice = Field("float", description="Encoding of the maps, or none.")
    map_kind: MapKind | None = Field(None, description="The model's default kind when absent.")
    layers: list[int] | None = Field(
        None,
        min_length=1,
        max_length=256,
        fail_fast=True,
        description="Fusion layers to average; default: the model's.",
    )
    points: bool = Field(
        False,
        description="Say of each map where it points: its strongest cell and the box of half of it, in pixels.",
    )


class ImageInput(WireModel):
    """The image of a JSON request: by value, or by the id that an earlier response gave it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = Field(None, description="Base64, a data URI or, where the operator allows it, a URL.")
    image_id: str | None = Field(None, description="The id of an image sent before, in place of `image`.")


class GenerationOptions(MapOptions):
    """How an answer is written, for models that write; others have nothing to do with these."""

    max_new_tokens: int | None = Field(None, ge=1, le=4096, description="The answer ends here at the latest.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0, which is the default, always takes the most likely token."
    )
    top_p: float | None = Field(None, ge=0, le=1, description="Draw from the likeliest tokens of this probability.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="The same seed draws the same tokens.")
    stop: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        None, max_length=8, fail_fast=True, description="The answer ends before any of these."
    )


class AnswerOptions(GenerationOptions):
    """Options of an answer request, the same in JSON and in multipart fields."""

    top_k: int = Field(5, ge=1, le=50, description="How many answers the ranking holds at most.")
    candidates: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None,
        min_length=1,
        max_length=200,
        fail_fast=True,
        description="Answer with one of these; scores are over them alone. Those that differ only in case or spaces "
        "count once, as first given. `in_vocabulary` marks those that the model knows as answers.",
    )
    language: str | None = Field(
        None,
        pattern="^[a-z]{2}$",
        description="The language to answer in, one of the model's `answer_languages`; default: the question's own.",
    )


class AnswerRequest(AnswerOptions, ImageInput):
    """The JSON body of ``POST /v1/answer``: one image (by value or by id) and one or more questions."""

    questions: list[str] = Field(min_length=1, max_length=1000, fail_fast=True)
    stream: bool = Field(
        False,
        description="Send server-sent events: `token` events while the answers are written, by models that write token "
        "by token, then one `answer` event with the whole response.",
    )


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
    fit: float | None = Field(None, exclude_if=_is_none)


class MatchResponse(WireModel):
    """The body of ``POST /v1/match``. ``results`` are in the order of the texts; their scores sum to 1."""

    model: ModelRef
    image: ImageRef
    attention: Attention | None
    results: list[MatchResult]


class MatchRequest(MapOptions, ImageInput):
    """The JSON body of ``POST /v1/match``: one image and the texts to compare with each other."""

    texts: list[Annotated[str, Field(max_length=2000)]] = Field(
        min_length=1,
        max_length=200,
        fail_fast=True,
        description="No two alike but for case and spaces: they would share one score.",
    )


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


class CaptionRequest(MapOptions, ImageInput):
    """The JSON body of ``POST /v1/caption``: one image and how its captions shall begin."""

    prompts: list[Annotated[str, Field(max_length=2000)]] = Field(
        default_factory=lambda: [""],
        min_length=1,
        max_length=16,
        fail_fast=True,
        description="One caption each; an empty one is free.",
    )


class ImageUploadRequest(WireModel):
    """The JSON body of ``POST /v1/images``; multipart takes an ``image`` file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = Field(description="Base64, a data URI or, where the operator allows it, a URL.")


class ImageUploadResponse(WireModel):
    """The body of ``POST /v1/images``: ``image.id`` stands for the bytes until the server needs their place."""

    image: ImageRef


class OverlayRequest(WireModel):
    """The JSON body of ``POST /v1/overlay``: one image by value, one question, and what to draw of its maps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = Field(None, description="Base64, a data URI or, where the operator allows it, a URL.")
    question: str
    word: int | None = Field(
        None, ge=0, description="Draw the map of this word of the question (0 is the first), not the answer's own."
    )
    sheet: bool = Field(False, description="A sheet: question, answer, its map and a small map for every word.")
    opacity: float = Field(0.65, ge=0, le=1, description="0: the image alone; 1: the strongest cell hides it.")
    legend: bool = Field(True, description="A small colour bar with the strength of the strongest cell.")
    candidates: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None,
        min_length=1,
        max_length=200,
        fail_fast=True,
        description="Answer with one of these; scores are over them alone.",
    )
    model: str | None = Field(None, description="Refused with 404 when this server does not serve it.")
    map_kind: MapKind | None = Field(None, description="The model's default kind when absent.")
    layers: list[int] | None = Field(
        None,
        min_length=1,
        max_length=256,
        fail_fast=True,
        description="Fusion layers to average; default: the model's.",
    )


class ModelLimits(WireModel):
    """What one request may hold."""

    questions: int
    question_characters: int
    question_tokens: int
    image_bytes: int
    image_pixels: int
    image_side: int


class ModelCard(WireModel):
    """One entry of ``GET /v1/models``: OpenAI's fields, then what this model can do.

    ``default_layers`` is there only where a request that names no ``layers`` gets the mean of some of them, not of all;
    ``reliability`` only where it was measured what a score means: for each kind of question, from the lowest scores up;
    ``generation`` only for a model that writes: how it does, by the names of transformers' ``GenerationConfig``.
    ``languages`` are those that it reads, ``answer_languages`` those it can answer in (ISO 639-1).
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    revision: str
    tasks: list[Literal["answer", "caption", "match"]]
    map_kinds: list[MapKind]
    default_map_kind: MapKind | None
    layers: list[int]
    grid: Grid
    limits: ModelLimits
    default_layers: list[int] | None = Field(None, exclude_if=_is_none)
    reliability: list[ReliabilityBand] | None = Field(None, exclude_if=_is_none)
    generation: dict[str, float] | None = Field(None, exclude_if=_is_none)
    languages: list[str] | None = Field(None, exclude_if=_is_none)
    answer_languages: list[str] | None = Field(None, exclude_if=_is_none)
    dimensions: int | None = Field(
        None, exclude_if=_is_none, description="Of `POST /v1/embeddings`, where the model has them."
    )


class ModelList(WireModel):
    """The body of ``GET /v1/models``, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorInfo(WireModel):
    """What went wrong. ``code`` is one of `crosslook.errors.CODES`; ``param`` names the field, with its index."""

    code: str
    message: str
    type: str
    param: str | None
    request_id: str | None
    detail: dict[str, object] | None


class ErrorBody(WireModel):
    """The body of every error of the native and OpenAI routes."""

    error: ErrorInfo
