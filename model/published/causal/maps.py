"""Where the words of a causal vision-language model looked: rows of question and answer over the image's columns.

Answers are written without maps. One more pass over the question and the finished answer keeps queries and
log-sum-exps, and from these come the rows, never the square of all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.family import TokenizedText
from model.grid_maps import place_on_grid
from model.interface import Map, MapRequest
from model.published.attention import AttentionPass
from model.published.causal.items import Asked, CausalImage
from model.published.causal.stack import Prefix, TextStack

Rows = NDArray[np.float32]

SINK = 10.0
"""An image token is a sink where it gets, before anything is asked, at least so many times what a token gets on
average. Most of what such tokens get says nothing of the question (Kang et al., "See What You Are Told: Visual
Attention Sink in Large Multimodal Models", ICLR 2025)."""


@torch.no_grad()
def looked_at(stack: TextStack, asked: Sequence[Asked]) -> dict[int, Rows]:
    """For each text, attention to the image ``[question and answer tokens, image tokens]``: the mean over the heads and
    layers that it asks for. The row of an answer's token is that of the token before it, which chose it. One pass over
    all that ask for the same maps; ids of what was asked are the keys."""
    found: dict[int, Rows] = {}
    groups: dict[MapRequest, list[Asked]] = {}
    for one in asked:
        assert one.maps is not None  # noqa: S101 - these are the ones that ask for maps
        groups.setdefault(one.maps, []).append(one)
    for maps, members in groups.items():
        members.sort(key=lambda one: id(one.row.source))
        fed = [[*one.row.prompt, *one.row.detokenizer.ids][: len(one.row.prompt) + _fed(one)] for one in members]
        longest = max(map(len, fed))
        if longest:
            rows = [one.row for one in members]
            _, running = stack.states(stack.feed(rows, fed), keep=maps.layers or ())
            start = 0
            for source in running.sources:
                part = slice(start, start + source.total_rows)
                start = part.stop
                prefix = rows[part.start].source
                assert isinstance(prefix, Prefix)  # noqa: S101 - rows of this stack are made so
                mean = mean_map(running, maps, prefix, part)
                for one, own, ids in zip(members[part], mean, fed[part], strict=True):
                    found[id(one)] = own[longest - len(ids) :].cpu().numpy()
        for one in members:
            if one.looked is not None:  # the question was read with the image
                before = one.looked.cpu().numpy()
                found[id(one)] = np.concatenate([before, found[id(one)]]) if id(one) in found else before
    return found


def _fed(one: Asked) -> int:
    """How many of the answer's tokens are fed for the maps: the last one chooses nothing that is shown."""
    return max(0, len(one.row.detokenizer.ids) - 1)


def mean_map(running: AttentionPass, maps: MapRequest, prefix: Prefix, rows: slice) -> Tensor:
    """The mean over the layers and heads of ``maps`` of the kept tokens' attention to the image, ``[rows, tokens, image
    tokens]``, float32."""
    layers = maps.layers or ()
    total: Tensor | None = None
    for layer in layers:
        found = running.maps(layer, prefix.layers[layer].keys, prefix.columns, rows, maps.heads)
        total = found if total is None else total + found
    assert total is not None  # noqa: S101 - maps have layers
    return total.float() / len(layers)


def on_grid(looked: Rows, image: CausalImage) -> list[Map]:
    """Attention to image tokens ``[n, image tokens]`` as maps, on the grid of each image; ``elsewhere`` is all that the
    grids lack to 1."""
    geometry = image.geometry
    grids = (geometry, *geometry.others)
    sizes = [grid.rows * grid.columns for grid in grids]
    cells = image.placement.on_grid(looked, sum(sizes))
    maps = place_on_grid(cells[:, : sizes[0]], geometry, total=1.0)
    if not geometry.others:
        return maps
    elsewhere = np.maximum(0.0, 1.0 - cells.sum(1, dtype=np.float64))
    parts = np.split(cells, np.cumsum(sizes)[:-1], axis=1)
    shaped = [part.reshape(-1, grid.rows, grid.columns) for part, grid in zip(parts, grids, strict=True)]
    return [
        Map(one.values, float(rest), tuple(part[i] for part in shaped[1:]))
        for i, (one, rest) in enumerate(zip(maps, elsewhere, strict=True))
    ]


def sink_share(looked: Rows, tokens: TokenizedText, answer: Rows) -> float | None:
    """How much of an answer's attention to the image ``[image tokens]`` lies on sinks (`SINK`), from 0 to 1.

    ``looked`` are the rows of the question's ``tokens``: those before its first word stand behind the image and before
    anything that is asked, so they look as they would whatever is asked. None where there are none.
    """
    asked = next((i for i, span in enumerate(tokens.spans) if span is not None), 0)
    total = float(answer.sum())
    if not asked or total <= 0.0:
        return None
    before = looked[:asked].mean(0)
    return float(answer[before >= SINK * before.mean()].sum()) / total
