"""`AttentionMap`: where the model looked, placed on the original image."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from crosslook.types import Attention, ImageRef, Map, Token, U8Map, Word

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from crosslook.overlay import Style

_SHARES = ("raw", "rollout")  # the kinds whose values are shares of a token's attention
# Off the image, until a map says little of the image. Of a rollout half stays with the words anyway.
_MOST_OFF = {"raw": 0.5, "gradient": 0.5, "rollout": 0.75}


class Peak(NamedTuple):
    """The centre of a map's strongest cell, in pixels of the original image, and that cell's value."""

    x: float
    y: float
    value: float


@dataclass(frozen=True, slots=True, repr=False)
class AttentionMap:
    """Where one word, or the answer as a whole, looked.

    ``values`` is ``[rows][columns]``, row 0 at the top, and covers ``attention.region`` (pixels of the original image
    after its EXIF rotation) cut evenly. ``elsewhere`` is what went to keys outside the image (a null key, a class
    token). In a raw map all of it sums to 1. ``words`` are the maps of the words of the text that this map belongs to
    (none for a word's own map). ``source`` is the image as it was passed; None where it is not here (a URL, an id).
    """

    text: str
    span: tuple[int, int] | None
    values: tuple[tuple[float, ...], ...]
    elsewhere: float
    attention: Attention
    image: ImageRef
    words: tuple[AttentionMap, ...] = ()
    source: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        x, y, _ = self.peak()
        rows, columns = len(self.values), len(self.values[0])
        return f"AttentionMap({self.text!r}, {rows} x {columns} cells, strongest at x={x:.0f} y={y:.0f})"

    def _repr_png_(self) -> bytes | None:
        from crosslook.notebook import map_png

        return map_png(self)

    def array(self) -> NDArray[np.float32]:
        """``values`` as a NumPy array, float32 ``[rows, columns]``. Raises ImportError where NumPy is not installed."""
        import numpy as np

        return np.asarray(self.values, dtype=np.float32)

    def for_word(self, word: str | int, occurrence: int = 0) -> AttentionMap:
        """The map of one word of the text.

        ``word`` is its position (0 is the first) or the word itself, whatever its case; ``occurrence`` chooses among
        equal words, 0 the first. Raises LookupError when there is no such word.
        """
        return find_word(self.words, word, occurrence)

    def peak(self) -> Peak:
        """Where the map is strongest: the centre of that cell, within the image, in its pixels."""
        rows, columns = len(self.values), len(self.values[0])
        row, column = max(
            ((row, column) for row in range(rows) for column in range(columns)),
            key=lambda cell: self.values[cell[0]][cell[1]],
        )
        region = self.attention.region
        x = region.left + (column + 0.5) * (region.right - region.left) / columns
        y = region.top + (row + 0.5) * (region.bottom - region.top) / rows
        inside = min(max(x, 0.0), float(self.image.width)), min(max(y, 0.0), float(self.image.height))
        return Peak(*inside, self.values[row][column])

    @property
    def off_image(self) -> float:
        """The share of the map that lies on no place of the image, 0 to 1: `elsewhere` of it and all values."""
        if self.attention.kind in _SHARES:
            return self.elsewhere
        whole = self.elsewhere + sum(max(0.0, value) for row in self.values for value in row)
        return self.elsewhere / whole if whole > 0 else 0.0

    @property
    def mostly_off_image(self) -> bool:
        """Whether most of what it shows is not in the image, so that its `peak` says little: more than half
        (`off_image`); of a rollout three quarters, since half of it stays with the words anyway."""
        return self.off_image > _MOST_OFF.get(self.attention.kind, 1.0)

    def format_value(self, value: float) -> str:
        """A value of this map as text: per cent where it is a share (raw and rollout maps), else the number."""
        return f"{value:.1%}" if self.attention.kind in _SHARES else f"{value:.3g}"

    def overlay(
        self, image: Any = None, *, opacity: float = 0.65, legend: bool = True, style: Style = "colours"
    ) -> Image:
        """The map drawn over the image, at its own size: the one that was asked about, or ``image`` (path, bytes,
        binary file, PIL image or array), which need be named only where that is not here (`source`). ``style``:
        ``colours``, or ``spotlight``, which darkens what was not looked at.

        Raises ImportError where Pillow is not installed, ValueError when the image is not of the size that the server
        saw or none is here.
        """
        from crosslook.images import chosen_image
        from crosslook.overlay import draw_map, open_image

        return draw_map(open_image(chosen_image(image, self.source)), self, opacity=opacity, legend=legend, style=style)


def find_word(words: Sequence[AttentionMap], word: str | int, occurrence: int = 0) -> AttentionMap:
    """The map of one word, by position or by occurrence; see `AttentionMap.for_word`. Raises LookupError."""
    try:
        if isinstance(word, int):
            return words[word]
        return [candidate for candidate in words if candidate.text.casefold() == word.casefold()][occurrence]
    except IndexError:
        have = ", ".join(repr(candidate.text) for candidate in words) or "none (maps were not asked for)"
        raise LookupError(f"no word {word!r} (occurrence {occurrence}); the words are: {have}") from None


def read_map(
    wire: Map | None,
    attention: Attention | None,
    image: ImageRef,
    *,
    text: str,
    words: tuple[AttentionMap, ...] = (),
    source: Any = None,
) -> AttentionMap | None:
    """A map of the wire; None where there is none. Raises ValueError when it does not fit its grid."""
    if wire is None or attention is None:
        return None
    values = _decode(wire, attention.grid.columns)
    _check(values, attention)
    return AttentionMap(text, None, values, wire.elsewhere, attention, image, words, source)


def read_words(
    words: Sequence[Word],
    tokens: Sequence[Token],
    attention: Attention | None,
    image: ImageRef,
    source: Any = None,
) -> tuple[AttentionMap, ...]:
    """One map per word: the mean of its tokens' maps. Raises ValueError when a map does not fit its grid."""
    if attention is None:
        return ()
    found = []
    for word in words:
        wires = [wire for index in word.tokens if (wire := tokens[index].map) is not None]
        if not wires:
            continue
        parts = [_decode(wire, attention.grid.columns) for wire in wires]
        values = tuple(
            tuple(sum(cells) / len(parts) for cells in zip(*rows, strict=True)) for rows in zip(*parts, strict=True)
        )
        _check(values, attention)
        elsewhere = sum(wire.elsewhere for wire in wires) / len(wires)
        found.append(AttentionMap(word.text, word.span, values, elsewhere, attention, image, source=source))
    return tuple(found)


def _decode(wire: Map, columns: int) -> tuple[tuple[float, ...], ...]:
    if isinstance(wire, U8Map):
        data = base64.b64decode(wire.data, validate=True)
        return tuple(
            tuple(byte * wire.scale for byte in data[start : start + columns]) for start in range(0, len(data), columns)
        )
    return tuple(map(tuple, wire.values))


def _check(values: tuple[tuple[float, ...], ...], attention: Attention) -> None:
    grid = attention.grid
    if len(values) != grid.rows or any(len(row) != grid.columns for row in values):
        raise ValueError(f"a map does not have the {grid.rows} x {grid.columns} cells of its grid")
