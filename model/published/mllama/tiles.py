"""Llama 3.2 Vision's preprocessing: an image is laid on a canvas of up to four tiles, in the arrangement that keeps
most of its resolution; the tiles' patches are one grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.interface import Geometry, Pixels, Region

_MOST_TILES = 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """Resize to fit ``most`` tiles of ``tile`` x ``tile`` pixels at most, pad at the right and the bottom with black,
    as transformers' processor does with Pillow. Pixels are the whole canvas; keys are each tile's class token and
    patches, tile by tile.
    """

    tile: int
    most: int
    patch: int
    resample: int = Image.Resampling.BILINEAR

    @property
    def rows(self) -> int:
        """Patches along a tile's side: the grid of the smallest canvas."""
        return self.tile // self.patch

    columns = rows

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the shorter side of the largest canvas."""
        return self.tile * math.isqrt(self.most)

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright."""
        down, across = self.arrange(image.width, image.height)
        width, height = self._fit(image.width, image.height, across * self.tile, down * self.tile)
        canvas = np.zeros((down * self.tile, across * self.tile, 3), np.uint8)
        canvas[:height, :width] = np.asarray(image.resize((width, height), self.resample), np.uint8)
        side = self.tile // self.patch
        right, bottom = canvas.shape[1] * image.width / width, canvas.shape[0] * image.height / height
        region = Region(0.0, 0.0, right, bottom)
        cells = _cells(down, across, side)
        return Pixels(canvas, Geometry(image.width, image.height, down * side, across * side, region, cells))

    def arrangements(self) -> list[tuple[int, int]]:
        """How many tiles down and across a canvas may have, in the order in which the model numbers them, from 1."""
        sides = range(1, self.most + 1)
        return [(down, across) for down in sides for across in sides if down * across <= self.most]

    def arrange(self, width: int, height: int) -> tuple[int, int]:
        """Tiles down and across: where the image must be enlarged, as little as can be; else shrunk the least. Of
        equals the smallest canvas."""
        scales = {
            (down, across): min(across * self.tile / width, down * self.tile / height)
            for down, across in self.arrangements()
        }
        larger = [scale for scale in scales.values() if scale >= 1]
        wanted = min(larger) if larger else max(scales.values())
        return min((one for one, scale in scales.items() if scale == wanted), key=lambda one: one[0] * one[1])

    def _fit(self, width: int, height: int, canvas_width: int, canvas_height: int) -> tuple[int, int]:
        """The image's size on the canvas."""
        target_width = min(max(width, self.tile), canvas_width)
        target_height = min(max(height, self.tile), canvas_height)
        scale_w, scale_h = target_width / width, target_height / height
        if scale_w < scale_h:
            return target_width, min(math.floor(height * scale_w) or 1, target_height)
        return min(math.floor(width * scale_h) or 1, target_width), target_height


@lru_cache(64)
def _cells(down: int, across: int, side: int) -> tuple[int, ...]:
    """The cell of each key: tile by tile, a class token (-1) and ``side * side`` patches."""
    cells: list[int] = []
    for tile in range(down * across):
        top, left = tile // across * side, tile % across * side
        cells.append(-1)
        cells += [(top + i // side) * across * side + left + i % side for i in range(side * side)]
    return tuple(cells)


def read_tiles(folder: Path, settings: dict[str, Any], vision: Any) -> Tiles:
    """The preprocessing that a folder's settings for images ask for, for a vision tower with this configuration.

    Raises ValueError where it asks for what that cannot take.
    """
    size = settings.get("size") or {}
    tile = vision.image_size
    if not isinstance(size, dict) or (size.get("height", tile), size.get("width", tile)) != (tile, tile):
        raise ValueError(f"{folder}: its images are made {size!r}, but its vision tower takes tiles of {tile} pixels")
    most = settings.get("max_image_tiles", vision.max_num_tiles)
    if not isinstance(most, int) or not 1 <= most <= min(vision.max_num_tiles, _MOST_TILES):
        raise ValueError(f"{folder}: images of {most!r} tiles; its vision tower takes 1 to {vision.max_num_tiles}")
    resample = settings.get("resample", Image.Resampling.BILINEAR)
    if resample not in list(Image.Resampling):
        raise ValueError(f"{folder}: its resample {resample!r} is none of Pillow's filters")
    return Tiles(tile, most, vision.patch_size, int(resample))
