"""Image -> pixels of one model, and the geometry: which rectangle of the original image the patch grid covers.

No torch here: the service preprocesses in its parent process and sends pixels to the worker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.interface import Geometry, Pixels, Region


@dataclass(frozen=True, slots=True)
class Squash:
    """Resize the whole image to ``size`` x ``size``, whatever its proportions, for a ``rows`` x ``columns`` grid.

    Nothing is cropped or padded, so the grid covers exactly the image.
    """

    size: int
    rows: int
    columns: int

    def __call__(self, image: Image.Image, original_size: tuple[int, int] | None = None) -> Pixels:
        """``image`` RGB, upright. ``original_size`` (width, height) where ``image`` was already decoded smaller."""
        width, height = original_size or image.size
        resized = image.resize((self.size, self.size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        region = Region(0.0, 0.0, float(width), float(height))
        return Pixels(np.asarray(resized, dtype=np.uint8), Geometry(width, height, self.rows, self.columns, region))
