"""What all published families share: transformers' model and tokenizer, and pixels as its vision tower takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.family import Family, TokenizedText
from model.interface import Pixels
from model.published.preprocess import Normalization
from model.published.tokenizer import Tokenizer


class PublishedFamily(Family):
    """A published checkpoint. ``net`` is one of transformers' models, with our cross-attention inside where it has
    any."""

    net: Any
    tokenizer: Tokenizer

    def tokenize(self, text: str) -> TokenizedText:
        """The tokens of ``text`` by the checkpoint's own tokenizer."""
        return self.tokenizer(text)


def to_input(
    images: Sequence[Pixels], normalization: Normalization, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Normalised channels-first pixels ``[images, 3, height, width]``."""
    pixels = torch.from_numpy(np.stack([image.values for image in images])).to(device)
    mean = torch.tensor(normalization.mean, device=device)
    std = torch.tensor(normalization.std, device=device)
    values = (pixels.float() * normalization.scale - mean) / std
    return values.permute(0, 3, 1, 2).contiguous().to(dtype)
