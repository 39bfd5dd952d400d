"""BLIP's text layers with our cross-attention inside: the question encoder, the answer and caption decoder.

A layer is self-attention, cross-attention and feed-forward, each with its residual and a norm behind it (Li et al.,
"BLIP", ICML 2022, https://arxiv.org/abs/2201.12086, section 3.1). The weights, embeddings, self-attention and
feed-forward are those of transformers; its hand-written cross-attention goes, and `CrossAttention` takes its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model.cross_attention import CrossAttention, KeysValues, project_all
from model.rows import Source, attend

_JOIN_FROM = 256  # keys


@dataclass(slots=True)
class Stacked:
    """What the stack gives: ``states`` ``[rows, tokens, dim]`` and, on request, for each layer the head means of
    cross-attention ``[rows, tokens, keys]`` and of self-attention ``[rows, tokens, tokens]``."""

    states: Tensor
    maps: list[Tensor] = field(default_factory=list)
    self_maps: list[Tensor] = field(default_factory=list)


class CrossBlock(nn.Module):
    """`CrossAttention` with the residual and norm that BLIP puts around it."""

    def __init__(self, block: Any) -> None:
        """``block``: the `BlipTextAttention` (or the Q-Former's of BLIP-2) whose weights and place it takes."""
        super().__init__()
        theirs = block.self if hasattr(block, "self") else block.attention
        attention = CrossAttention(
            theirs.query.in_features,
            theirs.key.in_features,
            theirs.num_attention_heads,
            head_dim=theirs.attention_head_size,
        )
        attention.wq, attention.wk, attention.wv = theirs.query, theirs.key, theirs.value
        attention.o = block.output.dense
        self.attention = attention
        self.norm = block.output.LayerNorm

    def forward(
        self, states: Tensor, sources: Sequence[Source], layer: int, *, need_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``states`` ``[rows, tokens, dim]``, the rows of ``sources`` in their order."""
        crossed, found = attend(self.attention, states, sources, layer, need_map=need_map)
        return self.norm(crossed + states), found


class TextStack(nn.Module):
    """A `BlipTextModel` whose cross-attention is ours. Takes the model over: it no longer works by itself."""

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.embeddings = text.embeddings
        self.layers = text.encoder.layer
        for layer in self.layers:
            layer.crossattention = CrossBlock(layer.crossattention)

    @property
    def cross_layers(self) -> list[CrossAttention]:
        """The cross-attention of each layer."""
        return [layer.crossattention.attention for layer in self.layers]

    def project(self, states: Tensor) -> list[KeysValues]:
        """Keys and values for all layers from states ``[sources, keys, dim]``.

        In one product where the keys are many, as of an image; of a question's few, joining the weights would cost
        more than the products do.
        """
        if states.shape[0] * states.shape[1] < _JOIN_FROM:
            return [layer.project(states) for layer in self.cross_layers]
        return project_all(self.cross_layers, states)

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Embeddings ``[rows, tokens, dim]`` of ids whose first stands at position ``start``."""
        embedded: Tensor = self.embeddings(input_ids=ids, past_key_values_length=start)
        return embedded

    def forward(
        self,
        embedded: Tensor,
        sources: Sequence[Source],
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Any = None,
        need_maps: bool = False,
    ) -> Stacked:
        """``embedded`` ``[rows, tokens, dim]``; ``mask`` bool ``[rows, tokens]``: False for padding.

        ``causal``: a token sees itself and those before it. ``cache`` (a transformers `DynamicCache`) holds the keys
        and values of earlier tokens and takes the new ones.
        """
        bias = _bias(embedded, mask, causal)
        result = Stacked(embedded)
        states = embedded
        for index, layer in enumerate(self.layers):
            states, own = layer.attention(states, attention_mask=bias, past_key_values=cache)
            states, found = layer.crossattention(states, sources, index, need_map=need_maps)
            states = layer.feed_forward_chunk(states)
            if found is not None:
                result.maps.append(found)
                result.self_maps.append(own.mean(1))
        result.states = states
        return result


def _bias(embedded: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """The additive self-attention mask, broadcastable to ``[rows, heads, tokens, tokens]``; None where all is seen."""
    tokens = embedded.shape[1]
    causal = causal and tokens > 1
    if mask is None and not causal:
        return None
    allowed = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=embedded.device)
    if causal:
        allowed = allowed.tril()
    if mask is not None:
        allowed = allowed & mask[:, None, None, :]
    lowest = torch.finfo(embedded.dtype).min  # a padding row sees nothing; -inf would make it NaN
    return torch.zeros(allowed.shape, dtype=embedded.dtype, device=embedded.device).masked_fill(~allowed, lowest)
