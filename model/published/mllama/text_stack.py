"""Llama 3.2 Vision's language model: Llama's own layers, and cross-attention with grouped heads and norms between them.

Weights, self-attention and feed-forward are those of transformers; the cross-attention is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from model.published.cross_reader import CrossBlock, Crossed, CrossStack, causal_bias, with_cross_attention
from model.rows import Source


class MllamaStack(CrossStack):
    """The layers of a `MllamaTextModel`. Takes the model over: it no longer works by itself."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        config = theirs.config
        self.embed, self.norm, self.rotary = theirs.embed_tokens, theirs.norm, theirs.rotary_emb
        self.cross_layers = tuple(config.cross_attention_layers)
        self.layers = theirs.layers
        for index in self.cross_layers:
            layer = self.layers[index]
            own = layer.cross_attn
            attention = with_cross_attention(own, config.hidden_size, own.num_key_value_heads)
            attention.q_norm, attention.k_norm = own.q_norm, own.k_norm
            block = CrossBlock(attention, layer, layer.cross_attn_attn_gate, layer.cross_attn_mlp_gate)
            self.layers[index] = block
        self.blocks = [self.layers[index] for index in self.cross_layers]

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
        turned, bias = self.rotary(states, position_ids=places), causal_bias(states, start)
        maps: list[Tensor] = []
        crossed = 0
        for layer in self.layers:
            if isinstance(layer, CrossBlock):
                states, found = layer(states, sources, crossed, seen=seen, silent=True, need_map=need_maps)
                crossed += 1
                if found is not None:
                    maps.append(found)
            else:
                states = layer(
                    states,
                    attention_mask=bias,
                    position_ids=places,
                    past_key_values=cache,
                    use_cache=True,
                    position_embeddings=turned,
                )
        return Crossed(self.norm(states), maps)
