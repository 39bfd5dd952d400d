"""Cross-attention for the CPU, where no gradient is needed.

Eager attention over a whole batch writes and reads ``[B, H, Tq, Tk]`` three times, which is far larger than the caches.
Here one small scratch of scores lives through the whole call, and every step writes into it or straight into the
result. Output and map together then cost about what a fused output alone costs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.kernels.inputs import AttentionResult, accumulator_dtype, split_mask

SCRATCH_ELEMENTS = 1 << 18
"""Scores held at once: 1 MiB of float32. Less costs more calls, more falls out of the caches (measured)."""


def cross_attention_blocked(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float, need_map: bool, need_lse: bool
) -> AttentionResult:
    """The same as the reference, without its large intermediates. Raises RuntimeError where a gradient is needed."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, mask)):
        raise RuntimeError("the blocked kernel has no gradient; use kernel='auto' or 'reference', or torch.no_grad()")
    key_mask, bias = split_mask(mask, q, k)
    dtype = accumulator_dtype(q)
    if key_mask is not None:
        bias = torch.zeros_like(key_mask, dtype=dtype).masked_fill_(~key_mask, -torch.inf)[:, None, None, :]
    Tq = q.shape[2]
    rows = max(1, SCRATCH_ELEMENTS // (q.shape[1] * k.shape[2]))
    if rows >= Tq:
        return _attend(q, k, v, bias, scale, need_map, need_lse)
    rows = math.ceil(Tq / math.ceil(Tq / rows))  # parts of about the same size
    parts = []
    for start in range(0, Tq, rows):
        chunk = slice(start, start + rows)
        part = bias[:, :, chunk] if bias is not None and bias.shape[2] > 1 else bias
        parts.append(_attend(q[:, :, chunk], k, v, part, scale, need_map, need_lse))
    return AttentionResult(
        torch.cat([part.output for part in parts], dim=2),
        torch.cat([part.map for part in parts if part.map is not None], dim=1) if need_map else None,
        torch.cat([part.lse for part in parts if part.lse is not None], dim=2) if need_lse else None,
    )


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, need_map: bool, need_lse: bool
) -> AttentionResult:
    """One scratch of scores for all images in turn. Every view is made before the loop: small ones cost as much as a
    small product."""
    dtype = accumulator_dtype(q)
    B, H, Tq, d = q.shape
    Hkv, Tk = k.shape[1], k.shape[2]
    given = q.dtype
    if given != dtype:
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    output = q.new_empty(B, H, Tq, d, dtype=dtype)
    map_ = q.new_empty(B, Tq, Tk, dtype=dtype) if need_map else None
    lse = q.new_empty(B, H, Tq, dtype=dtype) if need_lse else None
    scores = q.new_empty(H, Tq, Tk, dtype=dtype)
    grouped = (Hkv, H // Hkv * Tq)  # the heads of a group are more rows for the same keys
    scores_by_key_head = scores.view(*grouped, Tk)
    outputs = output.view(B, *grouped, d).unbind()
    maps = None if map_ is None else map_.unbind()
    queries = (q * scale).reshape(B, *grouped, d).unbind()
    dead = None
    if bias is not None:
        bias = bias.to(dtype).expand(B, -1, -1, -1)
        dead = (bias == -torch.inf).all(dim=-1, keepdim=True)
        dead = dead if bool(dead.any()) else None
    for b, (keys, values) in enumerate(zip(k.transpose(2, 3).unbind(), v.unbind(), strict=True)):
        torch.bmm(queries[b], keys, out=scores_by_key_head)
        if bias is not None:
            scores += bias[b]
        if lse is not None:
            torch.logsumexp(scores, dim=-1, out=lse[b])
        torch.softmax(scores, dim=-1, out=scores)
        if dead is not None:
            scores.masked_fill_(dead[b], 0.0)
        if maps is not None:
            torch.mean(scores, 0, out=maps[b])
        torch.bmm(scores_by_key_head, values, out=outputs[b])
    return AttentionResult(output if given == dtype else output.to(given), map_, lse)
