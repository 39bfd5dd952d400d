"""Cross-attention on head-split tensors: one function, several kernels that give the same numbers.

* ``reference``: the formula written out; any device, differentiable;
* ``blocked``: CPU (or any device), where nothing needs a gradient;
* ``auto``: the best of them for the tensors at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.kernels.blocked import cross_attention_blocked
from model.kernels.inputs import AttentionResult, check_queries_keys, check_values, default_scale
from model.kernels.reference import attention_map_reference, cross_attention_reference

__all__ = ["KERNELS", "AttentionResult", "attention_map", "cross_attention"]

KERNELS = ("auto", "blocked", "reference")


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    need_map: bool = False,
    need_lse: bool = False,
    kernel: str = "auto",
) -> AttentionResult:
    """``softmax(q k^T * scale + mask) v``, and on request the head-mean of the softmax.

    * ``q`` ``[B, H, Tq, d]``; ``k``, ``v`` ``[B, Hkv, Tk, d]``, ``Hkv`` a divisor of ``H`` (head ``h`` reads key head
      ``h // (H / Hkv)``). Questions about one image go side by side along ``Tq``, with its keys once.
    * ``mask``: bool ``[B, Tk]``, True where a key may be attended; or float, added to the scores, broadcastable to
      ``[B, H, Tq, Tk]``, -inf where a key may not be attended.
    * ``scale``: ``1 / sqrt(d)`` where None.
    * ``kernel``: one of `KERNELS`.

    A row whose keys are all masked gives output 0 and map 0, never NaN. Raises ValueError where the inputs do not fit
    together or the kernel is unknown, RuntimeError where the kernel asked for cannot run on them.
    """
    check_queries_keys(q, k)
    check_values(k, v)
    scale = default_scale(q) if scale is None else scale
    if kernel == "auto":
        needs_gradient = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, mask))
        kernel = "blocked" if q.device.type == "cpu" and not needs_gradient else "reference"
    if kernel == "blocked":
        return cross_attention_blocked(q, k, v, mask=mask, scale=scale, need_map=need_map, need_lse=need_lse)
    if kernel == "reference":
        return cross_attention_reference(q, k, v, mask=mask, scale=scale, need_map=need_map, need_lse=need_lse)
    raise ValueError(f"unknown kernel {kernel!r}; there are {', '.join(KERNELS)}")


def attention_map(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    columns: slice | Tensor | None = None,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The head-mean map ``[B, Tq, len(columns)]`` of a pass that is over, from its log-sum-exps.

    ``q``, ``k``, ``mask`` and ``scale`` as that pass had them, ``lse`` ``[B, H, Tq]`` as it returned it. ``columns``
    (a slice or an index tensor) picks keys, all where None: only what is asked for is computed. A row's sum over all
    keys is 1, or 0 where all its keys were masked.
    """
    check_queries_keys(q, k)
    if lse.shape != q.shape[:3]:
        raise ValueError(f"lse must be [batch, heads, queries] = {list(q.shape[:3])}, got {list(lse.shape)}")
    if columns is not None:
        if mask is not None and mask.shape[-1] != 1:
            mask = mask[..., columns]
        k = k[:, :, columns]
    return attention_map_reference(q, k, lse, mask=mask, scale=default_scale(q) if scale is None else scale)
