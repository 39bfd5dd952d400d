"""How well a text fits an image, for the default model: the text, against what its own words look at in the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Matching(nn.Module):
    """Texts and places of images as vectors of one space ``match_dim``, compared by their cosine.

    A text is compared with the mean of the image's places, weighted by how much the text's own words look at each
    (`CompactNet.fuse_states`). So where a map points affects how well the text fits. It is learned last
    (`model.training.match_fit`); until then each projection only keeps the first ``match_dim`` numbers.
    """

    def __init__(self, dim: int, coarse_channels: int, match_dim: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # what is drawn after it does not depend on it
            self.place = nn.Linear(coarse_channels, match_dim, bias=False)
            self.text = nn.Linear(dim, match_dim)
        nn.init.eye_(self.place.weight)
        nn.init.eye_(self.text.weight)
        nn.init.zeros_(self.text.bias)
        self.scale = nn.Parameter(torch.full((1,), 10.0))
        self.offset = nn.Parameter(torch.zeros(1))

    def project_places(self, coarse: Tensor) -> Tensor:
        """Coarse vision features ``[images, channels, h, w]`` -> ``[images, h * w, match_dim]``."""
        features = coarse.permute(0, 2, 3, 1).flatten(1, 2)
        places: Tensor = self.place(F.layer_norm(features, features.shape[-1:]))
        return places

    def cosine(self, asked: Tensor, looked_at: Tensor) -> Tensor:
        """``asked`` ``[.., dim]``, the mean of a text's features, and ``looked_at`` ``[.., match_dim]``, the weighed
        sum of places -> ``[..]``; 0 where nothing was looked at."""
        return (F.normalize(self.text(asked), dim=-1) * F.normalize(looked_at, dim=-1)).sum(-1)

    def forward(self, asked: Tensor, looked_at: Tensor) -> Tensor:
        """The log odds ``[..]`` that the text fits, if half of all texts do. Arguments as in `cosine`."""
        fit: Tensor = self.scale * self.cosine(asked, looked_at) + self.offset
        return fit
