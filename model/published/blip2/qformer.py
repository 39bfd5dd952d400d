"""The Q-Former: a few learned queries ask the image, and what they bring back is all that a language model sees of it.

A layer is self-attention (among the queries, and the instruction's tokens where it reads one), cross-attention to the
image in every second layer, and feed-forward (Li et al., "BLIP-2", ICML 2023, https://arxiv.org/abs/2301.12597, section
3.1; Dai et al., "InstructBLIP", NeurIPS 2023, https://arxiv.org/abs/2305.06500, section 2.3). Weights are those of
transformers; the cross-attention is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.cross_attention import CrossAttention, KeysValues, project_all
from model.published.blip.text_stack import CrossBlock
from model.rows import Source


class QFormer(nn.Module):
    """The layers of a `Blip2QFormerModel` or `InstructBlipQFormerModel`. Takes the model over: it no longer works by
    itself."""

    def __init__(self, theirs: Any, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.layers = theirs.encoder.layer
        self.cross_blocks = [layer for layer in self.layers if layer.has_cross_attention]
        for layer in self.cross_blocks:
            layer.crossattention = CrossBlock(layer.crossattention)

    @property
    def cross_layers(self) -> list[CrossAttention]:
        """The cross-attention of each layer that has one."""
        return [layer.crossattention.attention for layer in self.cross_blocks]

    @property
    def cross_indices(self) -> tuple[int, ...]:
        """Which layers have cross-attention."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.has_cross_attention)

    def project(self, states: Tensor) -> list[KeysValues]:
        """Keys and values for all layers with cross-attention from image states ``[images, keys, dim]``."""
        return project_all(self.cross_layers, states.to(self.cross_layers[0].wk.weight.dtype))

    def forward(
        self, embedded: Tensor, sources: Sequence[Source], *, mask: Tensor | None = None, need_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``embedded`` ``[rows, queries + tokens, dim]``, the rows of ``sources`` in their order; ``mask`` bool
        ``[rows, queries + tokens]``: False for padding.

        Returns the states of the queries ``[rows, queries, dim]`` and, on request, where they looked ``[rows, queries,
        keys]``: the mean over heads and layers.
        """
        bias = None
        if mask is not None:
            lowest = torch.finfo(embedded.dtype).min
            bias = torch.zeros_like(mask, dtype=embedded.dtype).masked_fill(~mask, lowest)[:, None, None, :]
        states = embedded
        maps: list[Tensor] = []
        crossed = 0
        for layer in self.layers:
            attended = layer.attention(states, attention_mask=bias)
            asking, text = attended[:, : self.queries], attended[:, self.queries :]
            if layer.has_cross_attention:
                asking, found = layer.crossattention(asking, sources, crossed, need_map=need_map)
                crossed += 1
                if found is not None:
                    maps.append(found)
            states = layer.feed_forward_chunk_query(asking)
            if text.shape[1]:
                states = torch.cat([states, layer.feed_forward_chunk(text)], 1)
        looked = torch.stack(maps).mean(0) if maps else None
        return states[:, : self.queries], looked
