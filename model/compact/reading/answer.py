"""Answers to questions that ask for text, from the text that is in the image.

What the network said to such a question is what such questions are mostly answered with (every sign says *stop*), so it
is replaced: by a text that was read; by `NO_TEXT`, where there is none; by `CANNOT_READ`, where nothing here can read.
Only where the question but hints at text (a brand, which may be known by its logo) the network's answer stays, unless a
text is likelier. The words' maps stay as they are: they come from the pass in which the network looked, and say
which of the texts the question means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.compact.reading import choice
from model.compact.reading.lines import Line, Reader
from model.compact.reading.questions import Asked, asks_for
from model.interface import Item, Map, Output, Ranked, TextOutput

NO_TEXT = "no text found"
CANNOT_READ = "unreadable"
DETAIL = 960  # pixels of the longer side that are kept for reading

Looks = Callable[[str], NDArray[np.floating[Any]]]
"""A question -> where its words look ``[rows, columns]``, in the pass of the network."""

_LIKE = 0.6  # below it, a candidate is another text
_SHARPNESS = 12.0
_EMPTY = frozenset(  # words that name neither a thing nor a place
    re.findall(
        r"\w+",
        "a an the this that of on in at to from and or is are was were do does did can be it its his her their there "
        "what which who how say says said saying read reads written writing word words text name names number numbers "
        "letter letters title show shown see seen you i left right top bottom",
    )
)


@dataclass(slots=True)
class Legible:
    """What of an image can be read: ``detail``, grey ``[height, width]``, and the ``lines`` once they have been."""

    detail: NDArray[np.uint8]
    lines: tuple[Line, ...] | None = None

    @property
    def nbytes(self) -> int:
        """The memory of the grey image, in bytes."""
        return self.detail.nbytes


class Reading:
    """Answers by reading. ``reader`` None: nothing can be read. ``vocabulary``: the network's answers."""

    def __init__(self, reader: Reader | None, vocabulary: Sequence[str]) -> None:
        self.reader = reader
        self._known = frozenset(vocabulary)

    @property
    def detail(self) -> int:
        """Pixels of the longer side that it needs of an image; 0: none."""
        return DETAIL if self.reader else 0

    def revise(self, output: Output, item: Item, image: Legible | None, looks: Looks) -> Output:
        """``output`` with the answers to those of the item's questions that ask for text. ``image``: what of it can be
        read, None where that was not kept."""
        asked = [asks_for(question) for question in item.texts]
        if not any(asked):
            return output
        texts = [
            text if kind is None else self._answer(text, kind, question, item, self.lines(image), looks)
            for text, kind, question in zip(output.texts, asked, item.texts, strict=True)
        ]
        return replace(output, texts=tuple(texts))

    def lines(self, image: Legible | None) -> tuple[Line, ...] | None:
        """The lines in an image, read once; None where nothing here can read it."""
        if image is None or self.reader is None:
            return None
        if image.lines is None:
            image.lines = self.reader(image.detail)
        return image.lines

    def _answer(
        self,
        output: TextOutput,
        asked: Asked,
        question: str,
        item: Item,
        lines: Sequence[Line] | None,
        looks: Looks,
    ) -> TextOutput:
        pieces = choice.find_pieces(lines or (), asked)
        if not pieces and not asked.only_text:
            return output
        weights, no_text = choice.load_weights()
        shares: NDArray[np.float64] = np.zeros(0)
        if pieces:
            known = [piece.text.lower() in self._known for piece in pieces]
            shares = choice.probabilities(choice.describe(pieces, asked, question, looks(question), known), weights)
        if item.candidates is not None:
            return _among(output, asked, item.candidates, item.top_k, pieces, shares)
        order = np.argsort(-shares, kind="stable")
        if not asked.only_text and shares[order[0]] <= output.ranking[0].score:
            return output
        if not pieces:
            nothing = Ranked(CANNOT_READ if lines is None else NO_TEXT, no_text)
            return _read(output, (nothing,), max(0.0, 1.0 - no_text), ())
        ranking = tuple(Ranked(pieces[i].text, float(shares[i])) for i in order[: item.top_k])
        return _read(output, ranking, max(0.0, 1.0 - sum(r.score for r in ranking)), pieces[order[0]].lines)


def _among(
    output: TextOutput,
    asked: Asked,
    candidates: Sequence[str],
    top_k: int,
    pieces: Sequence[choice.Piece],
    shares: NDArray[np.float64],
) -> TextOutput:
    """The candidate that is nearest to what was read; where none is near, all are as likely."""
    likeness = choice.likenesses(candidates, [piece.text for piece in pieces], _LIKE)
    if not asked.only_text and likeness.max(initial=0.0) < _LIKE:
        return output
    logits = _SHARPNESS * np.maximum(0.0, likeness - _LIKE).max(1, initial=0.0)
    odds = np.exp(logits - logits.max())
    scores = odds / odds.sum()
    order = np.argsort(-scores, kind="stable")
    named = {ranked.answer: ranked.in_vocabulary for ranked in output.ranking}
    ranking = tuple(Ranked(candidates[i], float(scores[i]), named.get(candidates[i], False)) for i in order[:top_k])
    best = order[0]
    near = likeness.max(initial=0.0) >= _LIKE
    lines = pieces[int((likeness[best] * (1 + 1e-3 * shares)).argmax())].lines if near else ()
    return _read(output, ranking, max(0.0, 1.0 - sum(r.score for r in ranking)), lines, over_candidates=True)


def _read(
    output: TextOutput,
    ranking: tuple[Ranked, ...],
    rest: float,
    lines: Sequence[Line],
    *,
    over_candidates: bool = False,
) -> TextOutput:
    """``output`` with another answer, whose map, where there are maps, is on the ``lines``."""
    answer_map = output.answer_map
    if answer_map is not None:
        under = choice.cover(lines, *answer_map.values.shape)
        whole = float(under.sum())
        answer_map = Map(under / whole, 0.0) if whole else Map(np.zeros_like(under), 1.0)
    return replace(
        output,
        ranking=ranking,
        score_over="candidates" if over_candidates else "text",
        rest=rest,
        answer_map=answer_map,
    )


def looks_of(output: TextOutput) -> NDArray[np.float32]:
    """Where the words of a text look ``[rows, columns]``: the mean map of those that name a thing or a place, or of all
    where none does. ``output`` has maps."""
    named = [word for word in output.words if not _EMPTY.issuperset(re.findall(r"[a-z]+", word.text.lower()))]
    tokens = {i for word in named or output.words for i in word.tokens} or set(range(len(output.tokens)))
    maps = [found.values for i in sorted(tokens) if (found := output.tokens[i].map) is not None]
    mean: NDArray[np.float32] = np.mean(maps, axis=0)
    return mean
