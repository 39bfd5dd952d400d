"""Image -> pixels of one model, and the geometry: which rectangle of the original image the patch grid covers.

No torch here: the service preprocesses in its parent process and sends pixels to the worker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.interface import Geometry, Pixels, Region


@dataclass(frozen=True, slots=True)
class Squash:
    """Resize the whole image to ``size`` x ``size``, whatever its proportions, for a ``rows`` x ``columns`` grid.

    Nothing is cropped or padded, so the grid covers exactly the image. With ``detail``, the pixels also hold the image
    in grey with its proportions, its longer side at most ``detail``: a third of the bytes, and as legible.
    """

    size: int
    rows: int
    columns: int
    detail: int = 0

    def __call__(self, image: Image.Image, original_size: tuple[int, int] | None = None) -> Pixels:
        """``image`` RGB, upright. ``original_size`` (width, height) where ``image`` was already decoded smaller."""
        width, height = original_size or image.size
        resized = image.resize((self.size, self.size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        region = Region(0.0, 0.0, float(width), float(height))
        geometry = Geometry(width, height, self.rows, self.columns, region)
        detail = self._detail(image) if self.detail else None
        return Pixels(np.asarray(resized, dtype=np.uint8), geometry, detail=detail)

    def _detail(self, image: Image.Image) -> NDArray[np.uint8]:
        grey = image.convert("L")
        grey.thumbnail((self.detail, self.detail), Image.Resampling.BILINEAR, reducing_gap=2.0)  # never enlarges
        return np.asarray(grey, dtype=np.uint8)
