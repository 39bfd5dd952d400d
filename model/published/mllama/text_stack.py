"""Llama 3.2 Vision's language model: Llama's own layers, and cross-attention with grouped heads and norms between them.

Weights, self-attention and feed-forward are those of transformers; the cross-attention is ours.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from model.published.prompted.cross_reader import CrossBlock, CrossStack, with_cross_attention


class MllamaStack(CrossStack):
    """The layers of a `MllamaTextModel`. Takes the model over: it no longer works by itself."""

    silent = True

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        config = theirs.config
        self.embed, self.norm, self.rotary = theirs.embed_tokens, theirs.norm, theirs.rotary_emb
        self.cross_layers = tuple(config.cross_attention_layers)
        layers = theirs.layers
        self.blocks = []
        for index in self.cross_layers:
            layer = layers[index]
            own = layer.cross_attn
            attention = with_cross_attention(own, config.hidden_size, own.num_key_value_heads)
            attention.q_norm, attention.k_norm = own.q_norm, own.k_norm
            layers[index] = CrossBlock(attention, layer, layer.cross_attn_attn_gate, layer.cross_attn_mlp_gate)
            self.blocks.append(layers[index])
        self.steps = layers

    def _options(self, states: Tensor, places: Tensor) -> dict[str, Any]:
        return {"use_cache": True, "position_embeddings": self.rotary(states, position_ids=places)}
