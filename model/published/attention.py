"""Our attention inside transformers' models: one registered function, and passes that share keys or keep maps.

Whatever goes through transformers' `AttentionInterface` can run with ``attn_implementation="crosslook"`` (`install`).
Outside of a pass it is `scaled_dot_product_attention`. Inside ``with AttentionPass(...) as running:`` it also

* attends to keys and values that are not in the model's cache (``sources``): those of an image's prefix, made once and
  never copied for the rows that ask about the image. The two parts, the prefix and the row's own tokens, are joined by
  their log-sum-exps, so the result is that of one softmax over both;
* keeps queries and log-sum-exps ``(q, lse)`` of chosen layers and rows. `AttentionPass.maps` makes from them the wanted
  rows over the wanted columns, by `model.kernels.attention_map`. The square of all scores is never held.

transformers hands the mask to the function as well; that needs `AttentionMaskInterface`, else it would be None, and the
causal mask lost. Source of the joining: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from model.kernels import attention_map, cross_attention
from model.rows import Source

NAME = "crosslook"

_running: ContextVar[AttentionPass | None] = ContextVar("running", default=None)


@dataclass(frozen=True, slots=True)
class Kept:
    """What one layer computed: ``queries`` ``[batch, heads, n, head_dim]`` of the wanted tokens, ``lse`` ``[batch,
    heads, n]`` over all their keys, the ``scale`` of the scores, and how far back the layer looks (``window``)."""

    queries: Tensor
    lse: Tensor
    scale: float
    window: int | None = None


@dataclass(eq=False, slots=True)
class AttentionPass:
    """One pass of a model whose attention is ours, as a context: what happens inside of it is that pass.

    ``keep``: layers whose queries and log-sum-exps are kept, of the tokens in ``tokens``. ``sources``: what the rows of
    the batch attend to beside their own tokens, before them in position; rows of one source stand side by side.
    ``lengths`` int ``[rows]``: with sources, how many of each row's own keys are real, from the last one back (the
    batch is padded on the left).
    """

    keep: Collection[int] = ()
    tokens: slice = field(default_factory=lambda: slice(None))
    sources: Sequence[Source] = ()
    lengths: Tensor | None = None
    kept: dict[int, Kept] = field(default_factory=dict)
    _token: Token[AttentionPass | None] | None = None

    def __enter__(self) -> Self:
        self._token = _running.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _running.reset(self._token)

    def maps(
        self,
        layer: int,
        keys: Tensor,
        columns: slice | Tensor,
        rows: slice = slice(None),
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """Head-mean probabilities ``[batch, n, columns]`` of a layer's kept tokens over ``columns`` of ``keys``
        ``[batch or 1, key heads, keys, head_dim]``, for the ``rows`` of the batch; of ``heads`` alone (None: all).

        Several rows over one image's keys (batch 1) go side by side. The sum over all keys of a row is 1.
        """
        kept = self.kept[layer]
        queries, lse = kept.queries[rows], kept.lse[rows]
        if heads is not None:
            group = queries.shape[1] // keys.shape[1]
            queries, lse = queries[:, list(heads)], lse[:, list(heads)]
            keys = keys[:, [head // group for head in heads]]
        batch, _, n, _ = queries.shape
        count = keys.shape[0]
        mask = None
        if kept.window is not None and self.sources:
            mask = self._beyond(rows, n, keys.shape[2], kept.window, queries)
            mask = None if mask is None else _wide(mask.expand(batch, 1, n, -1), count)
        found = attention_map(
            _wide(queries, count), keys, _wide(lse[..., None], count)[..., 0], columns, mask=mask, scale=kept.scale
        )
        return found.reshape(batch, n, -1)

    def attend(
        self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, window: int | None
    ) -> Tensor:
        """``q`` ``[batch, heads, tokens, head_dim]`` over its own keys and the sources': ``[batch, tokens, heads,
        head_dim]``."""
        layer = module.layer_idx
        if not self.sources:
            if layer in self.keep:
                asked, bias = q[:, :, self.tokens], _bias(mask, q, k)[:, :, self.tokens]
                lse = cross_attention(asked, k, v, mask=bias, scale=scale, need_lse=True).lse
                self._keep(layer, asked, lse, scale, window)
            attended: Tensor = sdpa_attention_forward(module, q, k, v, mask, scaling=scale)[0]
            return attended
        own = cross_attention(q, k, v, mask=self._own_mask(q, k, window), scale=scale, need_lse=True)
        outputs, sums, start = [], [], 0
        for source in self.sources:
            rows = slice(start, start + source.total_rows)
            start = rows.stop
            keys, values = source.layers[layer]
            part = q[rows]
            beyond = None if window is None else self._beyond(rows, q.shape[2], keys.shape[2], window, q)
            if beyond is not None:
                beyond = _wide(beyond, source.count)
            found = cross_attention(_wide(part, source.count), keys, values, mask=beyond, scale=scale, need_lse=True)
            outputs.append(_narrow(found.output, part.shape[0], q.shape[2]))
            assert found.lse is not None  # noqa: S101 - it was asked for
            sums.append(_narrow(found.lse[..., None], part.shape[0], q.shape[2])[..., 0])
        assert own.lse is not None  # noqa: S101 - it was asked for
        before = torch.cat(sums)
        lse = torch.logaddexp(own.lse, before)
        shares = (own.lse - lse).exp()[..., None], (before - lse).exp()[..., None]
        joined = (own.output * shares[0] + torch.cat(outputs) * shares[1]).to(q.dtype)
        if layer in self.keep:
            self._keep(layer, q[:, :, self.tokens], lse[:, :, self.tokens], scale, window)
        return joined.transpose(1, 2).contiguous()

    def _keep(self, layer: int, q: Tensor, lse: Tensor | None, scale: float, window: int | None) -> None:
        assert lse is not None  # noqa: S101 - it was asked for
        self.kept[layer] = Kept(q, lse, scale, window)

    def _own_mask(self, q: Tensor, k: Tensor, window: int | None) -> Tensor | None:
        """What is added to the scores of the rows' own keys, ``[batch, 1, tokens, keys]``: each token attends to the
        real ones up to itself."""
        tokens, keys = q.shape[2], k.shape[2]
        if tokens == 1 and window is None and (self.lengths is None or bool((self.lengths == keys).all())):
            return None
        place = torch.arange(keys, device=q.device)
        asking = place[keys - tokens :, None]
        allowed = (place <= asking)[None]
        if window is not None:
            allowed = allowed & (asking - place < window)[None]
        if self.lengths is not None:
            allowed = allowed & (place >= keys - self.lengths[:, None])[:, None]
        return _added(allowed[:, None], q.dtype)

    def _beyond(self, rows: slice, tokens: int, keys: int, window: int, like: Tensor) -> Tensor | None:
        """What is added to the scores of a source's ``keys``, ``[rows, 1, tokens, keys]``, where a layer looks back no
        further than ``window`` tokens; None where all are within it."""
        if self.lengths is None:
            return None
        # The kept tokens, like the pass's, are the last ones of each row.
        last = keys + self.lengths[rows] - 1
        asking = last[:, None] - torch.arange(tokens - 1, -1, -1, device=like.device)
        if int(asking.max()) < window:
            return None
        allowed = asking[..., None] - torch.arange(keys, device=like.device) < window
        return _added(allowed[:, None], like.dtype)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls: ``[batch, heads, tokens, head_dim]`` -> ``[batch, tokens, heads,
    head_dim]``. Raises ValueError for scores that are capped (Gemma 2), which no kernel here computes."""
    if options.get("softcap") is not None:
        raise ValueError("attention scores that are capped (attn_logit_softcapping) are not computed here")
    running = _running.get()
    if running is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal
        )
        return output, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return running.attend(module, query, key, value, attention_mask, scale, sliding_window), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def install(stack: Any) -> None:
    """Let a model of transformers, or a part of one with a configuration of its own, compute attention through ours."""
    stack.set_attn_implementation(NAME)


def _wide(x: Tensor, count: int) -> Tensor:
    """``[count * rows, heads, n, dim]`` -> ``[count, heads, rows * n, dim]``: rows of one image side by side."""
    if x.shape[0] == count:
        return x
    rows, heads, n, dim = x.shape
    return x.view(count, rows // count, heads, n, dim).transpose(1, 2).reshape(count, heads, -1, dim)


def _narrow(x: Tensor, rows: int, n: int) -> Tensor:
    """`_wide` taken back: ``[rows, heads, n, dim]``."""
    if x.shape[0] == rows:
        return x
    count, heads, _, dim = x.shape
    return x.view(count, heads, rows // count, n, dim).transpose(1, 2).reshape(rows, heads, n, dim)


def _added(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool (True: may be attended) as what is added to the scores, 0 or -inf, of the same shape."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def _bias(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """The mask of a whole pass, as transformers gave it, as what is added to the scores, ``[batch or 1, 1, tokens,
    keys]``; None stands for a causal one."""
    if mask is None:
        place = torch.arange(k.shape[2], device=q.device)
        return _added((place <= place[k.shape[2] - q.shape[2] :, None])[None, None], q.dtype)
    return _added(mask, q.dtype) if mask.dtype == torch.bool else mask
