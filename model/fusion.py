"""The stack of fusion layers: question tokens attend to each other, then to the image's patches, then pass a
feed-forward network.

Self-attention and feed-forward are those of a post-norm BERT layer (Devlin et al. 2019), so that a layer can start from
pretrained text weights; our `CrossAttention` stands between them with its own norm, as in BLIP (Li et al. 2022). With
its output projection at zero, as training starts, the stack is exactly the text encoder it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.cross_attention import CrossAttention, KeysValues, project_all


class ImageRows(NamedTuple):
    """The keys and values of ``images`` images for every layer, and how many rows of the batch ask each of them.

    The rows of one image lie side by side: they become one long row of queries, and its keys are never repeated.
    """

    layers: Sequence[KeysValues]  # each [images, heads, keys, head_dim]
    images: int
    rows: int  # a image


class FusionLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each with its residual."""

    def __init__(
        self, *, dim: int, dim_kv: int, num_heads: int, cross_heads: int, cross_dim: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        self.self_norm = nn.LayerNorm(dim, eps=1e-12)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross = CrossAttention(dim, dim_kv, cross_heads, head_dim=cross_dim // cross_heads)
        self.expand, self.contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        images: Sequence[ImageRows],
        layer: int,
        *,
        need_map: bool = False,
        first_only: bool = False,
        patch_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``x`` ``[rows, tokens, dim]``, ``mask`` bool ``[rows, tokens]``; the rows of ``images`` in their order.

        ``first_only`` computes the first token's row alone (the others still serve as keys). ``patch_mask`` bool
        ``[images, keys]`` goes with a single entry in ``images``. Returns the new states and, on request, the map
        ``[rows, tokens, keys]``.
        """
        asking = x[:, :1] if first_only else x
        x = self.self_norm(asking + self.dropout(self._attend(asking, x, mask)))
        crossed, maps = self._look(self.cross_norm(x), images, layer, need_map, patch_mask)
        x = x + self.dropout(crossed)
        hidden = self.contract(F.gelu(self.expand(x)))
        return self.feed_forward_norm(x + self.dropout(hidden)), maps

    def self_map(self, x: Tensor, mask: Tensor) -> Tensor:
        """The head mean ``[rows, tokens, tokens]`` of the self-attention that `forward` does on the same ``x``."""
        queries, keys = self._split(self.query(x)), self._split(self.key(x))
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        return scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1).mean(1)

    def _attend(self, asking: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        queries, keys, values = self._split(self.query(asking)), self._split(self.key(x)), self._split(self.value(x))
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None, :])
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        """``[rows, tokens, dim]`` -> ``[rows, heads, tokens, head_dim]``."""
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def _look(
        self, x: Tensor, images: Sequence[ImageRows], layer: int, need_map: bool, patch_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Cross-attention by image: ``[images * rows, tokens, dim]`` seen as ``[images, rows * tokens, dim]``."""
        outputs, maps, start = [], [], 0
        for group in images:
            part = x[start : start + group.images * group.rows]
            start += group.images * group.rows
            wide = part.reshape(group.images, group.rows * part.shape[1], part.shape[2])
            output, found = self.cross(wide, group.layers[layer], mask=patch_mask, need_map=need_map)
            outputs.append(output.reshape(part.shape))
            if found is not None:
                maps.append(found.reshape(part.shape[0], part.shape[1], -1))
        return torch.cat(outputs), torch.cat(maps) if maps else None


class Fusion(nn.Module):
    """The stack: ``num_layers`` fusion layers over ``dim_kv``-wide patch features."""

    def __init__(
        self,
        num_layers: int,
        *,
        dim: int,
        dim_kv: int,
        num_heads: int,
        cross_heads: int,
        cross_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            FusionLayer(
                dim=dim,
                dim_kv=dim_kv,
                num_heads=num_heads,
                cross_heads=cross_heads,
                cross_dim=cross_dim,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )

    def project(self, patches: Tensor) -> list[KeysValues]:
        """Keys and values of all layers from patch features ``[images, keys, dim_kv]``, in one product."""
        return project_all([layer.cross for layer in self.layers], patches)  # type: ignore[misc]

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        images: Sequence[ImageRows],
        *,
        need_maps: bool = False,
        patch_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The first token's final state ``[rows, dim]``, its last map ``[rows, keys]`` (the answer is read from it)
        and, with ``need_maps``, the map of each layer ``[rows, tokens, keys]``.

        Without ``need_maps`` the last layer runs for the first token alone, which is all that an answer needs.
        """
        maps: list[Tensor] = []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x, found = layer(
                x,
                mask,
                images,
                index,
                need_map=need_maps or index == last,
                first_only=index == last and not need_maps,
                patch_mask=patch_mask,
            )
            if found is not None:
                maps.append(found)
        return x[:, 0], maps[-1][:, 0], maps if need_maps else []
