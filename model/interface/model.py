"""A loaded model, and what the service needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from model.interface.images import EncodedImage, Pixels, Preprocess
from model.interface.items import Item, MapKind, Task
from model.interface.outputs import ItemError, Output, Written

QuestionKind = Literal["yes/no", "count", "colour", "reading", "other"]
QuestionForm = Literal["is there"]


@dataclass(frozen=True, slots=True)
class ReliabilityBand:
    """Answers to questions of ``kind`` with a score from ``low`` up to ``high`` (which is outside, but for 1): of
    ``count`` of them the share ``right`` was right, both scores and shares from 0 to 1. The questions were in
    ``language`` (ISO 639-1) and had this ``form``; None: all those of the kind that have no rows of their own."""

    kind: QuestionKind
    low: float
    high: float
    count: int
    right: float
    language: str = "en"
    form: QuestionForm | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the service needs to know of a loaded model. Picklable: the worker sends it to its parent when ready."""

    id: str
    revision: str
    tasks: tuple[Task, ...]
    map_kinds: tuple[MapKind, ...]
    default_map_kind: MapKind | None
    layers: tuple[int, ...]
    rows: int
    columns: int
    max_tokens: int
    preprocess: Preprocess = field(repr=False)
    default_layers: tuple[int, ...] | None = None
    """The layers whose maps are averaged where a request names none; None: all of ``layers``."""
    languages: tuple[str, ...] = ("en",)
    """The languages it reads, as ISO 639-1 codes."""
    answer_languages: tuple[str, ...] = ("en",)
    """The languages it can answer in."""
    decode_side: int | None = None
    """An image may be decoded down to so many pixels at its shorter side before it is preprocessed; None: what
    ``preprocess.size`` says, where it has one."""
    generation: tuple[str, ...] = ()
    """The fields of `Generation` that it follows; empty for a model that does not write."""
    generation_defaults: Mapping[str, float] = field(default_factory=dict, hash=False)
    """How it writes where a request says nothing, by the names of transformers' ``GenerationConfig``."""
    streams: bool = False
    """Whether it is a `WritingModel`."""
    reliability: tuple[ReliabilityBand, ...] = ()
    """What its scores are worth by kind of question; empty where that was not measured."""
    dimensions: int | None = None
    """The length of its features, for models that embed."""
    heads: int = 0
    """How many heads each layer has, where ``raw`` maps of some of them can be asked for; 0 where not."""
    images: int = 1
    """How many images a question may be about."""


class Writing(Protocol):
    """Items that are answered token by token, side by side. They come and go between two steps."""

    def advance(
        self, join: Sequence[tuple[int, Task, Item]], leave: Sequence[int]
    ) -> dict[int, Written | ItemError | Exception]:
        """One step: a token more for all that is under way, and the first for what joins, under ids of the caller's.
        What leaves is forgotten. One entry for each item that is under way; one with an output, or an error, is so no
        more."""


class WritingModel(Protocol):
    """A `Model` that can write so (`ModelInfo.streams`)."""

    def writing(self) -> Writing:
        """A new, empty one."""


class Model(Protocol):
    """A loaded model. Not thread-safe: one caller at a time."""

    @property
    def info(self) -> ModelInfo:
        """What the service needs to know of the model; constant once it is loaded."""

    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision pass over a batch of images."""
        ...

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        """Run texts against encoded images of one ``batch_key``. The result has one entry per item, in order."""
        ...
