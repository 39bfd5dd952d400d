"""Gemma 3 (Gemma team 2025): one square image of 256 tokens, which attend to each other in both directions; most text
layers look back no further than a window."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from model.interface import Pixels, Preprocess
from model.published.causal.loading import load_causal
from model.published.causal.tiles import PanAndScan
from model.published.causal.vision import Expansion, ImageTokens, Placement, tiled
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import processor_config, read_processor

MODEL_TYPE = "gemma3"
ARCHITECTURES = ("Gemma3ForConditionalGeneration",)


_MOST_CROPS = 16


class Gemma3Images(ImageTokens):
    """The whole image, each token the mean of a square of patches; behind it crops of a long image, where the folder
    asks for them (pan and scan)."""

    after = "<end_of_image>\n\n"

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        config, vision = processor_config(folder), net.config.vision_config
        resize, self.normalization = read_processor(folder, vision.image_size, vision.patch_size)
        self.rows = self.columns = self._side = math.isqrt(net.config.mm_tokens_per_image)
        self.preprocess: Preprocess = replace(resize, rows=self.rows, columns=self.columns)
        if config.get("do_pan_and_scan"):
            least, most = config.get("pan_and_scan_min_crop_size", 256), config.get("pan_and_scan_max_num_crops", 4)
            ratio = config.get("pan_and_scan_min_ratio_to_activate", 1.2)
            known = _is_count(least) and _is_count(most) and _is_ratio(ratio)
            if not known or not 2 <= most <= min(_MOST_CROPS, least):  # of smaller crops the last may be empty
                raise ValueError(
                    f"{folder}: its settings of pan and scan, {least!r}, {most!r}, {ratio!r}, make no sense: 2 to "
                    f"{_MOST_CROPS} crops, each of at least as many pixels a side"
                )
            tile, resample = vision.image_size, resize.resample
            self.preprocess = PanAndScan(tile, self._side, least, most, float(ratio), resample)

    @property
    def placeholder(self) -> str:
        """What the chat template writes for an image."""
        return "<start_of_image>"

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""
        crops = [] if pixels.tiles is None else list(pixels.tiles)
        return {"pixel_values": self.to_input([pixels.values, *crops])}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image. A token of the whole saw as much as several of the crops': it is shared out."""
        side, each = self._side, self._side**2
        image = f"\n\n<start_of_image>{self.image_token * each}{self.after}"
        rows, columns = pixels.sizes or (0, 0)
        if not rows:
            return Expansion(image, Placement.one_to_one(tiled(1, 1, side, side)))
        crops = " ".join([image] * (rows * columns))
        text = f"Here is the original image {image} and here are some crops to help you see better {crops}"
        cells = np.concatenate([np.full(each, -1), tiled(rows, columns, side, side)])
        whole = Placement.shared_out((side, side), rows * side, columns * side)
        return Expansion(text, whole + Placement.one_to_one(cells))

    def context(self, ids: Tensor, pixels: Any) -> dict[str, Any]:
        """What else the model takes with a prompt's ``ids`` ``[1, tokens]``: which are images."""
        return {"token_type_ids": (ids == self.net.config.image_token_id).long()}


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_ratio(value: object) -> bool:
    return isinstance(value, int | float) and 1 <= value <= 100


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, Gemma3Images, ARCHITECTURES)
