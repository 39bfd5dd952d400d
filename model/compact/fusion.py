"""The stack of fusion layers: question tokens attend to each other, then to the image's patches, then pass a
feed-forward network; and a text layer behind them, in which the first token gathers what all have seen.

Self-attention and feed-forward are those of a text layer, so that a fusion layer can start from trained weights; our
`CrossAttention` stands between them with its own norm, as in BLIP (Li et al. 2022). With its output projection at zero,
as training starts, the stack is exactly the text encoder it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.compact.text import TextLayer
from model.cross_attention import CrossAttention, KeysValues, project_all


class ImageRows(NamedTuple):
    """The keys and values of ``images`` images for every layer, and how many rows of the batch ask each of them.

    The rows of one image lie side by side: they become one long row of queries, and its keys are never repeated.
    """

    layers: Sequence[KeysValues]  # each [images, heads, keys, head_dim]
    images: int
    rows: int  # a image


class FusionLayer(TextLayer):
    """Self-attention, cross-attention, feed-forward, each with its residual."""

    def __init__(
        self, *, dim: int, dim_kv: int, num_heads: int, cross_heads: int, cross_dim: int, dropout: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross = CrossAttention(dim, dim_kv, cross_heads, head_dim=cross_dim // cross_heads)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        images: Sequence[ImageRows],
        layer: int,
        *,
        need_map: bool = False,
        patch_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``x`` ``[rows, tokens, dim]``, ``mask`` bool ``[rows, tokens]``; the rows of ``images`` in their order.

        ``patch_mask`` bool ``[rows, keys]``: the keys that a row may attend; or a number each, added to their scores.
        Returns the new states and, on request, the map ``[rows, tokens, keys]``.
        """
        x = self.attend(x, x, mask)
        crossed, maps = self._look(self.cross_norm(x), images, layer, need_map, patch_mask)
        return self.feed_forward(x + self.dropout(crossed)), maps

    def map_only(
        self, x: Tensor, mask: Tensor, images: Sequence[ImageRows], layer: int, patch_mask: Tensor | None
    ) -> Tensor:
        """The map that `forward` gives, without what it would cost to go on from it."""
        _, found = self._look(self.cross_norm(self.attend(x, x, mask)), images, layer, True, patch_mask)
        assert found is not None  # noqa: S101
        return found

    def _look(
        self, x: Tensor, images: Sequence[ImageRows], layer: int, need_map: bool, patch_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Cross-attention by image: ``[images * rows, tokens, dim]`` seen as ``[images, rows * tokens, dim]``."""
        outputs, maps, start = [], [], 0
        for group in images:
            rows = slice(start, start + group.images * group.rows)
            part, start = x[rows], rows.stop
            wide = part.reshape(group.images, group.rows * part.shape[1], part.shape[2])
            mask = None if patch_mask is None else _by_query(patch_mask[rows], group.images, part.shape[1], x.dtype)
            output, found = self.cross(wide, group.layers[layer], mask=mask, need_map=need_map)
            outputs.append(output.reshape(part.shape))
            if found is not None:
                maps.append(found.reshape(part.shape[0], part.shape[1], -1))
        return torch.cat(outputs), torch.cat(maps) if maps else None


class GatherLayer(TextLayer):
    """A text layer for the first token alone, which looks at all."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` ``[rows, tokens, dim]``, ``mask`` bool ``[rows, tokens]`` -> ``[rows, dim]``."""
        return self.feed_forward(self.attend(x[:, :1], x, mask))[:, 0]


def _by_query(allowed: Tensor, images: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """Bool or numbers ``[images * rows, keys]`` as what is added to the scores of ``tokens`` queries a row,
    ``[images, 1, rows * tokens, keys]``."""
    bias = allowed.to(dtype)
    if allowed.dtype == torch.bool:
        bias = torch.zeros_like(bias).masked_fill_(~allowed, -torch.inf)
    return bias.view(images, -1, bias.shape[-1]).repeat_interleave(tokens, 1)[:, None]


class Fusion(nn.Module):
    """The stack: ``num_layers`` fusion layers over ``dim_kv``-wide patch features, then the layer that gathers. Every
    token's look at the image so has a part in the answer, that of the last fusion layer too."""

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
        self.gather = GatherLayer(dim, num_heads, dropout=dropout)

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
        """The first token's final state ``[rows, dim]``, the map ``[rows, tokens, keys]`` of the last fusion layer (the
        answer is read from both) and, with ``need_maps``, that of each layer."""
        maps: list[Tensor] = []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x, found = layer(x, mask, images, index, need_map=need_maps or index == last, patch_mask=patch_mask)
            if found is not None:
                maps.append(found)
        x = self.gather(x, mask)
        return x, maps[-1], maps if need_maps else []

    def look(self, x: Tensor, mask: Tensor, images: Sequence[ImageRows], patch_mask: Tensor | None = None) -> Tensor:
        """The map of the last fusion layer alone ``[rows, tokens, keys]``, at less cost than `forward`."""
        *before, last = self.layers
        for index, layer in enumerate(before):
            x, _ = layer(x, mask, images, index, patch_mask=patch_mask)
        found: Tensor = last.map_only(x, mask, images, len(before), patch_mask)  # type: ignore[operator]
        return found
