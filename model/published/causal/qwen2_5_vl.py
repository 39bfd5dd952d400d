"""Qwen2.5-VL (Bai et al. 2025): the image in its own shape, each token a square of patches (spatial merge); positions
of image tokens have a row and a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.tiles import NativeResolution
from model.published.causal.vision import Expansion, ImageTokens, Placement, tiled
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import processor_config, read_normalization, read_resample, read_side

MODEL_TYPE = "qwen2_5_vl"
ARCHITECTURES = ("Qwen2_5_VLForConditionalGeneration",)


class QwenImages(ImageTokens):
    """Merged patches row by row."""

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        config, vision = processor_config(folder), net.config.vision_config
        self._patch, self._merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self._frames = int(vision.temporal_patch_size)
        for name, own in (("patch_size", self._patch), ("merge_size", self._merge)):
            if config.get(name, own) != own:
                raise ValueError(f"{folder}: its {name} for images is not that of its vision tower, {own}")
        least = read_side(folder, config, "size", "shortest_edge", 56 * 56)
        most = read_side(folder, config, "size", "longest_edge", 28 * 28 * 1280)
        if config.get("min_pixels") or config.get("max_pixels"):  # the older names
            given = {"size": {"least": config.get("min_pixels"), "most": config.get("max_pixels")}}
            least = read_side(folder, given, "size", "least", least)
            most = read_side(folder, given, "size", "most", most)
        resample = read_resample(folder, config, Image.Resampling.BICUBIC)
        self.preprocess = NativeResolution(self._patch * self._merge, least, most, resample)
        self.normalization = read_normalization(folder, config)
        self.rows = self.columns = max(1, self.preprocess.size // self.preprocess.unit)

    @property
    def placeholder(self) -> str:
        """What the chat template writes for an image."""
        return self.image_token

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image: patches, those of a token side by side."""
        (values,) = self.to_input([pixels.values])
        rows, columns, merge, patch = *self._tokens(pixels), self._merge, self._patch
        parts = values.view(3, rows, merge, patch, columns, merge, patch).permute(1, 4, 2, 5, 0, 3, 6)
        # A still image is a film of equal frames.
        frames = parts[:, :, :, :, :, None].expand(*parts.shape[:5], self._frames, patch, patch)
        return {
            "pixel_values": frames.reshape(rows * columns * merge**2, -1),
            "image_grid_thw": self._grid(pixels),
        }

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image."""
        rows, columns = self._tokens(pixels)
        return Expansion(self.image_token * (rows * columns), Placement.one_to_one(tiled(1, 1, rows, columns)))

    def context(self, ids: Tensor, pixels: Any) -> dict[str, Any]:
        """What else the model takes with a prompt's ``ids`` ``[1, tokens]``: which are images, and their grids."""
        image_id = self.net.config.image_token_id
        grids = torch.cat([self._grid(one) for one in pixels])
        return {"mm_token_type_ids": (ids == image_id).int(), "image_grid_thw": grids}

    def next_position(self, tokens: int) -> int:
        """An image takes as many positions as its longer side has tokens."""
        return tokens + int(self.net.model.rope_deltas.item())

    def _tokens(self, pixels: Pixels) -> tuple[int, int]:
        return pixels.geometry.rows, pixels.geometry.columns

    def _grid(self, pixels: Pixels) -> Tensor:
        rows, columns = self._tokens(pixels)
        return torch.tensor([[1, rows * self._merge, columns * self._merge]], device=self.device)


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, QwenImages, ARCHITECTURES)
