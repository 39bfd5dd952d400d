"""Cross-attention for the CPU, where no gradient is needed.

Eager attention over a whole batch writes and reads ``[B, H, Tq, Tk]`` three times, which is far larger than the caches.
Here one small scratch of scores lives through the whole call, and every step writes into it or straight into the
result. Output and map together then cost about what a fused output alone costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.kernels.inputs import AttentionResult, accumulator_dtype, split_mask

SCRATCH_ELEMENTS = 1 << 19
"""Scores held at once: 2 MiB of float32, about what a core's caches keep close."""


def cross_attention_blocked(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float, need_map: bool, need_lse: bool
) -> AttentionResult:
    """The same as the reference, without its large intermediates. Raises RuntimeError where a gradient is needed."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, mask)):
        raise RuntimeError("the blocked kernel has no gradient; use kernel='auto' or 'reference', or torch.no_grad()")
    dtype = accumulator_dtype(q)
    B, H, Tq, d = q.shape
    Hkv, Tk = k.shape[1], k.shape[2]
    group = H // Hkv
    key_mask, bias = split_mask(mask, q, k)
    if key_mask is not None:
        bias = torch.zeros_like(key_mask, dtype=dtype).masked_fill_(~key_mask, -torch.inf)[:, None, None, :]
    dead = None
    if bias is not None:
        bias = bias.to(dtype)
        dead = (bias == -torch.inf).all(dim=-1, keepdim=True)
        dead = dead if bool(dead.any()) else None

    output = q.new_empty(B, Tq, H, d).transpose(1, 2)  # the layout that merging the heads wants
    map_ = q.new_empty(B, Tq, Tk, dtype=dtype) if need_map else None
    lse = q.new_empty(B, H, Tq, dtype=dtype) if need_lse else None
    rows = max(1, min(Tq, SCRATCH_ELEMENTS // (H * Tk)))
    scratch = q.new_empty(H * rows * Tk, dtype=dtype)
    for b in range(B):
        keys, values = k[b].to(dtype).transpose(1, 2), v[b].to(dtype)
        for start in range(0, Tq, rows):
            chunk = slice(start, min(start + rows, Tq))
            n = chunk.stop - chunk.start
            scores = scratch[: H * n * Tk].view(H, n, Tk)
            by_key_head = scores.view(Hkv, group * n, Tk)  # the heads of a group are more rows for the same keys
            queries = q[b, :, chunk].to(dtype).reshape(Hkv, group * n, d)
            torch.baddbmm(scores[:1, :1, :1], queries, keys, beta=0, alpha=scale, out=by_key_head)
            if bias is not None:
                scores += _part(bias, b, chunk)
            if lse is not None:
                torch.logsumexp(scores, dim=-1, out=lse[b, :, chunk])
            torch.softmax(scores, dim=-1, out=scores)
            if dead is not None:
                scores.masked_fill_(_part(dead, b, chunk), 0.0)
            if map_ is not None:
                torch.mean(scores, dim=0, out=map_[b, chunk])
            output[b, :, chunk] = torch.bmm(by_key_head, values).view(H, n, d)
    return AttentionResult(output, map_, lse)


def _part(x: Tensor, b: int, rows: slice) -> Tensor:
    """The part of a broadcastable ``[B|1, H|1, Tq|1, n]`` tensor that belongs to one image and some rows."""
    x = x[b if x.shape[0] > 1 else 0]
    return x[:, rows] if x.shape[1] > 1 else x
