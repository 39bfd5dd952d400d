"""SigLIP (Zhai et al. 2023): images and texts in one space, each pair with a probability of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.family import TokenizedText
from model.published.checkpoint import LoadRequest, load_checkpoint
from model.published.dual_encoder.base import DualEncoder, Features

MODEL_TYPE = "siglip"
ARCHITECTURES = ("SiglipModel",)


class Siglip(DualEncoder):
    """`SiglipModel`. A patch's feature is what the pooling head would make of that patch alone; each pair has its own
    probability, the sigmoid that the model was trained with."""

    def image_features(self, pixels: Tensor) -> Features:
        """Whole ``[images, dim]`` and patches ``[images, patches, dim]`` of pixels ``[images, 3, height, width]``."""
        tower = self.net.vision_model
        result = tower(pixel_values=pixels)
        parts = self._pooled_alone(tower.head, result.last_hidden_state)
        return Features(F.normalize(result.pooler_output, dim=-1), F.normalize(parts, dim=-1))

    @staticmethod
    def _pooled_alone(head: Any, patches: Tensor) -> Tensor:
        """Attention over a single key returns its value, whatever the query."""
        attention = head.attention
        dim = patches.shape[-1]
        values = F.linear(patches, attention.in_proj_weight[2 * dim :], attention.in_proj_bias[2 * dim :])
        pooled = attention.out_proj(values)
        alone: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return alone

    def text_features(self, texts: Sequence[TokenizedText]) -> Features:
        """Whole ``[texts, dim]`` and tokens ``[texts, tokens, dim]``."""
        # Always padded to full length, on the tokenizer's side, unmasked, and read from the last place: that is how the
        # model was trained.
        hub, length = self.tokenizer.hub, self.info.max_tokens
        fill = [[hub.pad_token_id] * (length - len(text.ids)) for text in texts]
        left = hub.padding_side == "left"
        rows = [rest + text.ids if left else text.ids + rest for text, rest in zip(texts, fill, strict=True)]
        tower = self.net.text_model
        result = tower(input_ids=torch.tensor(rows, device=self.device))
        parts = tower.head(result.last_hidden_state)
        if left:  # a text's tokens come first in what is given back
            parts = torch.stack([part.roll(-len(rest), 0) for part, rest in zip(parts, fill, strict=True)])
        return Features(F.normalize(result.pooler_output, dim=-1), F.normalize(parts, dim=-1))

    def logits(self, cosines: Tensor) -> Tensor:
        """``[texts]``: cosines ``[texts]`` times the learned scale, plus the learned bias."""
        scaled: Tensor = cosines * self.net.logit_scale.float().exp() + self.net.logit_bias.float()
        return scaled

    def fits(self, logits: Tensor) -> list[float | None]:
        """The sigmoid of each of the logits ``[texts]``."""
        return list(logits.sigmoid().tolist())


def load(request: LoadRequest) -> Siglip:
    """Load a `SiglipModel`. Raises ValueError or OSError for a folder that holds no such model."""
    from transformers import SiglipModel

    return Siglip(load_checkpoint(SiglipModel, request))
