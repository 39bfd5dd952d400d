"""The compact model's maps, one function per kind: rows over the keys for every token, and for the answer.

`model.grid_maps.place_on_grid` lays these rows on the patch grid. A word's map is the mean of its tokens' maps; the
reader of a response makes it.

For all three kinds a map's values and its ``elsewhere`` sum to 1. What that whole is differs:

* ``raw``: the attention of the pass that answered, averaged over heads (or some of them) and layers. ``elsewhere`` is
  the share of the null key. The answer is read from the first token's row, so its map is that token's. A match is
  read through the text's own tokens, so its map is their mean.
* ``rollout``: how much of a token's final state came from each key, followed through the question's self-attention.
  ``elsewhere`` also holds what came from the question itself: half after one layer, a quarter after two, and so on.
  The answer's map is half what the first token gathers from all tokens, half its own map of the last layer. A match's
  is again the mean.
* ``gradient``: what counted for the answer, as the geometric mean of two factors. The first is how much a stronger look
  at a key, at the cost of all others, would raise the odds of the answer: per head, and only where it is positive. The
  second is how much was looked there. For the answer's map, the first is summed over all tokens before the positive
  part is taken, so that opposed tokens cancel out. The second is summed over the text's own tokens, without the first
  and the last, which open and close it and look about. The product has no natural unit, so each map is divided by its
  sum. A map with nothing to raise is all 0, with ``elsewhere`` 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from model.attribution import head_maps, record, rollout, score_gradient
from model.compact.fusion import Fusion
from model.compact.network import CompactNet, Fused, ImageState, mean_over, own_tokens

Images = Sequence[tuple[ImageState, int]]
"""As `CompactNet.fuse` takes them: states, and how many rows ask each image in them."""


class MapRows(NamedTuple):
    """``every`` ``[rows, tokens + 1, keys]``, the answer's behind the tokens'; what a row of keys lacks to 1 is
    elsewhere."""

    every: Tensor

    @classmethod
    def of(cls, tokens: Tensor, answer: Tensor) -> MapRows:
        """From ``tokens`` ``[rows, tokens, keys]`` and ``answer`` ``[rows, keys]``."""
        return cls(torch.cat([tokens, answer[:, None]], 1))

    @property
    def tokens(self) -> Tensor:
        """``[rows, tokens, keys]``."""
        return self.every[:, :-1]

    @property
    def answer(self) -> Tensor:
        """``[rows, keys]``."""
        return self.every[:, -1]


def raw_rows(maps: Sequence[Tensor], layers: Sequence[int]) -> MapRows:
    """``maps``: those of each layer ``[rows, tokens, keys]``."""
    mean = torch.stack([maps[layer] for layer in layers]).mean(0)
    return MapRows.of(mean, mean[:, 0])


def head_rows(
    net: CompactNet, states: Tensor, mask: Tensor, images: Images, layers: Sequence[int], heads: Sequence[int]
) -> tuple[Fused, MapRows]:
    """Raw maps of some ``heads`` of the ``layers`` alone, from a forward pass over text features ``states`` ``[rows,
    tokens, dim]``."""
    with record(net, [net.fusion.layers[layer].cross for layer in layers]) as calls:  # type: ignore[misc]
        fused = net.fuse_states(states, mask, images)
    maps = []
    for layer, found in zip(layers, calls, strict=True):
        parts = []
        for (state, rows), call in zip(images, found, strict=True):
            kv = state.layers[layer]
            looks = head_maps(call.queries.detach(), kv, mask=net.weigh(None, kv.keys.shape[2], states[:1]))
            parts.append(looks[:, list(heads)].mean(1).reshape(len(state.meaning) * rows, -1, looks.shape[-1]))
        maps.append(torch.cat(parts))
    return Fused(fused.vector.detach(), fused.fit.detach(), []), raw_rows(maps, range(len(maps)))


def match_rows(rows: MapRows, mask: Tensor) -> MapRows:
    """Raw or rollout maps of texts that were matched, from those of answers; ``mask`` ``[rows, tokens]``."""
    return MapRows.of(rows.tokens, mean_over(rows.tokens, own_tokens(mask)))


@contextmanager
def keep_self_maps(fusion: Fusion, mask: Tensor) -> Iterator[list[Tensor]]:
    """Keep what `rollout_rows` needs besides the maps, from the pass made while the context is open: the head-mean
    self-attention ``[rows, tokens, tokens]`` of each fusion layer, and last of the gathering layer."""
    kept: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, arguments: kept.append(layer.self_map(arguments[0], mask)))
        for layer in (*fusion.layers, fusion.gather)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def rollout_rows(self_maps: Sequence[Tensor], maps: Sequence[Tensor], layers: Sequence[int]) -> MapRows:
    """``maps``: those of each layer ``[rows, tokens, keys]``; ``self_maps``: see `keep_self_maps`."""
    chosen = [found if index in layers else None for index, found in enumerate(maps)]
    *within, gathering = self_maps
    tokens = rollout(within, chosen)
    gathered, read = 0.5 * (tokens[:, 0] + (gathering[:, :1] @ tokens)[:, 0]), chosen[-1]
    return MapRows.of(tokens, gathered if read is None else 0.5 * (gathered + read[:, 0]))


def gradient_rows(
    net: CompactNet,
    states: Tensor,
    mask: Tensor,
    images: Images,
    layers: Sequence[int],
    score: Callable[[Fused], Tensor],
) -> tuple[Fused, MapRows]:
    """A forward and a backward pass over text features ``states`` ``[rows, tokens, dim]``. ``score`` returns one number
    per row, ``[rows]``, from that row of the fusion's result alone.

    The backward pass goes through the fusion only: text features, keys and values are constants. The answer depends on
    the last layer's attention in two ways, and both count: through the attended values, and through the meaning read
    under its map (`CompactNet._read`). A match depends on it in the second way only.
    """
    with record(net, [net.fusion.layers[layer].cross for layer in layers]) as calls:  # type: ignore[misc]
        fused = net.fuse_states(states.detach().requires_grad_(), mask, images, need_maps=True)
        attended = [call.attended for found in calls for call in found]
        *gradients, read = torch.autograd.grad(
            score(fused).sum(), [*attended, fused.maps[-1]], allow_unused=True, materialize_grads=True
        )
    remaining, last = iter(gradients), len(net.fusion.layers) - 1
    tokens, answer = torch.zeros_like(read), torch.zeros_like(read[:, 0])
    own = own_tokens(mask)
    for layer, found in zip(layers, calls, strict=True):
        looks, start = fused.maps[layer].detach(), 0
        for (state, rows), call in zip(images, found, strict=True):
            part = slice(start, start + len(state.meaning) * rows)
            start = part.stop
            wide = read[part].reshape(len(state.meaning), -1, read.shape[-1]) if layer == last else None
            kv = state.layers[layer]
            change = score_gradient(
                call.queries.detach(),
                next(remaining),
                kv,
                mask=net.weigh(None, kv.keys.shape[2], states[:1]),
                map_gradient=wide,
            )  # [images, heads, rows * tokens, keys]
            by_row = change.view(*change.shape[:2], rows, -1, change.shape[-1]).transpose(1, 2)
            change = by_row.flatten(0, 1)  # [images * rows, heads, tokens, keys]
            tokens[part] += change.relu().mean(1) * looks[part]
            answer[part] += change.sum(2).relu().mean(1) * (looks[part] * own[part, :, None]).sum(1)
    return Fused(fused.vector.detach(), fused.fit.detach(), []), MapRows.of(
        shares(tokens.sqrt()), shares(answer.sqrt())
    )


def shares(x: Tensor) -> Tensor:
    """Rows ``[.., keys]`` divided by their sums; a row without any stays 0."""
    total = x.sum(-1, keepdim=True)
    return torch.where(total > 0, x / total.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
