"""PaliGemma (Beyer et al. 2024): the image's tokens see the question, so only the image's features can be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.vision import Expansion, ImageTokens, Placement, tiled
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import read_processor

MODEL_TYPE = "paligemma"
ARCHITECTURES = ("PaliGemmaForConditionalGeneration",)


class PaliGemmaImages(ImageTokens):
    """Patches of a square image, row by row. A question stands between the image and a new line."""

    template = (
        "{% for message in messages %}"
        "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}<bos>"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{% endfor %}{{ '\\n' }}"
    )
    describe = "caption en"
    prefix_sees_question = True

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        vision = net.config.vision_config
        self.preprocess, self.normalization = read_processor(folder, vision.image_size, vision.patch_size)
        self.rows, self.columns = self.preprocess.rows, self.preprocess.columns
        self._placement = Placement.one_to_one(tiled(1, 1, self.rows, self.columns))

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""
        return {"pixel_values": self.to_input([pixels.values])}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image."""
        return Expansion(self.image_token * (self.rows * self.columns), self._placement)

    def context(self, ids: Tensor, pixels: Any) -> dict[str, Any]:
        """What else the model takes with a prompt's ``ids`` ``[1, tokens]``: all of it sees all of it."""
        return {"token_type_ids": torch.zeros_like(ids)}

    def next_position(self, tokens: int) -> int:
        """Positions begin at 1."""
        return tokens + 1


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, PaliGemmaImages, ARCHITECTURES)
