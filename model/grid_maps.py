"""From attention rows to maps on the patch grid, tokens with spans, and words.

A row ``[keys]`` becomes a `Map`: patch keys fill the grid row by row, and all other keys add up to ``elsewhere``, so
nothing is lost silently. Maps are made per token. A `Word` names its tokens; its map is the mean of theirs, which the
reader of a response makes (the client in ``read_words`` of ``crosslook/maps.py``, the page in ``app/web/maps.js``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.interface import Geometry, Map, TextOutput, Token, Word

_MARK = "\u0300"
_LETTERS = rf"\w[\w{_MARK}]*"
_WORD = re.compile(rf"{_LETTERS}(?:['’\-‐‑]{_LETTERS})*")

Span = tuple[int, int]


def find_words(text: str, spans: Sequence[Span | None], words: Sequence[Span] | None = None) -> tuple[Word, ...]:
    """The words of ``text``, each with the indices of the tokens whose span overlaps it. ``words``: where they are, for
    a text whose words are not divided by spaces.

    A word is letters and digits with their combining marks, and apostrophes or hyphens inside it. Punctuation between
    words belongs to no word.
    """
    found = []
    where = [match.span() for match in _WORD.finditer(_with_one_mark(text))] if words is None else words
    for start, end in where:
        tokens = tuple(i for i, span in enumerate(spans) if span and span[0] < end and span[1] > start)
        if tokens:
            found.append(Word(text[start:end], (start, end), tokens))
    return tuple(found)


def _with_one_mark(text: str) -> str:
    """The text with `_MARK` for each code point that only changes the letter before it: vowel signs and accents of
    many scripts, soft hyphens, joiners. They are no letters to regular expressions."""
    if text.isascii():
        return text
    return "".join(
        _MARK if unicodedata.category(c) in ("Mn", "Mc", "Me") or c in "\xad\u200c\u200d" else c for c in text
    )


def place_on_grid(
    attention: NDArray[np.float32], geometry: Geometry, first_patch: int = 0, *, total: float | None = None
) -> list[Map]:
    """Attention rows ``[n, keys]`` as ``n`` maps on the grid of ``geometry``.

    ``geometry.cells`` says which key belongs to which cell; without it, patches are the ``rows * columns`` keys from
    ``first_patch`` on. ``elsewhere`` is what the other keys have; or, for rows that are a part of ``total``, all that
    the patches lack to it. Raises ValueError where ``cells`` does not fit the keys or the grid.
    """
    size = geometry.rows * geometry.columns
    if geometry.cells is None:
        end = first_patch + size
        patches = np.ascontiguousarray(attention[:, first_patch:end])
        others = attention[:, :first_patch].sum(1) + attention[:, end:].sum(1)
    else:
        cells = np.asarray(geometry.cells)
        if cells.shape != attention.shape[1:] or cells.min() < -1 or cells.max() >= size:
            raise ValueError(f"cells are one per key ({attention.shape[1]}), from -1 to {size - 1}")
        patches = np.zeros((len(attention), size), np.float32)
        np.add.at(patches.T, cells[cells >= 0], attention.T[cells >= 0])  # several keys may add to one cell
        others = attention[:, cells < 0].sum(1)
    elsewhere = others if total is None else np.maximum(0.0, total - patches.sum(1).astype(np.float64))
    grids = patches.reshape(-1, geometry.rows, geometry.columns)
    return [Map(grid, other) for grid, other in zip(grids, elsewhere.tolist(), strict=True)]


def with_maps(
    output: TextOutput,
    text: str,
    texts: Sequence[str],
    spans: Sequence[Span | None],
    words: Sequence[Span] | None,
    rows: NDArray[np.float32],
    geometry: Geometry,
    first_patch: int,
    total: float | None,
) -> TextOutput:
    """``output`` of ``text`` with tokens (``texts`` at ``spans``), words, and maps from attention ``rows`` ``[tokens +
    1, keys]``, or more: the text's own behind all others. See `find_words` and `place_on_grid`."""
    maps = place_on_grid(rows, geometry, first_patch, total=total)
    tokens = make_tokens(texts, spans, maps[: len(spans)])
    return replace(output, tokens=tokens, words=find_words(text, spans, words), answer_map=maps[-1])


def make_tokens(
    texts: Sequence[str], spans: Sequence[Span | None], maps: Sequence[Map | None] | None = None
) -> tuple[Token, ...]:
    """Tokens of one text; those without a span are special."""
    found = maps or [None] * len(texts)
    return tuple(Token(text, span, span is None, m) for text, span, m in zip(texts, spans, found, strict=True))
