"""The stack of fusion layers: question tokens attend to each other, then to the image's patches, then pass a
feed-forward network. In a last text layer the first token attends to all tokens.

Self-attention and feed-forward are those of a text layer, so a fusion layer can start from trained weights. Our
`CrossAttention` stands between them with its own norm, as in BLIP (Li et al. 2022). Training starts with its output
projection at zero, where the stack equals the text encoder it came from.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from model.compact.text_encoder import TextLayer
from model.cross_attention import CrossAttention, KeysValues, project_all
from model.rows import Source, attend


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
        sources: Sequence[Source],
        layer: int,
        *,
        need_map: bool = False,
        patch_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``x`` ``[rows, tokens, dim]``, ``mask`` bool ``[rows, tokens]``; the rows of ``sources`` in their order.

        ``patch_mask`` bool ``[rows, keys]``: the keys that a row may attend; or a number each, added to their scores.
        Returns the new states and, on request, the map ``[rows, tokens, keys]``.
        """
        x = self.attend(x, x, mask)
        crossed, found = attend(self.cross, self.cross_norm(x), sources, layer, row_mask=patch_mask, need_map=need_map)
        return self.feed_forward(x + self.dropout(crossed)), found

    def map_only(
        self, x: Tensor, mask: Tensor, sources: Sequence[Source], layer: int, patch_mask: Tensor | None
    ) -> Tensor:
        """The map ``[rows, tokens, keys]`` of `forward` alone; the feed-forward is left out. Parameters as there."""
        asking = self.cross_norm(self.attend(x, x, mask))
        _, found = attend(self.cross, asking, sources, layer, row_mask=patch_mask, need_map=True)
        assert found is not None  # noqa: S101
        return found


class GatherLayer(TextLayer):
    """A text layer in which only the first token attends, to all tokens."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` ``[rows, tokens, dim]``, ``mask`` bool ``[rows, tokens]`` -> ``[rows, dim]``."""
        return self.feed_forward(self.attend(x[:, :1], x, mask))[:, 0]


class Fusion(nn.Module):
    """The stack: ``num_layers`` fusion layers over ``dim_kv``-wide patch features, then the gathering layer. So every
    token's attention to the image affects the answer, in the last fusion layer too."""

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
        sources: Sequence[Source],
        *,
        need_maps: bool = False,
        patch_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The first token's final state ``[rows, dim]``, the map ``[rows, tokens, keys]`` of the last fusion layer (the
        answer is read from both) and, with ``need_maps``, that of each layer."""
        maps: list[Tensor] = []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x, found = layer(x, mask, sources, index, need_map=need_maps or index == last, patch_mask=patch_mask)
            if found is not None:
                maps.append(found)
        x = self.gather(x, mask)
        return x, maps[-1], maps if need_maps else []

    def last_map(self, x: Tensor, mask: Tensor, sources: Sequence[Source], patch_mask: Tensor | None = None) -> Tensor:
        """The map of the last fusion layer alone ``[rows, tokens, keys]``, at less cost than `forward`."""
        *before, last = self.layers
        for index, layer in enumerate(before):
            x, _ = layer(x, mask, sources, index, patch_mask=patch_mask)
        found: Tensor = last.map_only(x, mask, sources, len(before), patch_mask)  # type: ignore[operator]
        return found
