"""Maps and what they belong to: the tokens and words of a text."""

from __future__ import annotations

from pydantic import Field

from crosslook.types.base import MapEncoding, MapKind, WireModel, is_none


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


class FurtherImage(WireModel):
    """One of the images of a question about several, but the first: its size in pixels, and where its maps lie."""

    width: int
    height: int
    grid: Grid
    region: Region


class Attention(WireModel):
    """How every map of one response was made and how to place it on the image.

    ``composition`` is there only where the answer's tokens do not look at the image themselves: then their raw and
    rollout maps, and ``answer_map``, are products along this path, such as ``answer>question>image``. ``gates`` is
    there only where a learned gate stands behind the attention of each of ``layers``: how much of what it found goes
    on, 0 for nothing. Maps are not weighted by it. ``heads`` is there only where the request named some;
    ``others`` only where a question is about several images: where the maps' ``others`` lie.
    """

    kind: MapKind
    layers: list[int]
    layer_reduction: str
    head_reduction: str
    encoding: MapEncoding
    grid: Grid
    region: Region
    composition: str | None = Field(None, exclude_if=is_none)
    gates: list[float] | None = Field(None, exclude_if=is_none)
    heads: list[int] | None = Field(None, exclude_if=is_none)
    others: list[FurtherImage] | None = Field(None, exclude_if=is_none)


class Point(WireModel):
    """Where a map points, in pixels of the original image: the middle of its strongest cell, and ``half``, the smallest
    rectangle of whole cells that holds half of what the map has in the grid. No detection of a thing."""

    x: float
    y: float
    half: Region


class FloatMap(WireModel):
    """A map as numbers of 4 significant digits. Raw maps: ``values`` and ``elsewhere`` together sum to 1. ``point`` is
    there only where the request asked for ``points``. ``others`` is there only where a question is about several
    images: the values on the grids of those behind the first, which count in that sum."""

    values: list[list[float]]
    elsewhere: float
    point: Point | None = Field(None, exclude_if=is_none)
    others: list[list[list[float]]] | None = Field(None, exclude_if=is_none)


class U8Map(WireModel):
    """A map as bytes: base64 of rows x columns bytes, row-major; a cell's value is its byte times ``scale``.
    ``others``: see `FloatMap`; bytes too, of the same scale."""

    data: str
    scale: float
    elsewhere: float
    point: Point | None = Field(None, exclude_if=is_none)
    others: list[str] | None = Field(None, exclude_if=is_none)


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
