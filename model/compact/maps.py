"""The compact model's maps by kind: what every token, and the answer, has of each key.

For all three kinds a map's values and its ``elsewhere`` sum to 1; what that whole is differs:

* ``raw``: the attention of the very pass that answered, mean over heads and layers. ``elsewhere`` is what went to the
  null key. The answer's is the first token's, from whose row the answer is read; a match's is the
  mean of the text's own tokens', through which it is read.
* ``rollout``: how much of a token's final state came from each key, followed through the question's self-attention.
  ``elsewhere`` is also what came from the question itself: half after one layer, a quarter after two, and so on. The
  answer's is half what the first token gathers of all, and half what is read through its map of the last layer; a
  match's is again the mean.
* ``gradient``: what counted for the answer: the geometric mean of how much a stronger look at a key, at the cost of all
  others, would raise the odds of the answer, and of how much was looked there. The first factor is taken head by head,
  where it is positive. For the answer's map it is summed over the tokens before, so that those that speak against each
  other cancel out; and the second over the text's own tokens: the first and the last, which open and close it, look
  about. It has no natural unit, so each map is divided by its own sum; one that nothing would raise is all 0, with
  ``elsewhere`` 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from model.attribution import record, rollout, score_gradient
from model.compact.fusion import Fusion
from model.compact.network import CompactNet, Fused, ImageState, mean_over, own_tokens

Images = Sequence[tuple[ImageState, int]]
"""As `CompactNet.fuse` takes them: states, and how many rows ask each image in them."""


class MapRows(NamedTuple):
    """``tokens`` ``[rows, tokens, keys]``, ``answer`` ``[rows, keys]``; what a row lacks to 1 is elsewhere."""

    tokens: Tensor
    answer: Tensor


def raw_rows(maps: Sequence[Tensor], layers: Sequence[int]) -> MapRows:
    """``maps``: those of each layer ``[rows, tokens, keys]``."""
    mean = torch.stack([maps[layer] for layer in layers]).mean(0)
    return MapRows(mean, mean[:, 0])


def match_rows(rows: MapRows, mask: Tensor) -> MapRows:
    """Raw or rollout maps of texts that were matched, from those of answers; ``mask`` ``[rows, tokens]``."""
    return MapRows(rows.tokens, mean_over(rows.tokens, own_tokens(mask)))


@contextmanager
def keep_self_maps(fusion: Fusion, mask: Tensor) -> Iterator[list[Tensor]]:
    """What `rollout_rows` needs besides the maps: the self-attention ``[rows, tokens, tokens]`` of each layer, head
    means, and of the layer that gathers, kept of the pass that is made while the context is open."""
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
    return MapRows(tokens, gathered if read is None else 0.5 * (gathered + read[:, 0]))


def gradient_rows(
    net: CompactNet,
    states: Tensor,
    mask: Tensor,
    images: Images,
    layers: Sequence[int],
    score: Callable[[Fused], Tensor],
) -> tuple[Fused, MapRows]:
    """The pass over text features ``states`` ``[rows, tokens, dim]``, and back. ``score`` makes one number a row
    ``[rows]``, each of what the fusion gives to this row alone.

    The way back goes through the fusion only: text features, keys and values are constants. The answer depends on the
    last layer's attention in two ways, both counted: through the attended values, and through what is read under its
    map (`CompactNet._read`); a match in the second way alone.
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
            change = score_gradient(
                call.queries.detach(), next(remaining), state.layers[layer], map_gradient=wide
            )  # [images, heads, rows * tokens, keys]
            by_row = change.view(*change.shape[:2], rows, -1, change.shape[-1]).transpose(1, 2)
            change = by_row.flatten(0, 1)  # [images * rows, heads, tokens, keys]
            tokens[part] += change.relu().mean(1) * looks[part]
            answer[part] += change.sum(2).relu().mean(1) * (looks[part] * own[part, :, None]).sum(1)
    return Fused(fused.vector.detach(), fused.fit.detach(), []), MapRows(_shares(tokens.sqrt()), _shares(answer.sqrt()))


def _shares(x: Tensor) -> Tensor:
    """Rows ``[.., keys]`` divided by their sums; a row without any stays 0."""
    total = x.sum(-1, keepdim=True)
    return torch.where(total > 0, x / total.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
