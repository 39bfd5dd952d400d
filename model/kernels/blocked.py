"""Cross-attention for the CPU, where no gradient is needed.

Eager attention over a whole batch writes and reads ``[B, H, Tq, Tk]`` three times, which is far larger than the caches.
Here one small scratch of scores lives through the whole call, image by image, and every step writes into it or straight
into the result. Output and map together then cost about what a fused output alone costs.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from model.kernels.inputs import AttentionResult, accumulator_dtype, split_mask

SCRATCH_ELEMENTS = 1 << 19
"""Scores held at once: 2 MiB of float32. Where all heads have more, they go by turns (measured: to cut smaller costs
more calls than the caches win)."""
SMALL_ELEMENTS = 1 << 18
"""Up to so many scores, one image goes through `attend_small`."""


class _Scratch(NamedTuple):
    """One piece of memory, seen in three ways; and what turns a sum over the heads into their mean."""

    scores: Tensor  # [key heads, group * Tq, Tk]: the heads of a group are more rows for the same keys
    by_head: Tensor  # [heads, Tq, Tk]
    by_place: Tensor  # [Tq * Tk, heads]
    weights: Tensor  # [heads], each 1 / all heads


def _scratch(key_heads: int, group: int, Tq: int, Tk: int, all_heads: int, dtype: torch.dtype) -> _Scratch:
    heads = key_heads * group
    by_head = torch.empty(heads, Tq, Tk, dtype=dtype, device="cpu")
    weights = torch.full((heads,), 1.0 / all_heads, dtype=dtype, device="cpu")
    return _Scratch(by_head.view(key_heads, group * Tq, Tk), by_head, by_head.view(heads, -1).t(), weights)


class _Small(NamedTuple):
    """What `attend_small` works with at one size: parts of a `_Scratch`, and the shape of the map."""

    scores: Tensor
    by_place: Tensor
    weights: Tensor
    map_shape: tuple[int, int, int]


@lru_cache(maxsize=8)
def _small(_thread: int, _inference: bool, dtype: torch.dtype, *shapes: torch.Size) -> _Small | None:
    """For queries, keys and values of these ``shapes``; None where they are not for `attend_small`.

    No two threads may write into the same scratch, nor may one made in inference mode be written into outside of it.
    """
    queries, keys, values = shapes
    if len(queries) != 4 or keys != values or dtype != torch.float32 or 0 in keys:
        return None
    _, H, Tq, d = queries
    Tk = keys[2]
    if queries[0] != 1 or keys != (1, H, Tk, d) or H * Tq * Tk > SMALL_ELEMENTS:
        return None
    scratch = _scratch(H, 1, Tq, Tk, H, dtype)
    return _Small(scratch.scores, scratch.by_place, scratch.weights, (1, Tq, Tk))


def attend_small(q: Tensor, k: Tensor, v: Tensor, scale: float | None, need_map: bool) -> AttentionResult | None:
    """`cross_attention_blocked` for one image with few scores and no mask; None for any other inputs.

    ``q`` ``[1, H, Tq, d]``, ``k`` and ``v`` ``[1, H, Tk, d]``, float32. At this size checks and views take as long as
    the products, so whatever depends on the sizes alone is done once, and the scratch is kept. What the map adds here
    is mostly one core fetching what is in the other's cache.
    """
    if not (q.is_cpu and k.is_cpu and v.is_cpu and q.dtype == k.dtype == v.dtype and type(q) is Tensor):
        return None
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    ):
        return None
    place = threading.get_ident(), torch.is_inference_mode_enabled()
    kept = _small(*place, q.dtype, q.shape, k.shape, v.shape)
    if kept is None:
        return None
    scores, by_place, weights, map_shape = kept
    torch.baddbmm(scores, q[0], k[0].mT, beta=0, alpha=q.shape[3] ** -0.5 if scale is None else scale, out=scores)
    torch.softmax(scores, -1, out=scores)
    output = torch.bmm(scores, v[0])[None]
    return AttentionResult(output, torch.mv(by_place, weights).view(map_shape) if need_map else None)


def cross_attention_blocked(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float, need_map: bool, need_lse: bool
) -> AttentionResult:
    """The same as the reference, without its large intermediates: ``q`` ``[B, H, Tq, d]``, ``k`` and ``v`` ``[B, Hkv,
    Tk, d]``. Raises RuntimeError where a gradient is needed, or where the tensors are not on the CPU."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, mask)):
        raise RuntimeError("the blocked kernel has no gradient; use kernel='auto' or 'reference', or torch.no_grad()")
    if not q.is_cpu:
        raise RuntimeError(f"the blocked kernel cannot run: its tensors must be on the CPU, not on {q.device}")
    given, dtype = q.dtype, accumulator_dtype(q)
    bias, dead = (None, None) if mask is None else _forbidden(mask, q, k)
    if given != dtype:
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    B, H, Tq, d = q.shape
    _, Hkv, Tk, _ = k.shape
    group = H // Hkv
    if group > 1:
        q = q.reshape(B, Hkv, group * Tq, d)
    room = max(1, SCRATCH_ELEMENTS // (group * Tq * Tk))
    together = Hkv if room >= Hkv else next(n for n in range(room, 0, -1) if Hkv % n == 0)  # key heads at once
    scores, by_head, by_place, weights = _scratch(together, group, Tq, Tk, H, dtype)
    output = q.new_empty(B, H, Tq, d)
    map_ = q.new_empty(B, Tq * Tk) if need_map else None
    lse = q.new_empty(B, H, Tq) if need_lse else None
    images = zip(q.unbind(), k.mT.unbind(), v.unbind(), output.view(B, Hkv, group * Tq, d).unbind(), strict=True)
    for b, image in enumerate(images):
        for first in range(0, Hkv, together):
            part = image if together == Hkv else (x[first : first + together] for x in image)
            queries, keys, values, out = part
            heads = slice(first * group, (first + together) * group)
            torch.baddbmm(scores, queries, keys, beta=0, alpha=scale, out=scores)
            if bias is not None:
                by_head.add_(bias[b, heads])
            if lse is not None:
                torch.logsumexp(by_head, dim=-1, out=lse[b, heads])
            torch.softmax(scores, -1, out=scores)
            if dead is not None:
                by_head.masked_fill_(dead[b, heads], 0.0)
            if map_ is not None and first == 0:
                torch.mv(by_place, weights, out=map_[b])
            elif map_ is not None:
                map_[b].addmv_(by_place, weights)
            torch.bmm(scores, values, out=out)
    return AttentionResult(
        output if given == dtype else output.to(given), None if map_ is None else map_.view(B, Tq, Tk), lse
    )


def _forbidden(mask: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor | None]:
    """What is added to the scores, ``[B, H, Tq, Tk]``, and the rows without any key, ``[B, H, Tq, 1]``, None where
    there are none."""
    key_mask, bias = split_mask(mask, q, k)
    dtype = accumulator_dtype(q)
    if key_mask is not None:
        bias = torch.zeros_like(key_mask, dtype=dtype).masked_fill_(~key_mask, -torch.inf)[:, None, None, :]
    assert bias is not None  # noqa: S101 - a mask is one or the other
    bias = bias.to(dtype)
    dead = (bias == -torch.inf).all(dim=-1, keepdim=True)
    shape = q.shape[:3]
    return bias.expand(*shape, -1), dead.expand(*shape, -1) if bool(dead.any()) else None
