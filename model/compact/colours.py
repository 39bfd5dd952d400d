"""The eleven basic colours (Berlin and Kay 1969) in an image: how much of each cell has which.

A pixel's colour is told by its hue, saturation and value, with borders set by eye; a table of 32 steps a channel holds
the result, so that an image costs about a millisecond.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

COLOURS = ("black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
_STEPS = 32


@cache
def _table() -> NDArray[np.uint8]:
    """The colour of each of ``_STEPS``**3 RGB values."""
    channel = (np.arange(_STEPS) + 0.5) / _STEPS
    r, g, b = (side.ravel() for side in np.meshgrid(channel, channel, channel, indexing="ij"))
    value, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    chroma = value - low
    saturation = chroma / value
    safe = np.maximum(chroma, 1e-9)
    hue = np.where(value == r, (g - b) / safe % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4)) * 60
    warm = (hue < 48) | (hue >= 350)
    cases = [
        (value < 0.2, "black"),
        ((value < 0.3) & (saturation < 0.3), "black"),
        ((saturation < 0.14) & (value > 0.78), "white"),
        ((saturation < 0.22) & (value > 0.9), "white"),
        (saturation < 0.16, "gray"),
        ((hue >= 165) & (hue < 260) & (saturation < 0.22), "gray"),
        (warm & (hue >= 10) & (hue < 48) & (saturation < 0.55) & (value < 0.9), "brown"),
        ((hue >= 10) & (hue < 48) & (value < 0.6), "brown"),
        (((hue < 15) | (hue >= 330)) & (saturation < 0.5) & (value > 0.65), "pink"),
        ((hue >= 300) & (hue < 348) & (value > 0.4), "pink"),
        ((hue < 13) | (hue >= 345), "red"),
        (hue < 42, "orange"),
        (hue < 66, "yellow"),
        (hue < 165, "green"),
        (hue < 255, "blue"),
    ]
    names = np.select([case for case, _ in cases], [COLOURS.index(name) for _, name in cases], COLOURS.index("purple"))
    return names.astype(np.uint8)


def colour_shares(pixels: NDArray[np.uint8], cells: int) -> NDArray[np.float32]:
    """RGB ``[size, size, 3]``, ``size`` a multiple of ``cells`` -> the share of each colour in each cell, ``[cells,
    cells, 11]``, which sum to 1."""
    size = pixels.shape[0] // cells
    steps = (pixels >> 3).astype(np.int32)
    colour = _table()[(steps[..., 0] << 10) | (steps[..., 1] << 5) | steps[..., 2]].astype(np.int64)
    row = np.arange(pixels.shape[0]) // size
    cell = row[:, None] * cells + row
    counts = np.bincount((cell * len(COLOURS) + colour).ravel(), minlength=cells * cells * len(COLOURS))
    shares: NDArray[np.float32] = (counts.reshape(cells, cells, len(COLOURS)) / size**2).astype(np.float32)
    return shares
