"""Cross-attention on head-split tensors: one function, several kernels that give the same numbers.

* ``triton``: CUDA; fused, with a gradient; never holds the probabilities of all heads;
* ``blocked``: CPU, where nothing needs a gradient;
* ``reference``: the formula written out; any device, with a gradient;
* ``auto``: the fastest of them that can run on the tensors at hand.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from model.kernels.blocked import attend_small, cross_attention_blocked
from model.kernels.inputs import AttentionResult, check_queries_keys, check_values, default_scale
from model.kernels.reference import attention_map_reference, cross_attention_reference

__all__ = ["KERNELS", "AttentionResult", "attention_map", "check_kernel", "cross_attention"]

KERNELS = ("auto", "triton", "blocked", "reference")
HAS_TRITON = importlib.util.find_spec("triton") is not None


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
      ``[B, H, Tq, Tk]``, -inf (or the dtype's lowest number) where a key may not be attended.
    * ``scale``: ``1 / sqrt(d)`` where None.
    * ``kernel``: one of `KERNELS`.

    A row whose keys are all masked gives output 0 and map 0, never NaN. Raises ValueError where the inputs do not fit
    together or the kernel is unknown, RuntimeError where the kernel asked for cannot run on them.
    """
    if mask is None and not need_lse and kernel in ("auto", "blocked"):
        small = attend_small(q, k, v, scale, need_map)
        if small is not None:
            return small
    check_queries_keys(q, k)
    check_values(k, v)
    scale = default_scale(q) if scale is None else scale
    if kernel == "auto":
        kernel = _fastest(q, k, v, mask)
    run: Callable[..., AttentionResult]
    if kernel == "triton":
        run = _triton().cross_attention_triton
    elif kernel == "blocked":
        run = cross_attention_blocked
    elif kernel == "reference":
        run = cross_attention_reference
    else:
        raise _unknown(kernel)
    return run(q, k, v, mask=mask, scale=scale, need_map=need_map, need_lse=need_lse)


def attention_map(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    columns: slice | Tensor | None = None,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    head_weights: Tensor | None = None,
    kernel: str = "auto",
) -> Tensor:
    """The map ``[B, Tq, len(columns)]`` of a pass that is over, from its log-sum-exps.

    ``q``, ``k``, ``mask`` and ``scale`` as that pass had them, ``lse`` ``[B, H, Tq]`` as it returned it. ``columns``
    (a slice or an index tensor) picks keys, all where None: only what is asked for is computed. Heads are averaged, or
    summed with ``head_weights`` ``[H]``. The mean's sum over all keys is 1, or 0 where all keys of a row were masked.

    ``kernel``: ``triton`` (no gradient), ``reference`` or ``auto``. Raises ValueError and RuntimeError
    as `cross_attention` does; RuntimeError too where ``triton`` is asked for and a gradient is needed.
    """
    check_queries_keys(q, k)
    if lse.shape != q.shape[:3]:
        raise ValueError(f"lse must be [batch, heads, queries] = {list(q.shape[:3])}, got {list(lse.shape)}")
    if head_weights is not None and head_weights.shape != q.shape[1:2]:
        raise ValueError(f"head_weights must be [heads] = [{q.shape[1]}], got {list(head_weights.shape)}")
    scale = default_scale(q) if scale is None else scale
    if columns is not None:
        if mask is not None and mask.shape[-1] != 1:
            mask = mask[..., columns]
        k = k[:, :, columns]
    needs_gradient = _needs_gradient(q, k, lse, mask, head_weights)
    if kernel == "auto":
        kernel = "triton" if _fastest(q, k, mask) == "triton" and not needs_gradient else "reference"
    if kernel == "triton":
        if needs_gradient:
            raise RuntimeError("the triton kernel cannot run: a map made from log-sum-exps has no gradient there")
        run: Callable[..., Tensor] = _triton().attention_map_triton
        return run(q, k, lse, mask=mask, scale=scale, head_weights=head_weights)
    if kernel == "reference":
        return attention_map_reference(q, k, lse, mask=mask, scale=scale, head_weights=head_weights)
    raise ValueError(f"unknown kernel {kernel!r} for maps; there are auto, triton, reference")


def check_kernel(kernel: str, device: torch.device | str) -> None:
    """Raise at once, rather than at the first question, where ``kernel`` can't run on ``device``.

    Raises ValueError for an unknown kernel, RuntimeError with the reason for one that cannot run.
    """
    if kernel not in KERNELS:
        raise _unknown(kernel)
    if kernel == "blocked" and torch.device(device).type != "cpu":
        raise RuntimeError(f"the blocked kernel cannot run: its tensors must be on the CPU, not on {device}")
    if kernel == "triton" and (reason := _triton().why_not(torch.empty(1, 1, 1, 1, device=device), None)):
        raise RuntimeError(f"the triton kernel cannot run: {reason}")


def _unknown(kernel: str) -> ValueError:
    return ValueError(f"unknown kernel {kernel!r}; there are {', '.join(KERNELS)}")


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _fastest(q: Tensor, *others: Tensor | None) -> str:
    """The fastest kernel that can run on these tensors; the last is the mask."""
    if q.is_cuda and HAS_TRITON and _triton().why_not(q, others[-1]) is None:
        return "triton"
    return "blocked" if q.is_cpu and not _needs_gradient(q, *others) else "reference"


def _triton() -> ModuleType:
    """The module with the Triton kernels, imported only where they are used: Triton takes a while to load."""
    if not HAS_TRITON:
        raise RuntimeError("the triton kernel cannot run: Triton is not installed")
    from model.kernels import triton_op

    return triton_op
