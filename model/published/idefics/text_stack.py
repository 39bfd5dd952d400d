"""The language model of Idefics: Llama's layers, and a layer of gated cross-attention before every few of them.

Source: Alayrac et al., "Flamingo", NeurIPS 2022, https://arxiv.org/abs/2204.14198, section 3.2. Weights, self-attention
and feed-forward are those of transformers; the cross-attention is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from model.published.cross_reader import CrossBlock, Crossed, CrossStack, causal_bias, with_cross_attention
from model.rows import Source


class IdeficsStack(CrossStack):
    """The text layers of an `IdeficsModel`. Takes them over: the model no longer works by itself."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.embed, self.norm, self.layers = theirs.embed_tokens, theirs.norm, theirs.layers
        self._interval = theirs.cross_layer_interval
        self.cross_layers = tuple(i * self._interval for i in range(len(theirs.gated_cross_attn_layers)))
        blocks = [_block(layer) for layer in theirs.gated_cross_attn_layers]
        theirs.gated_cross_attn_layers = nn.ModuleList(blocks)
        self.blocks = blocks

    def run(
        self,
        ids: Tensor,
        sources: Sequence[Source],
        cache: DynamicCache,
        start: int,
        *,
        seen: Tensor | None = None,
        need_maps: bool = False,
    ) -> Crossed:
        """See `CrossStack.run`."""
        states = self.embed(ids)
        places = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        bias = causal_bias(states, start)
        maps: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            place, rest = divmod(index, self._interval)
            if not rest and place < len(self.blocks):
                states, found = self.blocks[place](states, sources, place, seen=seen, need_map=need_maps)
                if found is not None:
                    maps.append(found)
            states = layer(states, attention_mask=bias, position_ids=places, past_key_values=cache)
        return Crossed(self.norm(states), maps)


def _block(layer: Any) -> CrossBlock:
    own = layer.cross_attn
    attention = with_cross_attention(own, own.k_proj.in_features)
    if own.qk_layer_norms:
        attention.q_norm, attention.k_norm = own.q_layer_norm, own.k_layer_norm
    return CrossBlock(attention, layer, layer.alpha_cross_attn, layer.alpha_dense)
