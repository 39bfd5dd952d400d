"""CLIP (Radford et al. 2021): images and texts in one space."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from model.family import TokenizedText
from model.published.checkpoint import LoadRequest, load_checkpoint
from model.published.dual_encoder.base import DualEncoder, Features
from model.published.tokenizer import pad

MODEL_TYPE = "clip"
ARCHITECTURES = ("CLIPModel",)


class Clip(DualEncoder):
    """`CLIPModel`. A token's feature is the text tower's state there, through the projection that the last one takes;
    a patch's feature goes through the norm and projection that the image's does."""

    def image_features(self, pixels: Tensor) -> Features:
        """Whole ``[images, dim]`` and patches ``[images, patches, dim]`` of pixels ``[images, 3, height, width]``."""
        tower = self.net.vision_model
        states = tower.post_layernorm(tower(pixel_values=pixels).last_hidden_state)
        projected = F.normalize(self.net.visual_projection(states), dim=-1)
        return Features(projected[:, 0], projected[:, 1:])

    def text_features(self, texts: Sequence[TokenizedText]) -> Features:
        """Whole ``[texts, dim]`` and tokens ``[texts, tokens, dim]``."""
        # Padding comes behind the text, which a causal tower never looks at; it takes the first end token as the text.
        ids, _ = pad([text.ids for text in texts], self.tokenizer.hub.eos_token_id, self.device)
        result = self.net.text_model(input_ids=ids)
        whole, parts = (self.net.text_projection(x) for x in (result.pooler_output, result.last_hidden_state))
        return Features(F.normalize(whole, dim=-1), F.normalize(parts, dim=-1))

    def logits(self, cosines: Tensor) -> Tensor:
        """``[texts]``: cosines ``[texts]`` times the learned scale."""
        scaled: Tensor = cosines * self.net.logit_scale.float().exp()
        return scaled

    def fits(self, logits: Tensor) -> list[float | None]:
        """None for each of the logits ``[texts]``: CLIP was trained to compare texts only."""
        return [None] * len(logits)


def load(request: LoadRequest) -> Clip:
    """Load a `CLIPModel`. Raises ValueError or OSError for a folder that holds no such model."""
    from transformers import CLIPModel

    return Clip(load_checkpoint(CLIPModel, request))
