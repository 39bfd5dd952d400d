"""A model whose every answer can be known beforehand: it names the colour of an image.

It takes all three tasks, so that every route of every dialect can be tested. Its maps look where the colour is that a
word names; other words look everywhere alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.interface import (
    EncodedImage,
    Geometry,
    Item,
    ItemError,
    Map,
    MapInfo,
    ModelInfo,
    Output,
    Pixels,
    Ranked,
    Task,
    TextOutput,
    Token,
    Word,
)
from tests.fakes.model import COLUMNS, ROWS, command, preprocess

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
LOADER = "tests.fakes.reference_server:load"


@dataclass
class Encoded:
    """The likeness of each cell to each colour, ``[rows, columns, colours]``, 1 where it is that colour."""

    likeness: NDArray[np.float32]
    geometry: Geometry
    batch_key: str = "one"
    nbytes: int = 1000


class ColourModel:
    """Names colours."""

    def __init__(self, **_: Any) -> None:
        self.info = ModelInfo(
            id="colours",
            revision="sha256:0",
            tasks=("answer", "caption", "match"),
            map_kinds=("raw",),
            default_map_kind="raw",
            layers=(0, 1),
            rows=ROWS,
            columns=COLUMNS,
            max_tokens=16,
            preprocess=preprocess,
        )

    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """How like each colour each cell is."""
        named = np.array(list(COLOURS.values()), np.float32)
        return [
            Encoded(1.0 - np.abs(p.values[:, :, None].astype(np.float32) - named).mean(-1) / 255.0, p.geometry)
            for p in images
        ]

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        """The colour of the whole image, whatever was asked."""
        for item in items:
            for text in item.texts:
                command(text, len(item.texts))
        return [self._one(task, item) for item in items]

    def _one(self, task: Task, item: Item) -> Output | ItemError:
        image = item.image
        assert isinstance(image, Encoded)
        for index, text in enumerate(item.texts):
            if "xyzzy" in text:
                return ItemError("question_not_understood", "Unknown words.", index, {"unknown": 1})
        overall = dict(zip(COLOURS, image.likeness.mean((0, 1)).tolist(), strict=True))
        outputs = [self._text(task, text, item, image, overall) for text in item.texts]
        if task == "match":
            scores = softmax([max((overall[c] for c in COLOURS if c in text), default=0.0) for text in item.texts])
            outputs = [
                TextOutput((Ranked(text, score),), "candidates", None, o.tokens, o.words, o.answer_map)
                for text, score, o in zip(item.texts, scores, outputs, strict=True)
            ]
        return Output(tuple(outputs), None if item.maps is None else MapInfo("raw", item.maps.layers or (0, 1)))

    def _text(self, task: Task, text: str, item: Item, image: Encoded, overall: dict[str, float]) -> TextOutput:
        tokens, words = self._look(text, image) if item.maps else ((), ())
        count = len(re.findall(r"\w+", text)) + 1
        best = max(overall, key=overall.__getitem__)
        if task == "caption":
            caption = f"{text} a {best} image".strip()
            tokens, words = self._look(caption, image) if item.maps else ((), ())
            return TextOutput(
                (Ranked(caption, 0.5),), "sequence", None, answer_tokens=tokens, answer_words=words,
                token_count=count, answer_token_count=len(caption.split()),
            )  # fmt: skip
        names = list(item.candidates or COLOURS)
        scores = softmax([overall.get(name, 0.0) for name in names])
        ranking = sorted((Ranked(n, s) for n, s in zip(names, scores, strict=True)), key=lambda r: -r.score)
        kept = tuple(ranking[: item.top_k])
        return TextOutput(
            kept,
            "candidates" if item.candidates else "vocabulary",
            max(0.0, 1.0 - sum(r.score for r in kept)),
            tokens,
            words,
            self._map(best, image) if item.maps else None,
            token_count=count,
        )

    def _look(self, text: str, image: Encoded) -> tuple[tuple[Token, ...], tuple[Word, ...]]:
        tokens = [Token("[CLS]", None, True, self._map("", image))]
        words = []
        for found in re.finditer(r"\w+", text):
            words.append(Word(found[0], found.span(), (len(tokens),)))
            tokens.append(Token(found[0].lower(), found.span(), False, self._map(found[0].lower(), image)))
        return tuple(tokens), tuple(words)

    def _map(self, word: str, image: Encoded) -> Map:
        weights = np.ones((ROWS, COLUMNS), np.float32)
        if word in COLOURS:
            weights = image.likeness[:, :, list(COLOURS).index(word)] ** 8
        return Map((0.75 * weights / weights.sum()).astype(np.float32), 0.25)


def softmax(values: Sequence[float]) -> list[float]:
    """Sharp enough that the best is near 1."""
    powers = np.exp(20.0 * (np.array(values) - max(values)))
    return [float(value) for value in powers / powers.sum()]


def load(**options: Any) -> ColourModel:
    """The loader to name in ``create_app(settings, loader=...)``."""
    return ColourModel(**options)
