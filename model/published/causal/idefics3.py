"""Idefics 3 (Laurençon et al., "Building and better understanding vision-language models", 2024) and SmolVLM: tiles of
the image and the whole, each token a square of patches (pixel shuffle)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.tiles import SplitImage
from model.published.causal.vision import Expansion, ImageTokens, Placement, tiled
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import processor_config, read_normalization, read_resample, read_side

MODEL_TYPE = "idefics3"
ARCHITECTURES = ("Idefics3ForConditionalGeneration",)


class Idefics3Images(ImageTokens):
    """Tiles row by row, then the whole image; text tells each tile's row and column."""

    after = "<fake_token_around_image>"

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        config, vision = processor_config(folder), net.config.vision_config
        tile = read_side(folder, config, "max_image_size", "longest_edge", 364)
        longest = read_side(folder, config, "size", "longest_edge", 4 * 364)
        if tile != vision.image_size:
            raise ValueError(f"{folder}: its tiles are {tile} pixels, but its vision tower takes {vision.image_size}")
        self._side = vision.image_size // vision.patch_size // net.config.scale_factor
        resample = read_resample(folder, config, Image.Resampling.LANCZOS)
        split = bool(config.get("do_image_splitting", True))
        self.preprocess = SplitImage(longest, tile, self._side, resample, split)
        self.normalization = read_normalization(folder, config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.rows = self.columns = self._side * (longest // tile if split else 1)

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""
        tiles = [] if pixels.tiles is None else list(pixels.tiles)
        return {"pixel_values": self.to_input([*tiles, pixels.values])[None]}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image. A token of the whole saw as much as several of the tiles: it is shared out."""
        side, image = self._side, self.image_token * self._side**2
        rows, columns = pixels.sizes
        whole = f"<fake_token_around_image><global-img>{image}{self.after}"
        if not rows:
            return Expansion(whole, Placement.one_to_one(tiled(1, 1, side, side)))
        lines = [
            "".join(f"<fake_token_around_image><row_{r + 1}_col_{c + 1}>{image}" for c in range(columns)) + "\n"
            for r in range(rows)
        ]
        cells = tiled(rows, columns, side, side)
        thumbnail = Placement.shared_out((side, side), rows * side, columns * side, first=len(cells))
        return Expansion("".join(lines) + "\n" + whole, Placement.one_to_one(cells) + thumbnail)


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, Idefics3Images, ARCHITECTURES)
