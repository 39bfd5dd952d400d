"""ViLT's layers: self-attention over the question's tokens and the image's patches together.

A layer is norm, self-attention, norm, feed-forward, each half with its residual (Kim et al., "ViLT", ICML 2021,
https://arxiv.org/abs/2102.03334, section 3.1). Weights are those of transformers; its attention is written out there.
Here only the question's rows are asked for a map, so the square of all patches is never made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.kernels import cross_attention


@dataclass(slots=True)
class Streamed:
    """``states`` ``[rows, keys, dim]`` after the last layer and, on request, for each layer the head mean of attention
    ``[rows, asking, keys]``, of the first ``asking`` positions."""

    states: Tensor
    maps: list[Tensor] = field(default_factory=list)


class StreamAttention(nn.Module):
    """Self-attention with maps of some rows; has the modules that `model.attribution.record` watches."""

    def __init__(self, theirs: Any) -> None:
        """``theirs``: the `ViltAttention` whose weights it takes."""
        super().__init__()
        own = theirs.attention
        self.num_heads = self.num_kv_heads = own.num_attention_heads
        self.queries, self.keys, self.values = own.query, own.key, own.value
        self.output = theirs.output.dense

    def forward(self, states: Tensor, mask: Tensor | None, need_maps_of: int = 0) -> tuple[Tensor, Tensor | None]:
        """``states`` ``[rows, keys, dim]``; ``mask`` bool ``[rows, keys]``, True where a key may be attended.

        Returns the attended output ``[rows, keys, dim]`` and the map ``[rows, need_maps_of, keys]`` of the first
        positions, None of none.
        """
        q, k, v = (self._split(part(states)) for part in (self.queries, self.keys, self.values))
        asking, rest = q[:, :, :need_maps_of], q[:, :, need_maps_of:]
        found, parts = None, []
        if need_maps_of:
            result = cross_attention(asking, k, v, mask=mask, need_map=True)
            found = result.map
            parts.append(result.output)
        if rest.shape[2]:
            allowed = None if mask is None else mask[:, None, None, :]
            parts.append(F.scaled_dot_product_attention(rest, k, v, attn_mask=allowed))
        attended = torch.cat(parts, 2).transpose(1, 2).flatten(2)
        return self.output(attended), found

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)


class Stream(nn.Module):
    """The layers of a `ViltModel`. Takes them over: the model no longer works by itself."""

    def __init__(self, vilt: Any) -> None:
        super().__init__()
        self.layers = vilt.encoder.layer
        for layer in self.layers:
            layer.attention = StreamAttention(layer.attention)

    @property
    def attentions(self) -> list[StreamAttention]:
        """The attention of each layer."""
        return [layer.attention for layer in self.layers]

    def forward(self, states: Tensor, mask: Tensor | None, *, need_maps_of: int = 0) -> Streamed:
        """``states`` ``[rows, keys, dim]``, embedded; ``need_maps_of``: of how many first positions maps are kept."""
        result = Streamed(states)
        for layer in self.layers:
            attended, found = layer.attention(layer.layernorm_before(states), mask, need_maps_of)
            states = states + attended
            states = layer.output(layer.intermediate(layer.layernorm_after(states)), states)
            if found is not None:
                result.maps.append(found)
        result.states = states
        return result
