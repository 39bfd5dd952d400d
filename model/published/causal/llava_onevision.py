"""LLaVA-OneVision (Li et al. 2024): tiles of the image without their padding, and a thumbnail before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.tiles import AnyResolution, resolutions_of
from model.published.causal.vision import Expansion, ImageTokens, Placement
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import processor_config, read_normalization, read_resample, read_side

MODEL_TYPE = "llava_onevision"
ARCHITECTURES = ("LlavaOnevisionForConditionalGeneration",)


class OnevisionImages(ImageTokens):
    """The thumbnail's tokens, then those of the tiles as one grid, with a token at the end of each row."""

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        config, vision = processor_config(folder), net.config.vision_config
        tile = read_side(folder, config, "size", "height", 384)
        if tile != vision.image_size:
            raise ValueError(f"{folder}: its tiles are {tile} pixels, but its vision tower takes {vision.image_size}")
        if net.config.vision_feature_select_strategy != "full":
            raise ValueError(f"{folder}: only vision_feature_select_strategy `full` is known for this family")
        self._side = vision.image_size // vision.patch_size
        resolutions = resolutions_of(net.config.image_grid_pinpoints)
        most = int(str(net.config.vision_aspect_ratio).removeprefix("anyres_max_"))
        resample = read_resample(folder, config, Image.Resampling.BICUBIC)
        self.normalization = read_normalization(folder, config)
        red, green, blue = (int(mean * 255) for mean in self.normalization.mean)
        self.preprocess = AnyResolution(resolutions, tile, self._side, most, resample, (red, green, blue))
        self.rows = self.columns = self._side

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image; without tiles, for one among several."""
        sizes = {"image_sizes": torch.tensor([pixels.sizes[:2]], device=self.device)}
        if pixels.tiles is None:
            return {"pixel_values": self.to_input([pixels.values])[None], "batch_num_images": [2], **sizes}
        return {"pixel_values": self.to_input([pixels.values, *pixels.tiles])[None], **sizes}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image. A token of the thumbnail saw as much as several of the tiles: it is shared out. The
        token at the end of a row saw nothing."""
        rows, columns = pixels.geometry.rows, pixels.geometry.columns
        base = self._side**2
        if pixels.tiles is None or len(pixels.sizes) == 3:  # among several, or very long: the thumbnail is the grid
            ends = 1 if pixels.tiles is None else pixels.sizes[2]
            cells = np.append(np.arange(base), np.full(ends, -1))
            return Expansion(self.image_token * len(cells), Placement.one_to_one(cells))
        lines = np.full((rows, columns + 1), -1)
        lines[:, :-1] = np.arange(rows * columns).reshape(rows, columns)
        cells = np.concatenate([np.full(base, -1), lines.reshape(-1)])
        thumbnail = Placement.shared_out((self._side, self._side), rows, columns)
        return Expansion(self.image_token * len(cells), thumbnail + Placement.one_to_one(cells))


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, OnevisionImages, ARCHITECTURES)
