"""What is asked: the JSON bodies, whose fields multipart forms have too."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from crosslook.types.base import MapChoice, MapKind, WireModel

MOST_NEW_TOKENS = 4096
"""Of one answer. OpenAI's clients may ask for more, and get no more."""

Layers = Annotated[
    list[int] | None,
    Field(min_length=1, max_length=256, fail_fast=True, description="Fusion layers to average; default: the model's."),
]
Heads = Annotated[
    list[int] | None,
    Field(
        min_length=1,
        max_length=256,
        fail_fast=True,
        description="Heads to average, of each layer: for `raw` maps of models that say how many `heads` they have; "
        "default: all.",
    ),
]


class MapOptions(WireModel):
    """Options that every task takes, the same in JSON and in multipart fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Refused with 404 when this server does not serve it.")
    maps: MapChoice = Field("float", description="Encoding of the maps, or none.")
    map_kind: MapKind | None = Field(None, description="The model's default kind when absent.")
    layers: Layers = None
    heads: Heads = None
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

    max_new_tokens: int | None = Field(
        None, ge=1, le=MOST_NEW_TOKENS, description="The answer ends here at the latest."
    )
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
    images: list[str] | None = Field(
        None,
        min_length=1,
        max_length=64,
        fail_fast=True,
        description="Several images that each question is about, in place of `image`: base64, data URIs or URLs. No "
        "more than `limits.images` of `GET /v1/models`, there only for models that take several. They have one id.",
    )
    stream: bool = Field(
        False,
        description="Send server-sent events: `token` events while the answers are written, by models that write token "
        "by token, then one `answer` event with the whole response.",
    )


class MatchRequest(MapOptions, ImageInput):
    """The JSON body of ``POST /v1/match``: one image and the texts to compare with each other."""

    texts: list[Annotated[str, Field(max_length=2000)]] = Field(
        min_length=1,
        max_length=200,
        fail_fast=True,
        description="No two alike but for case and spaces: they would share one score.",
    )


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
    layers: Layers = None
    heads: Heads = None
