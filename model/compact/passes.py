"""The pass that answers texts and makes their maps: by ONNX Runtime, CUDA graphs or PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from model.compact.answers import log_odds, logits_of
from model.compact.cuda_graphs import FuseGraphs
from model.compact.network import CompactNet, Fused
from model.compact.question_networks import Asked, Found, OnnxQuestions
from model.compact.texts import Texts
from model.compact.token_maps import (
    gradient_rows,
    head_rows,
    keep_self_maps,
    match_rows,
    raw_rows,
    rollout_rows,
)
from model.family import TokenizedText
from model.interface import MapRequest


class Passes:
    """The ways that a model has. ``runtime`` computes questions on a CPU, ``graphs`` small batches on a GPU."""

    def __init__(
        self, net: CompactNet, texts: Texts, runtime: OnnxQuestions | None = None, graphs: FuseGraphs | None = None
    ) -> None:
        self.net = net
        self.texts = texts
        self.runtime = runtime
        self.graphs = graphs

    @torch.no_grad()
    def __call__(self, texts: Sequence[TokenizedText], asked: Sequence[Asked], maps: MapRequest | None) -> Found:
        """Run ``texts``, the rows of ``asked`` in their order. ``maps``: with kind and layers filled in."""
        kind, layers, heads = (None, (), None) if maps is None else (maps.kind, maps.layers or (), maps.heads)
        images = [(one.state, one.rows) for one in asked]
        if self.graphs is not None and kind in (None, "raw") and not heads and not any(text.chinese for text in texts):
            ids, mask = self.texts.ids(texts)
            found = self._with_logits(self.graphs(ids, mask, images, need_maps=kind == "raw"), asked)
        else:
            states, mask = self.texts.states(texts)
            if self.runtime is not None and kind in (None, "raw", "gradient") and not heads:
                chosen = layers if kind == "gradient" else None
                found = self.runtime.fuse(states, mask, asked, need_maps=kind == "raw", gradient_of=chosen)
            else:
                found = self._by_torch(states, mask, asked, kind, layers, heads)
        if kind == "raw" and not heads:
            found = found._replace(rows=raw_rows(found.fused.maps, layers))
        if found.rows is not None and kind != "gradient" and asked[0].choices is None:
            found = found._replace(rows=match_rows(found.rows, mask))
        return found

    def _by_torch(
        self,
        states: Tensor,
        mask: Tensor,
        asked: Sequence[Asked],
        kind: str | None,
        layers: Sequence[int],
        heads: Sequence[int] | None,
    ) -> Found:
        """From text features ``states`` ``[rows, tokens, dim]`` on. Raw maps of all heads are left to be made."""
        images, rows = [(one.state, one.rows) for one in asked], None
        if kind == "gradient":
            fused, rows = gradient_rows(self.net, states, mask, images, layers, lambda fused: _odds(fused, asked))
        elif heads:
            fused, rows = head_rows(self.net, states, mask, images, layers, heads)
        elif kind == "rollout":
            with keep_self_maps(self.net.fusion, mask) as self_maps:
                fused = self.net.fuse_states(states, mask, images, need_maps=True)
            rows = rollout_rows(self_maps, fused.maps, layers)
        else:
            fused = self.net.fuse_states(states, mask, images, need_maps=kind == "raw")
        return self._with_logits(fused, asked)._replace(rows=rows)

    def _with_logits(self, fused: Fused, asked: Sequence[Asked]) -> Found:
        """With the logits of what was asked of each image."""
        parts = zip(asked, _split(fused.vector, asked), strict=True)
        logits = [
            None if one.choices is None else logits_of(part, one.choices, one.temperatures) for one, part in parts
        ]
        return Found(fused, logits)


def _odds(fused: Fused, asked: Sequence[Asked]) -> Tensor:
    """`log_odds` of all rows."""
    vectors, fits = (_split(x, asked) for x in (fused.vector, fused.fit))
    each = zip(asked, vectors, fits, strict=True)
    return torch.cat([log_odds(Fused(v, f, []), one.choices, one.temperatures, one.raised) for one, v, f in each])


def _split(x: Tensor, asked: Sequence[Asked]) -> list[Tensor]:
    """The rows of each image."""
    ends = list(accumulate(one.rows for one in asked))
    return [x[start:end] for start, end in pairwise([0, *ends])]
