"""What a server serves: the body of ``GET /v1/models``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crosslook.types.base import MapKind, WireModel, is_none
from crosslook.types.maps import Grid
from crosslook.types.results import Reliability


class ReliabilityBand(Reliability):
    """A row of a model's table of reliability: it holds for scores from ``low`` up to ``high``, which is outside but
    for 1. ``language``, that of the questions, is there only where it is not English (ISO 639-1)."""

    low: float
    high: float
    language: str | None = Field(None, exclude_if=is_none)


class ModelLimits(WireModel):
    """What one request may hold."""

    questions: int
    question_characters: int
    question_tokens: int
    image_bytes: int
    image_pixels: int
    image_side: int
    images: int | None = Field(None, exclude_if=is_none, description="Of one question, where that may be several.")


class ModelCard(WireModel):
    """One entry of ``GET /v1/models``: OpenAI's fields, then what this model can do.

    ``default_layers`` is there only where a request that names no ``layers`` gets the mean of some of them, not of all;
    ``reliability`` only where it was measured what a score means: for each kind of question, from the lowest scores up;
    ``generation`` only for a model that writes: how it does, by the names of transformers' ``GenerationConfig``.
    ``languages`` are those that it reads, ``answer_languages`` those it can answer in (ISO 639-1). ``heads``, how many
    each layer has, is there only where maps of single ones can be asked for.
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
    default_layers: list[int] | None = Field(None, exclude_if=is_none)
    reliability: list[ReliabilityBand] | None = Field(None, exclude_if=is_none)
    generation: dict[str, float] | None = Field(None, exclude_if=is_none)
    languages: list[str] | None = Field(None, exclude_if=is_none)
    answer_languages: list[str] | None = Field(None, exclude_if=is_none)
    dimensions: int | None = Field(
        None, exclude_if=is_none, description="Of `POST /v1/embeddings`, where the model has them."
    )
    heads: int | None = Field(None, exclude_if=is_none)


class ModelList(WireModel):
    """The body of ``GET /v1/models``, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
