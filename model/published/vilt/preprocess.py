"""ViLT's preprocessing: the image keeps its shape, so every image has a patch grid of its own size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.interface import Geometry, Pixels, Region

_LONGEST = 1333 / 800  # of the longer side, in shorter sides
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class KeepShape:
    """Resize so that the shorter side is ``short`` pixels, unless the longer one would be more than 1333/800 of that;
    both sides are then cut down to multiples of ``divisor``, as transformers' processor does with Pillow.

    An image of more than 20 times its shorter side is given one patch there; that processor would give it none.
    """

    short: int
    divisor: int
    patch: int
    resample: int = Image.Resampling.BICUBIC

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return self.short

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright."""
        width, height = self._sides(image.width, image.height)
        values = np.asarray(image.resize((width, height), self.resample), dtype=np.uint8)
        region = Region(0.0, 0.0, float(image.width), float(image.height))
        return Pixels(values, Geometry(image.width, image.height, height // self.patch, width // self.patch, region))

    def _sides(self, width: int, height: int) -> tuple[int, int]:
        scale = self.short / min(width, height)
        new_width, new_height = (scale * width, self.short) if height < width else (self.short, scale * height)
        longest = int(_LONGEST * self.short)
        if max(new_width, new_height) > longest:
            scale = longest / max(new_width, new_height)
            new_width, new_height = scale * new_width, scale * new_height
        return self._cut(new_width), self._cut(new_height)

    def _cut(self, side: float) -> int:
        return max(self.divisor, int(side + 0.5) // self.divisor * self.divisor)


def read_resize(folder: Path, settings: dict[str, Any], patch: int) -> KeepShape:
    """The resizing that a folder's settings for images ask for. Raises ValueError where they make no sense."""
    size = settings.get("size", 384)
    short: Any = size.get("shortest_edge") if isinstance(size, dict) else size
    divisor: Any = settings.get("size_divisor") or 32
    for name, value in (("size", short), ("size_divisor", divisor)):
        if not isinstance(value, int) or not patch <= value <= _LARGEST:
            raise ValueError(f"{folder}: its {name} must be from {patch} to {_LARGEST} pixels, not {value!r}")
    if divisor % patch or short < divisor:
        raise ValueError(f"{folder}: images of {short} pixels in steps of {divisor} have no whole patches of {patch}")
    resample = settings.get("resample", Image.Resampling.BICUBIC)
    if resample not in list(Image.Resampling):
        raise ValueError(f"{folder}: its resample {resample!r} is none of Pillow's filters")
    return KeepShape(short, divisor, patch, int(resample))
