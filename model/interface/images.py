"""The image's side: made ready for a model, encoded, and where its patch grid lies on the original."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
