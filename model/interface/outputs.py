"""What a model answers: for each text its ranking, its tokens and words, and the map of each token; or an error.

The parts of an `Output` are dataclasses without slots: those that are frozen and have slots take twice as long to
pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from model.interface.items import MapKind

ScoreOver = Literal["vocabulary", "candidates", "sequence", "text"]


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
        return _map_of_bytes, (
            self.values.astype(np.float32, copy=False).tobytes(),
            self.values.shape,
            self.elsewhere,
            self.others,
        )


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


class LaterTexts(Sequence[TextOutput]):
    """Texts that ``makers`` make when one is first looked at. Pickled they are what the makers are; unpickled, a tuple:
    what a worker's answers are made of goes through its socket in few pieces, and the rest is done by who reads it."""

    def __init__(self, makers: Sequence[Callable[[], TextOutput]]) -> None:
        self._makers = tuple(makers)

    @cached_property
    def _made(self) -> tuple[TextOutput, ...]:
        return _make(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, index: int) -> TextOutput: ...
    @overload
    def __getitem__(self, index: slice) -> LaterTexts: ...
    def __getitem__(self, index: int | slice) -> TextOutput | LaterTexts:
        return LaterTexts(self._makers[index]) if isinstance(index, slice) else self._made[index]

    def __reduce__(self) -> tuple[Callable[..., tuple[TextOutput, ...]], tuple[Any, ...]]:
        return _make, (self._makers,)


def _make(makers: Sequence[Callable[[], TextOutput]]) -> tuple[TextOutput, ...]:
    return tuple(make() for make in makers)


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

    texts: Sequence[TextOutput]
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
