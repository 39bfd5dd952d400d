"""LLaVA 1.5 (Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023): one image token a patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from model.interface import Pixels
from model.published.causal.loading import load_causal
from model.published.causal.vision import Expansion, ImageTokens, Placement
from model.published.checkpoint import LoadRequest
from model.published.family import PublishedFamily
from model.published.preprocess import read_processor

MODEL_TYPE = "llava"
ARCHITECTURES = ("LlavaForConditionalGeneration",)


class LlavaImages(ImageTokens):
    """Patches of a square image, row by row; the vision tower's class token is dropped (or is the first token)."""

    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
        "{% endfor %}ASSISTANT:"
    )

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        super().__init__(net, folder, image_token)
        vision = net.config.vision_config
        self.preprocess, self.normalization = read_processor(folder, vision.image_size, vision.patch_size)
        self.rows, self.columns = self.preprocess.rows, self.preprocess.columns
        # A class token that is not dropped comes first, and saw no single patch.
        has_class = vision.model_type in ("clip_vision_model",)
        extra = int(has_class and net.config.vision_feature_select_strategy == "full")
        cells = np.arange(-extra, self.rows * self.columns)
        self._placement = Placement.one_to_one(np.where(cells < 0, -1, cells))
        self._tokens = len(cells)

    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""
        return {"pixel_values": self.to_input([pixels.values])}

    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image."""
        return Expansion(self.image_token * self._tokens, self._placement)


def load(request: LoadRequest) -> PublishedFamily:
    """Load a folder of this family. Raises ValueError or OSError for one that is not whole."""
    return load_causal(request, LlavaImages, ARCHITECTURES)
