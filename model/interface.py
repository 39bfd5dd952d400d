"""What every model family implements, made so that an image is encoded once and asked many times.

The three steps, in the order of the data flow:

1. ``info.preprocess(image) -> Pixels``: cheap, no torch, runs in any process (the service's parent decodes and
   preprocesses; pixels travel to the worker).
2. ``encode(list[Pixels]) -> list[EncodedImage]``: the expensive vision pass. The engine sees no more of its
   result than ``nbytes``, ``geometry`` and ``batch_key``; the cache keeps it.
3. ``run(task, list[Item]) -> list[Output | ItemError]``: questions against encoded images, batched.

This module imports neither torch nor anything of the service. The parts of an `Output` are dataclasses without slots:
those that are frozen and have slots take twice as long to pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Task = Literal["answer", "caption", "match", "embed"]
MapKind = Literal["raw", "gradient", "rollout", "similarity"]
ScoreOver = Literal["vocabulary", "candidates", "sequence", "text"]
QuestionKind = Literal["yes/no", "count", "colour", "reading", "other"]


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the original image, in its pixels; may exceed the image where a model pads."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the patch grid lies: the original image's size and ``region``, the rectangle that the grid covers, both in
    pixels of the original; the grid's ``rows`` and ``columns``."""

    width: int
    height: int
    rows: int
    columns: int
    region: Region
    cells: tuple[int, ...] | None = None
    """For each key, the cell it is a part of, ``row * columns + column``, or -1 for a key outside the grid (a null
    key, a class token). Keys of one cell add up. None: the patches are the keys from the first patch on, row by row."""
    others: tuple[Geometry, ...] = ()
    """Where the grids of the further images lie, where a question is about several."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image made ready for one model: ``values`` uint8 ``[height, width, 3]`` RGB, and its geometry."""

    values: NDArray[np.uint8]
    geometry: Geometry
    tiles: NDArray[np.uint8] | None = None
    """uint8 ``[tiles, height, width, 3]`` RGB: parts of the image in higher resolution, for models that look at those
    as well. ``values`` is the whole image then."""
    detail: NDArray[np.uint8] | None = None
    """uint8 ``[height, width]``: the image in grey with the pixels that text needs, for models that read."""
    sizes: tuple[int, ...] = ()
    """Figures that a family's preprocessing tells its encoder, such as how many rows and columns of tiles there are."""
    others: tuple[Pixels, ...] = ()
    """Further images that are asked about together with this one (`ModelInfo.images`); ``geometry`` knows theirs."""


Preprocess = Callable[[Image.Image], Pixels]
"""RGB image, upright -> pixels. Picklable and free of torch."""


def among(preprocess: Preprocess) -> Preprocess:
    """How an image is made ready that is asked about together with others: as any, unless the preprocessing has a way
    of its own for it, ``among``."""
    own: Preprocess = getattr(preprocess, "among", preprocess)
    return own


def together(images: Sequence[Pixels]) -> Pixels:
    """Several images that are asked about together as one; each was made ready `among` others."""
    first, rest = images[0], tuple(images[1:])
    geometry = replace(first.geometry, others=tuple(image.geometry for image in rest))
    return replace(first, geometry=geometry, others=rest)


class EncodedImage(Protocol):
    """An image after the vision pass. Only images of equal ``batch_key`` may share a call of ``run``."""

    @property
    def nbytes(self) -> int:
        """The memory it takes, in bytes: what the cache counts."""

    @property
    def geometry(self) -> Geometry:
        """Where its patch grid lies on the original image."""

    @property
    def batch_key(self) -> Hashable:
        """Equal for images that may share a call of ``run``."""


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Which maps to make: ``None`` stands for the model's default kind and layers, and for all heads. ``heads``: those
    that are averaged, of each layer; for ``raw`` maps of models that have them apart (`ModelInfo.heads`)."""

    kind: MapKind | None = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """How to write an answer, for models that write. None stands for the model's default; a model ignores what it does
    not follow (`ModelInfo.generation`)."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    """Divides the logits before a token is drawn; 0: always the most likely token."""
    top_p: float | None = None
    """Draw from the most likely tokens that together have this probability, 0 to 1."""
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    """Writing ends before any of these strings."""
    top_logprobs: int = 0
    """How many of the most likely tokens to tell at each place."""


@dataclass(frozen=True, slots=True)
class Item:
    """One encoded image and the texts to run against it, kept together as a group.

    ``texts`` are the questions (answer), prompts (caption) or the texts to compare with each other (match).
    ``maps`` None means no maps, at no cost.
    """

    image: EncodedImage
    texts: tuple[str, ...]
    candidates: tuple[str, ...] | None = None
    top_k: int = 5
    maps: MapRequest | None = None
    generation: Generation | None = None
    language: str | None = None
    """The language of the answers, one of `ModelInfo.answer_languages`; None: each text's own."""


@dataclass(frozen=True)
class Map:
    """Where one token looked: ``values`` float32 ``[rows, columns]``, and ``elsewhere``, the sum of the keys outside
    the grid (a null key, a class token). In raw maps all values are non-negative and sum to 1 with ``elsewhere``.
    ``others`` are the values on the grids of further images, and count in that sum."""

    values: NDArray[np.float32]
    elsewhere: float
    others: tuple[NDArray[np.float32], ...] = ()

    def __reduce__(self) -> tuple[Callable[..., Map], tuple[bytes, tuple[int, ...], float, tuple[Any, ...]]]:
        """As bytes: numpy's own way takes three times as long, and an answer has a map for every token."""
        return _map_of_bytes, (self.values.astype(np.float32).tobytes(), self.values.shape, self.elsewhere, self.others)


def _map_of_bytes(values: bytes, shape: tuple[int, ...], elsewhere: float, others: tuple[Any, ...]) -> Map:
    return Map(np.frombuffer(values, np.float32).reshape(shape), elsewhere, others)


@dataclass(frozen=True)
class Token:
    """One token of a text; ``span`` half-open in code points of the text as sent, None for special tokens."""

    text: str
    span: tuple[int, int] | None
    special: bool
    map: Map | None = None


@dataclass(frozen=True)
class Word:
    """One word of a text and the indices of its tokens."""

    text: str
    span: tuple[int, int]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Ranked:
    """An answer (or a matched text) and its probability.

    ``in_vocabulary`` is set where a model with an answer vocabulary ranked given candidates. False: the candidate is
    not in the vocabulary, and was scored through a vector made from its text alone. ``english`` is the answer in
    English, set only where ``answer`` is in another language and the model knows it.
    """

    answer: str
    score: float
    in_vocabulary: bool | None = None
    english: str | None = None


@dataclass(frozen=True)
class TokenChoice:
    """A token that was written: what it added to the text (nothing where a letter is not whole yet), the natural
    logarithm of its probability, and the most likely tokens at its place with theirs."""

    text: str
    log_probability: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class TextOutput:
    """What came of one text. ``tokens``, ``words`` and the maps are filled only where maps were asked for.

    ``ranking`` is best first (answer, caption) or the text itself with its probability (match). ``rest`` is the
    probability that the ranking leaves, None for a sequence. ``score_over`` is ``text`` where the answers are texts
    read in the image. ``token_count`` is how many tokens the model read for the text, special ones included,
    ``answer_token_count`` how many it generated (1 for a choice); both with or without maps.
    """

    ranking: tuple[Ranked, ...]
    score_over: ScoreOver
    rest: float | None
    tokens: tuple[Token, ...] = ()
    words: tuple[Word, ...] = ()
    answer_map: Map | None = None
    answer_tokens: tuple[Token, ...] = ()
    answer_words: tuple[Word, ...] = ()
    token_count: int = 0
    answer_token_count: int = 1
    choices: tuple[TokenChoice, ...] = ()
    """The tokens of an answer that was written, in order; empty for a choice."""
    finish: Literal["stop", "length"] = "stop"
    """``length`` where the limit cut the answer off."""
    fit: float | None = None
    """match: the model's own probability that the text fits, whatever the other texts; None where it has none."""
    language: str | None = None
    """answer: the language of the answers, where it is not English."""
    embedding: NDArray[np.float32] | None = None
    """embed: the text's feature, a unit vector ``[dimensions]``."""
    sink_share: float | None = None
    """How much of the answer's attention to the image lies on tokens that get much of it whatever is asked, 0 to 1;
    None where that is not measured."""


@dataclass(frozen=True, slots=True)
class MapStep:
    """One step of a composed map: ``asking`` and ``asked`` name sequences (``answer``, ``question``, ``image``), and
    the attention between them is the mean over ``layers`` of the stack where it happens."""

    asking: str
    asked: str
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MapInfo:
    """How the maps of an output were made."""

    kind: MapKind
    layers: tuple[int, ...]
    layer_reduction: str = "mean"
    head_reduction: str = "mean"
    composition: str | None = None
    """How a map of an answer's token was made where that token does not look at the image itself, such as
    ``answer>question>image``: what it took from each question token, times where that one looked."""
    steps: tuple[MapStep, ...] = ()
    """The composition as data, in order from the answer to the image: the map is the product of the steps' attentions
    (`model.attribution.compose`). Empty where nothing is composed."""
    gates: tuple[float, ...] = ()
    """For each of ``layers``, how much of what its attention found goes on, where a learned gate decides: 0 is nothing.
    The maps are not weighted by it. Empty where there are no gates."""
    heads: tuple[int, ...] = ()
    """The heads that were averaged, where a request named some; empty: all."""


@dataclass(frozen=True)
class Output:
    """What came of one item: one `TextOutput` a text, in order."""

    texts: tuple[TextOutput, ...]
    maps: MapInfo | None = None
    embedding: NDArray[np.float32] | None = None
    """embed: the image's feature, a unit vector ``[dimensions]`` in the same space."""


@dataclass(frozen=True)
class Progress:
    """What one step of writing added to one text of an item: its ``index``, the tokens chosen, and the ``text`` that
    can be shown now and could not before. All that was shown is the answer in the end."""

    index: int
    text: str
    choices: tuple[TokenChoice, ...]


@dataclass(frozen=True)
class Written:
    """What one step of writing did for one item: the progress of its texts, and the output once all are finished."""

    progress: tuple[Progress, ...]
    output: Output | None = None


ItemErrorCode = Literal[
    "question_empty", "question_too_long", "question_not_understood", "task_not_supported", "map_not_supported"
]


class ItemError(Exception):
    """One item cannot be run; the others of its batch can. ``code`` is an error code of the wire, ``index`` the text at
    fault (None where it is the whole item), ``detail`` figures of the case. Returned by ``run``, not raised."""

    def __init__(
        self, code: ItemErrorCode, message: str, index: int | None = None, detail: dict[str, object] | None = None
    ) -> None:
        super().__init__(code, message, index, detail)  # all of them, so that it pickles
        self.code: ItemErrorCode = code
        self.message = message
        self.index = index
        self.detail = detail

    def moved(self, count: int) -> ItemError:
        """The same of an item that has ``count`` more texts in front."""
        return ItemError(self.code, self.message, None if self.index is None else self.index + count, self.detail)


@dataclass(frozen=True, slots=True)
class ReliabilityBand:
    """Answers to questions of ``kind`` with a score from ``low`` up to ``high`` (which is outside, but for 1): of
    ``count`` of them the share ``right`` was right, both scores and shares from 0 to 1. The questions were in
    ``language`` (ISO 639-1)."""

    kind: QuestionKind
    low: float
    high: float
    count: int
    right: float
    language: str = "en"


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
