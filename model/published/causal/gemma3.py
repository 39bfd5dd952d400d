"""Gemma 3 (Gemma team 2025): one square image of 256 tokens, which attend to each other in both directions; most text
layers look back no further than a window."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.vision import Expansion, ImageTokens, Placement, tiled
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import read_processor

MODEL_TYPE = "gemma3"
ARCHITECTURES = ("Gemma3ForConditionalGeneration",)


class Gemma3Images(ImageTokens):
    """The whole image, each token the mean of a square of patches. Crops (pan and scan) are not made."""

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        vision = net.config.vision_config
        resize, self.normalization = read_processor(folder, vision.image_size, vision.patch_size)
        self.rows = self.columns = math.isqrt(net.config.mm_tokens_per_image)
        self.preprocess = replace(resize, rows=self.rows, columns=self.columns)
        self._placement = Placement.one_to_one(tiled(1, 1, self.rows, self.columns))

    after = "<end_of_image>\n\n"

    @property
    def placeholder(self) -> str:
        """What the chat template writes for an image."""
        return "<start_of_image>"

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""
        return {"pixel_values": self.to_input([pixels.values])}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image."""
        image = self.image_token * (self.rows * self.columns)
        return Expansion(f"\n\n<start_of_image>{image}{self.after}", self._placement)

    def context(self, ids: Tensor, pixels: Any) -> dict[str, Any]:
        """What else the model takes with a prompt's ``ids`` ``[1, tokens]``: which are images."""
        return {"token_type_ids": (ids == self.net.config.image_token_id).long()}


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, Gemma3Images, ARCHITECTURES)
