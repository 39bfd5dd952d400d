"""Images cut into tiles beside a thumbnail of the whole: the preprocessing of Idefics 3, LLaVA-OneVision, InternVL and
Gemma 3.

No torch here: the service preprocesses in its parent process. Pixels equal those of transformers' Pillow processors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.interface import Geometry, Pixels, Region

_LARGEST_SIDE = 4096
_LARGEST_SQUARE = 8  # times a tile's side


def whole_geometry(image: Image.Image, rows: int, columns: int) -> Geometry:
    """A grid over all of an image."""
    region = Region(0.0, 0.0, float(image.width), float(image.height))
    return Geometry(image.width, image.height, rows, columns, region)


def cut(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The image's tiles ``[tiles, side, side, 3]``, row by row; its sides are multiples of ``side``."""
    values = np.asarray(image, dtype=np.uint8)
    rows, columns = image.height // side, image.width // side
    tiles = values.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(-1, side, side, 3))


@dataclass(frozen=True, slots=True)
class SplitImage:
    """Idefics 3: the image is enlarged or reduced to ``longest`` pixels at its longer side, then to multiples of
    ``tile``, and cut. ``cells``: tokens along a tile's side."""

    longest: int
    tile: int
    cells: int
    resample: int
    split: bool = True

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return self.longest if self.split else self.tile

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright. `Pixels.sizes`: rows and columns of tiles, 0 and 0 where there is only the whole."""
        resized = image.resize(self._scaled(image.width, image.height), self.resample)
        if self.split:
            resized = resized.resize(self._multiples(resized.width, resized.height), self.resample)
        rows, columns = resized.height // self.tile, resized.width // self.tile
        if not self.split or (rows, columns) == (1, 1):
            rows = columns = 0
        tiles = cut(resized, self.tile) if rows else None
        whole = resized.resize((self.tile, self.tile), self.resample)
        cells = (max(1, rows) * self.cells, max(1, columns) * self.cells)
        return Pixels(np.asarray(whole, np.uint8), whole_geometry(image, *cells), tiles=tiles, sizes=(rows, columns))

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """The longer side as wanted, the other by the aspect ratio, made even."""
        ratio = width / height
        if width >= height:
            width, height = self.longest, int(self.longest / ratio)
            height += height % 2
        else:
            width, height = int(self.longest * ratio), self.longest
            width += width % 2
        width, height = max(width, 1), max(height, 1)
        if max(width, height) > _LARGEST_SIDE:
            ratio = width / height
            if width >= height:
                width, height = _LARGEST_SIDE, int(_LARGEST_SIDE / ratio)
            else:
                width, height = int(_LARGEST_SIDE * ratio), _LARGEST_SIDE
        return max(width, 1), max(height, 1)

    def _multiples(self, width: int, height: int) -> tuple[int, int]:
        ratio = width / height
        if width >= height:
            width = math.ceil(width / self.tile) * self.tile
            height = math.ceil(int(width / ratio) / self.tile) * self.tile
        else:
            height = math.ceil(height / self.tile) * self.tile
            width = math.ceil(int(height * ratio) / self.tile) * self.tile
        return max(width, self.tile), max(height, self.tile)


@dataclass(frozen=True, slots=True)
class AnyResolution:
    """LLaVA-OneVision: the image is fitted into the best of the ``resolutions`` (height, width), padded with black
    around it, and cut; the thumbnail is the whole image squashed. ``cells``: tokens along a tile's side; the grid has
    no padding, and at most ``most_tiles`` tiles' tokens. ``colour``: see `Square`."""

    resolutions: tuple[tuple[int, int], ...]
    tile: int
    cells: int
    most_tiles: int
    resample: int
    colour: tuple[int, int, int] = (0, 0, 0)

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return max(min(resolution) for resolution in self.resolutions)

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright. `Pixels.sizes`: its height and width, by which the encoder takes the padding off.

        Of an image so long that its shorter side is no token wide, nothing is left of the tiles but the ends of their
        rows, if there are any. The grid is the thumbnail's then, and `Pixels.sizes` ends with how many rows there are.
        """
        height, width = self._best(image.height, image.width)
        inner_width, inner_height = self._fitted(image, height, width)
        padded = Image.new("RGB", (width, height))
        fitted = image.resize((inner_width, inner_height), self.resample)
        padded.paste(fitted, ((width - inner_width) // 2, (height - inner_height) // 2))
        whole = image.resize((self.tile, self.tile), self.resample)
        rows, columns = self._grid(image.height, image.width, height // self.tile, width // self.tile)
        sizes: tuple[int, ...] = (image.height, image.width)
        if not rows * columns:
            sizes, rows, columns = (*sizes, rows), self.cells, self.cells
        geometry = whole_geometry(image, rows, columns)
        return Pixels(np.asarray(whole, np.uint8), geometry, tiles=cut(padded, self.tile), sizes=sizes)

    @property
    def among(self) -> Square:
        """An image among several has no tiles: the thumbnail is all that the model sees of it."""
        return Square(self.tile, self.cells, self.resample, self.colour)

    def _best(self, height: int, width: int) -> tuple[int, int]:
        """The resolution that keeps most pixels of the image, of these the one that wastes least."""

        def merit(resolution: tuple[int, int]) -> tuple[int, int]:
            scale = min(resolution[1] / width, resolution[0] / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - resolution[0] * resolution[1]

        return max(self.resolutions, key=merit)

    @staticmethod
    def _fitted(image: Image.Image, height: int, width: int) -> tuple[int, int]:
        across, down = width / image.width, height / image.height
        if across < down:
            return width, min(math.ceil(image.height * across), height)
        return min(math.ceil(image.width * down), width), height

    def _grid(self, height: int, width: int, tile_rows: int, tile_columns: int) -> tuple[int, int]:
        """Rows and columns of tokens, once the padding is off, and they are reduced where they are too many."""
        rows, columns = tile_rows * self.cells, tile_columns * self.cells
        if width / height > columns / rows:
            rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
        ratio = math.sqrt(rows * columns / (self.most_tiles * self.cells**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


@dataclass(frozen=True, slots=True)
class Square:
    """The image in the middle of a square of ``colour``, made ``tile`` pixels wide; ``cells`` tokens along its side."""

    tile: int
    cells: int
    resample: int
    colour: tuple[int, int, int]

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return self.tile

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright. The grid covers the whole square."""
        side = max(image.width, image.height)
        left, top = (side - image.width) // 2, (side - image.height) // 2
        values = np.asarray(self._square(image, side).resize((self.tile, self.tile), self.resample), np.uint8)
        region = Region(-float(left), -float(top), float(side - left), float(side - top))
        geometry = Geometry(image.width, image.height, self.cells, self.cells, region)
        return Pixels(values, geometry, sizes=(image.height, image.width))

    def _square(self, image: Image.Image, side: int) -> Image.Image:
        most = _LARGEST_SQUARE * self.tile
        if side > most:  # a square of a very long image would be gigabytes; this differs from it by rounding alone
            scale = most / side
            sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            image, side = image.resize(sides, self.resample), most
        square = Image.new("RGB", (side, side), self.colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


@dataclass(frozen=True, slots=True)
class BestCanvas:
    """InternVL: the image is squashed onto as many tiles as fit its shape best, ``least`` to ``most`` of them."""

    tile: int
    cells: int
    least: int
    most: int
    resample: int

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return self.tile * max(1, math.isqrt(self.most))

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright. `Pixels.sizes`: rows and columns of tiles; a single one has no thumbnail."""
        columns, rows = self._canvas(image.width, image.height)
        canvas = image.resize((columns * self.tile, rows * self.tile), self.resample)
        whole = image.resize((self.tile, self.tile), self.resample)
        return Pixels(
            np.asarray(whole, np.uint8),
            whole_geometry(image, rows * self.cells, columns * self.cells),
            tiles=cut(canvas, self.tile),
            sizes=(rows, columns),
        )

    def _canvas(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows: those whose shape is closest to the image's; of equals the larger, while the image has more
        than half of its pixels."""
        shapes = [
            (columns, rows)
            for columns in range(1, self.most + 1)
            for rows in range(1, self.most + 1)
            if self.least <= columns * rows <= self.most
        ]
        shapes.sort(key=lambda shape: shape[0] * shape[1])
        best, closest = (1, 1), math.inf
        for columns, rows in shapes:
            difference = abs(width / height - columns / rows)
            if difference < closest:
                best, closest = (columns, rows), difference
            elif difference == closest and width * height > 0.5 * self.tile**2 * columns * rows:
                best = (columns, rows)
        return best


@dataclass(frozen=True, slots=True)
class PanAndScan:
    """Gemma 3: the whole image squashed and, where one side is at least ``ratio`` times the other, up to ``most`` crops
    along it, each of at least ``least`` pixels a side, squashed too. ``cells``: tokens along the side of each."""

    tile: int
    cells: int
    least: int
    most: int
    ratio: float
    resample: int

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return self.tile

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright. `Pixels.sizes`: rows and columns of crops, 0 and 0 where there are none."""
        rows, columns = self._crops(image.width, image.height)
        side = (self.tile, self.tile)
        whole = np.asarray(image.resize(side, self.resample), np.uint8)
        if not rows:
            return Pixels(whole, whole_geometry(image, self.cells, self.cells), sizes=(0, 0))
        width, height = math.ceil(image.width / columns), math.ceil(image.height / rows)
        boxes = [
            (x * width, y * height, min((x + 1) * width, image.width), min((y + 1) * height, image.height))
            for y in range(rows)
            for x in range(columns)
        ]
        crops = [np.asarray(image.crop(box).resize(side, self.resample), np.uint8) for box in boxes]
        geometry = whole_geometry(image, rows * self.cells, columns * self.cells)
        return Pixels(whole, geometry, tiles=np.stack(crops), sizes=(rows, columns))

    def _crops(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of crops; none where the image is not long enough, or too small."""
        longer, shorter = max(width, height), min(width, height)
        if longer / shorter < self.ratio:
            return 0, 0
        count = min(self.most, max(2, min(longer // self.least, math.floor(longer / shorter + 0.5))))
        if min(math.ceil(longer / count), shorter) < self.least:
            return 0, 0
        return (1, count) if width >= height else (count, 1)


@dataclass(frozen=True, slots=True)
class NativeResolution:
    """Qwen-VL: the image keeps its shape; both sides become multiples of ``unit``, the pixels of one token's side, and
    its pixels are ``least`` to ``most``."""

    unit: int
    least: int
    most: int
    resample: int

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return math.isqrt(self.most)

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright."""
        height, width = self._sides(image.height, image.width)
        values = np.asarray(image.resize((width, height), self.resample), np.uint8)
        return Pixels(values, whole_geometry(image, height // self.unit, width // self.unit))

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        unit = self.unit
        rounded = max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)
        pixels = round(height / unit) * unit * (round(width / unit) * unit)
        if pixels > self.most:
            scale = math.sqrt(height * width / self.most)
            return max(unit, math.floor(height / scale / unit) * unit), max(
                unit, math.floor(width / scale / unit) * unit
            )
        if pixels < self.least:
            scale = math.sqrt(self.least / (height * width))
            return math.ceil(height * scale / unit) * unit, math.ceil(width * scale / unit) * unit
        return rounded


def resolutions_of(given: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Resolutions of a configuration as pairs."""
    return tuple((int(height), int(width)) for height, width in given)
