"""InternVL 3 (Zhu et al. 2025): tiles of the image and a thumbnail behind them, each token a square of patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.tiles import BestCanvas
from model.published.causal.vision import Expansion, ImageTokens, Placement, tiled
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import processor_config, read_normalization, read_resample, read_side

MODEL_TYPE = "internvl"
ARCHITECTURES = ("InternVLForConditionalGeneration",)


class InternVLImages(ImageTokens):
    """Tiles row by row, then the thumbnail where there are several."""

    after = "</img>"

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        config, vision = processor_config(folder), net.config.vision_config
        side, patch = _first(vision.image_size), _first(vision.patch_size)
        tile = read_side(folder, config, "size", "height", side)
        if tile != side:
            raise ValueError(f"{folder}: its tiles are {tile} pixels, but its vision tower takes {side}")
        self._side = int(side // patch * net.config.downsample_ratio)
        least, most = int(config.get("min_patches", 1)), int(config.get("max_patches", 12))
        if not 1 <= least <= most <= 256:
            raise ValueError(f"{folder}: its min_patches and max_patches, {least} and {most}, make no sense")
        resample = read_resample(folder, config, Image.Resampling.BICUBIC)
        self.preprocess = BestCanvas(tile, self._side, least, most, resample)
        self.normalization = read_normalization(folder, config)
        self.rows = self.columns = self._side

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""
        tiles = [pixels.values] if pixels.tiles is None else list(pixels.tiles)
        return {"pixel_values": self.to_input(tiles if len(tiles) == 1 else [*tiles, pixels.values])}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image. A token of the thumbnail saw as much as several of the tiles: it is shared out."""
        rows, columns = pixels.sizes
        side = self._side
        cells = tiled(rows, columns, side, side)
        placement = Placement.one_to_one(cells)
        tokens = len(cells)
        if rows * columns > 1:
            placement += Placement.shared_out((side, side), rows * side, columns * side, first=tokens)
            tokens += side**2
        return Expansion(f"<img>{self.image_token * tokens}{self.after}", placement)


def _first(size: int | list[int] | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else int(size[0])


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, InternVLImages, ARCHITECTURES)
