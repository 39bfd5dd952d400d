"""The gradient of output, map and log-sum-exp on the GPU, from the inputs, the output and the log-sum-exp alone.

With P = exp(S - lse), and gradients dO of the output, dM of the head-mean map and dL of the log-sum-exp:

    G = dO V^T + dM / H                    the gradient of P
    D = rowsum(dO * O) + rowsum(P * dM) / H - dL
    dS = P * (G - D)
    dQ = scale dS K,   dK = scale dS^T Q,   dV = P^T dO

The rows of P sum to 1, so rowsum(P * dO V^T) is rowsum(dO * O), as in FlashAttention-2. Each program owns what it
writes: no atomics, the same bits each time.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.triton_forward import (
    LOG2E,
    Masks,
    Tile,
    block_d,
    load_lse,
    load_rows,
    masked_scores,
    on_device,
    store_rows,
    tile_for,
    with_unit_stride,
)


@triton.jit
def _load_map_gradient(d_map, b, rows, cols, Tq, Tk, strides):
    inside = (rows < Tq)[:, None] & (cols < Tk)[None, :]
    return tl.load(d_map + b * strides[0] + rows[:, None] * strides[1] + cols[None, :] * strides[2], inside, other=0.0)


@triton.jit
def _queries_kernel(
    q, k, v, key_mask, bias, out, lse, d_out, d_map, d_lse, dq, delta, H, Tq, Tk, scale, scale_log2,
    q_strides, k_strides, v_strides, mask_strides, bias_strides, out_strides, d_out_strides, d_map_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D_MAP: tl.constexpr, HAS_D_LSE: tl.constexpr,
):  # fmt: skip
    """D and dQ of one head for one block of queries. Grid: blocks of queries x heads x images."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    h = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    queries = load_rows(q + b * q_strides[0] + h * q_strides[1], rows, Tq, q_strides[2], HEAD_DIM, BLOCK_D)
    dO = load_rows(d_out + b * d_out_strides[0] + h * d_out_strides[1], rows, Tq, d_out_strides[2], HEAD_DIM, BLOCK_D)
    attended = load_rows(out + b * out_strides[0] + h * out_strides[1], rows, Tq, out_strides[2], HEAD_DIM, BLOCK_D)
    k += b * k_strides[0] + (h // GROUP) * k_strides[1]
    v += b * v_strides[0] + (h // GROUP) * v_strides[1]
    base = load_lse(lse, b, h, rows, H, Tq)
    D = tl.sum(dO.to(tl.float32) * attended.to(tl.float32), 1)
    if HAS_D_LSE:
        D -= tl.load(d_lse + (b * H + h) * Tq + rows, mask=rows < Tq, other=0.0)
    if HAS_D_MAP:
        for start in range(0, Tk, BLOCK_N):
            cols = start + tl.arange(0, BLOCK_N)
            keys = load_rows(k, cols, Tk, k_strides[2], HEAD_DIM, BLOCK_D)
            s = masked_scores(
                queries, keys, key_mask, bias, b, h, rows, cols, Tq, Tk, scale_log2, mask_strides, bias_strides,
                HAS_KEY_MASK, HAS_BIAS,
            )  # fmt: skip
            dM = _load_map_gradient(d_map, b, rows, cols, Tq, Tk, d_map_strides)
            D += tl.sum(tl.exp2(s - base[:, None]) * dM, 1) / H
    tl.store(delta + (b * H + h) * Tq + rows, D, mask=rows < Tq)

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, Tk, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        keys = load_rows(k, cols, Tk, k_strides[2], HEAD_DIM, BLOCK_D)
        values = load_rows(v, cols, Tk, v_strides[2], HEAD_DIM, BLOCK_D)
        s = masked_scores(
            queries, keys, key_mask, bias, b, h, rows, cols, Tq, Tk, scale_log2, mask_strides, bias_strides,
            HAS_KEY_MASK, HAS_BIAS,
        )  # fmt: skip
        G = tl.dot(dO, tl.trans(values), input_precision="ieee")
        if HAS_D_MAP:
            G += _load_map_gradient(d_map, b, rows, cols, Tq, Tk, d_map_strides) / H
        dS = tl.exp2(s - base[:, None]) * (G - D[:, None])
        acc += tl.dot(dS.to(keys.dtype), keys, input_precision="ieee")
    dq += (b * H + h) * Tq * HEAD_DIM
    store_rows(dq, acc * scale, rows, Tq, HEAD_DIM, HEAD_DIM, BLOCK_D)


@triton.jit
def _keys_kernel(
    q, k, v, key_mask, bias, lse, d_out, d_map, delta, dk, dv, H, Tq, Tk, scale, scale_log2,
    q_strides, k_strides, v_strides, mask_strides, bias_strides, d_out_strides, d_map_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D_MAP: tl.constexpr,
):  # fmt: skip
    """dK and dV of one key head for one block of keys. Grid: blocks of keys x key heads x images."""
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    key_head = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    keys = load_rows(k + b * k_strides[0] + key_head * k_strides[1], cols, Tk, k_strides[2], HEAD_DIM, BLOCK_D)
    values = load_rows(v + b * v_strides[0] + key_head * v_strides[1], cols, Tk, v_strides[2], HEAD_DIM, BLOCK_D)
    acc_k = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    acc_v = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for h in range(key_head * GROUP, (key_head + 1) * GROUP):
        head_q = q + b * q_strides[0] + h * q_strides[1]
        head_d_out = d_out + b * d_out_strides[0] + h * d_out_strides[1]
        for start in range(0, Tq, BLOCK_M):
            rows = start + tl.arange(0, BLOCK_M)
            queries = load_rows(head_q, rows, Tq, q_strides[2], HEAD_DIM, BLOCK_D)
            dO = load_rows(head_d_out, rows, Tq, d_out_strides[2], HEAD_DIM, BLOCK_D)
            D = tl.load(delta + (b * H + h) * Tq + rows, mask=rows < Tq, other=0.0)
            s = masked_scores(
                queries, keys, key_mask, bias, b, h, rows, cols, Tq, Tk, scale_log2, mask_strides, bias_strides,
                HAS_KEY_MASK, HAS_BIAS,
            )  # fmt: skip
            P = tl.exp2(s - load_lse(lse, b, h, rows, H, Tq)[:, None])
            acc_v += tl.dot(tl.trans(P.to(dO.dtype)), dO, input_precision="ieee")
            G = tl.dot(dO, tl.trans(values), input_precision="ieee")
            if HAS_D_MAP:
                G += _load_map_gradient(d_map, b, rows, cols, Tq, Tk, d_map_strides) / H
            dS = P * (G - D[:, None])
            acc_k += tl.dot(tl.trans(dS.to(queries.dtype)), queries, input_precision="ieee")
    at = (b * (H // GROUP) + key_head) * Tk * HEAD_DIM
    store_rows(dk + at, acc_k * scale, cols, Tk, HEAD_DIM, HEAD_DIM, BLOCK_D)
    store_rows(dv + at, acc_v, cols, Tk, HEAD_DIM, HEAD_DIM, BLOCK_D)


def _tile(q: Tensor) -> Tile:
    """As the forward's, but four products at once need more registers: more warps or smaller tiles."""
    if q.dtype == torch.float32:
        return Tile(16, 16, 8, 2)
    return tile_for(q)._replace(warps=8 if q.shape[3] > 64 else 4, stages=2)


def backward(
    d_out: Tensor, d_map: Tensor | None, d_lse: Tensor | None,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, key_mask: Tensor | None, bias: Tensor | None,
    *, scale: float, need_keys: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """``(dq, dk, dv)``, of the shapes of ``q``, ``k`` and ``v``, from the gradients of the forward pass's results.

    ``d_out`` ``[B, H, Tq, d]``, ``d_map`` ``[B, Tq, Tk]`` and ``d_lse`` ``[B, H, Tq]`` are those of output, map and
    log-sum-exp; all other arguments are as the forward pass had them (see `model.kernels.triton_forward.forward`).
    ``need_keys`` False leaves out ``dk`` and ``dv``: for gradient maps keys and values are constants.
    """
    q, k, v, d_out = (with_unit_stride(x) for x in (q, k, v, d_out))
    B, H, Tq, d = q.shape
    Hkv, Tk = k.shape[1], k.shape[2]
    tile = _tile(q)
    dq = q.new_empty(B, H, Tq, d)
    delta = lse.new_empty(B, H, Tq)
    masks = Masks.of(q, Tk, key_mask, bias)
    shapes = (H, Tq, Tk, scale, scale * LOG2E.value)
    strides = (q.stride()[:3], k.stride()[:3], v.stride()[:3], masks.key_mask_strides, masks.bias_strides)
    map_gradient, map_strides = (q, (0, 0, 0)) if d_map is None else (d_map, d_map.stride())
    constants = {
        "GROUP": H // Hkv, "HEAD_DIM": d, "BLOCK_D": block_d(d), "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
        **masks.flags, "HAS_D_MAP": d_map is not None, "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    with on_device(q):
        _queries_kernel[(triton.cdiv(Tq, tile.block_m), H, B)](
            q, k, v, masks.key_mask, masks.bias, out, lse, d_out, map_gradient,
            q if d_lse is None else d_lse.contiguous(), dq, delta, *shapes,
            *strides, out.stride()[:3], d_out.stride()[:3], map_strides, HAS_D_LSE=d_lse is not None, **constants,
        )  # fmt: skip
        if not need_keys:
            return dq, None, None
        dk, dv = k.new_empty(B, Hkv, Tk, d), v.new_empty(B, Hkv, Tk, d)
        _keys_kernel[(triton.cdiv(Tk, tile.block_n), Hkv, B)](
            q, k, v, masks.key_mask, masks.bias, lse, d_out, map_gradient, delta, dk, dv, *shapes,
            *strides, d_out.stride()[:3], map_strides, **constants,
        )  # fmt: skip
    return dq, dk, dv
