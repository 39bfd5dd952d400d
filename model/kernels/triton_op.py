"""The Triton kernels as operators of PyTorch: with shapes for tracing and with a gradient, so that autograd,
torch.compile and CUDA graphs take them like any other.

Importing this module imports Triton; `model.kernels` does so only when the kernel is used.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from model.kernels import triton_backward, triton_forward
from model.kernels.inputs import AttentionResult, split_mask

MAX_HEAD_DIM = 128
INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether TRITON_INTERPRET was set when Triton's kernels were defined: they then run on the CPU, slowly, for tests."""


def why_not(q: Tensor, mask: Tensor | None) -> str | None:
    """Why the Triton kernels cannot run on such queries ``[B, H, Tq, d]``, or None where they can."""
    if not q.is_cuda and not (INTERPRETED and q.device.type == "cpu"):
        return f"its tensors must be on a CUDA device, not on {q.device}"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it takes float16, bfloat16 and float32, not {q.dtype}"
    if q.dtype == torch.bfloat16 and INTERPRETED:
        return "Triton's interpreter computes wrong products in bfloat16"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"it takes head sizes up to {MAX_HEAD_DIM}, not {q.shape[-1]}"
    if mask is not None and mask.requires_grad and torch.is_grad_enabled():
        return "it has no gradient for a float mask"
    return None


@torch.library.custom_op("crosslook::cross_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, bias: Tensor | None, scale: float, need_map: bool
) -> tuple[Tensor, Tensor, Tensor]:
    output, map_, lse = triton_forward.forward(q, k, v, key_mask, bias, scale=scale, need_map=need_map)
    return output, lse.new_empty(0) if map_ is None else map_, lse


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, bias: Tensor | None, scale: float, need_map: bool
) -> tuple[Tensor, Tensor, Tensor]:
    B, H, Tq, d = q.shape
    map_ = q.new_empty((B, Tq, k.shape[2]) if need_map else (0,), dtype=torch.float32)
    return q.new_empty(B, Tq, H, d).transpose(1, 2), map_, q.new_empty(B, H, Tq, dtype=torch.float32)


@torch.library.custom_op("crosslook::cross_attention_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    d_map: Tensor | None,
    d_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    need_keys: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = triton_backward.backward(
        d_out, d_map, d_lse, q, k, v, out, lse, key_mask, bias, scale=scale, need_keys=need_keys
    )
    return dq, k.new_empty(0) if dk is None else dk, v.new_empty(0) if dv is None else dv


@_backward.register_fake
def _(
    d_out: Tensor,
    d_map: Tensor | None,
    d_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    need_keys: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = tuple(k.shape) if need_keys else (0,)
    return q.new_empty(q.shape), k.new_empty(shape), v.new_empty(shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, key_mask, bias, ctx.scale, ctx.need_map = inputs
    out, _, lse = output
    ctx.save_for_backward(q, k, v, out, lse, key_mask, bias)
    ctx.set_materialize_grads(False)  # a gradient that nobody asked for is None, not a map of zeros


def _gradient(ctx: Any, d_out: Tensor | None, d_map: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, key_mask, bias = ctx.saved_tensors
    need_keys = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    if d_out is None:
        d_out = torch.zeros_like(out)
    dq, dk, dv = _backward(
        d_out, d_map if ctx.need_map else None, d_lse, q, k, v, out, lse, key_mask, bias, ctx.scale, need_keys
    )
    return dq, dk if need_keys else None, dv if need_keys else None, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_save)


def cross_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float, need_map: bool, need_lse: bool
) -> AttentionResult:
    """The same as the reference, on the GPU: ``q`` ``[B, H, Tq, d]``, ``k`` and ``v`` ``[B, Hkv, Tk, d]``.

    Raises RuntimeError where `why_not` has a reason.
    """
    key_mask, bias = split_mask(mask, q, k)
    if reason := why_not(q, mask):
        raise RuntimeError(f"the triton kernel cannot run: {reason}")
    output, map_, lse = _forward(q, k, v, key_mask, bias, scale, need_map)
    return AttentionResult(output, map_ if need_map else None, lse if need_lse else None)


def attention_map_triton(
    q: Tensor, k: Tensor, lse: Tensor, *, mask: Tensor | None, scale: float, head_weights: Tensor | None
) -> Tensor:
    """The map ``[B, Tq, Tk]``: the same as the reference, on the GPU; no gradient. Raises RuntimeError where `why_not`
    has a reason."""
    key_mask, bias = split_mask(mask, q, k)
    if reason := why_not(q, mask):
        raise RuntimeError(f"the triton kernel cannot run: {reason}")
    return triton_forward.map_from_lse(q, k, lse, key_mask, bias, scale=scale, head_weights=head_weights)
