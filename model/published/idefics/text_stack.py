"""The language model of Idefics: Llama's layers, and a layer of gated cross-attention before every few of them.

Source: Alayrac et al., "Flamingo", NeurIPS 2022, https://arxiv.org/abs/2204.14198, section 3.2. Weights, self-attention
and feed-forward are those of transformers; the cross-attention is ours.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from model.published.prompted.cross_reader import CrossBlock, CrossStack, with_cross_attention


class IdeficsStack(CrossStack):
    """The text layers of an `IdeficsModel`. Takes them over: the model no longer works by itself."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.embed, self.norm = theirs.embed_tokens, theirs.norm
        interval = theirs.cross_layer_interval
        self.cross_layers = tuple(i * interval for i in range(len(theirs.gated_cross_attn_layers)))
        self.blocks = [_block(layer) for layer in theirs.gated_cross_attn_layers]
        theirs.gated_cross_attn_layers = nn.ModuleList(self.blocks)
        before = dict(zip(self.cross_layers, self.blocks, strict=True))
        steps: list[nn.Module] = []
        for index, layer in enumerate(theirs.layers):
            steps += [before[index], layer] if index in before else [layer]
        self.steps = steps


def _block(layer: Any) -> CrossBlock:
    own = layer.cross_attn
    attention = with_cross_attention(own, own.k_proj.in_features)
    if own.qk_layer_norms:
        attention.q_norm, attention.k_norm = own.q_layer_norm, own.k_layer_norm
    return CrossBlock(attention, layer, layer.alpha_cross_attn, layer.alpha_dense)
