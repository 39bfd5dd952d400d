"""The perceiver resampler of Flamingo: a fixed number of learned latents ask an image of any number of patches.

Latents ask patches and latents together (Alayrac et al., "Flamingo", NeurIPS 2022, https://arxiv.org/abs/2204.14198,
section 3.1). Weights are those of transformers; the attention, written out there, is ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.cross_attention import CrossAttention


class ResamplerBlock(nn.Module):
    """Attention and feed-forward of one block, each with its residual."""

    def __init__(self, attention: Any, mlp: Any) -> None:
        """The `IdeficsPerceiverAttention` and the feed-forward whose weights it takes."""
        super().__init__()
        dim = attention.embed_dim
        self.attention = CrossAttention(dim, dim, attention.n_heads, bias=False, head_dim=attention.head_dim)
        self.attention.wq, self.attention.wk = attention.q_proj, attention.k_proj
        self.attention.wv, self.attention.o = attention.v_proj, attention.output_proj
        if attention.qk_layer_norms:
            self.attention.q_norm, self.attention.k_norm = attention.q_layer_norm, attention.k_layer_norm
        self.image_norm, self.latent_norm, self.mlp = attention.context_layer_norm, attention.latents_layer_norm, mlp

    def forward(self, states: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """``latents`` ``[images, latents, dim]`` after they asked ``states`` ``[images, keys, dim]``, and where they
        looked: ``[images, latents, keys + latents]``."""
        asking = self.latent_norm(latents)
        asked = torch.cat([self.image_norm(states), asking], 1)
        found, looked = self.attention(asking, asked, need_map=True)
        latents = latents + found
        return latents + self.mlp(latents), looked


class Resampler(nn.Module):
    """An `IdeficsPerceiverResampler`. Takes it over: it no longer works by itself."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.latents, self.norm = theirs.latents, theirs.layer_norm
        self.blocks = nn.ModuleList(ResamplerBlock(attention, mlp) for attention, mlp in theirs.blocks)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The latents' states ``[images, latents, dim]`` and where they looked in the image ``[images, latents,
        keys]``: the mean over heads and blocks. What a latent took from latents is what its row lacks to 1."""
        latents = self.latents.expand(len(states), -1, -1)
        maps: list[Tensor] = []
        for block in self.blocks:
            latents, looked = block(states, latents)
            maps.append(looked[..., : states.shape[1]])
        return self.norm(latents), torch.stack(maps).mean(0)
