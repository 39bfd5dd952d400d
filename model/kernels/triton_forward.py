"""Output and head-mean map on the GPU, without ever holding ``[B, H, Tq, Tk]`` in memory.

The output comes from FlashAttention-2 (https://arxiv.org/abs/2307.08691): one program a head and a block of queries
streams the keys and values and leaves the log-sum-exp of each row behind. The map comes from that: one program a tile
of the map streams the heads and adds up ``exp(score - lse)``. Two designs put these parts together:

* **two_pass**: one launch each. For few programs, and for `map_from_lse` on its own: only the layers, the tokens and
  the keys that are asked for.
* **one_pass**: both in one launch, in an order that makes the map of an image while its keys are still in the L2
  cache. Keys and values then cross the memory bus once, so this is the design where programs are many and the bus is
  the limit. A map program waits for the heads of its image; see `_one_pass_kernel` for why that cannot hang.

No sums by atomics: the same input gives the same bits. Scores are kept in units of log2, since the hardware's
exponential is exp2.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import contextlib
from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

Design = Literal["one_pass", "two_pass"]

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_rows(x, rows, n_rows, stride, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """``x[rows, :HEAD_DIM]``, zero outside."""
    dims = tl.arange(0, BLOCK_D)
    inside = (rows < n_rows)[:, None] & (dims < HEAD_DIM)[None, :]
    return tl.load(x + rows[:, None] * stride + dims[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(x, value, rows, n_rows, stride, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """``x[rows, :HEAD_DIM] = value``."""
    dims = tl.arange(0, BLOCK_D)
    inside = (rows < n_rows)[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(x + rows[:, None] * stride + dims[None, :], value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def load_lse(lse, b, h, rows, H, Tq):
    """Log-sum-exps of ``rows`` times log2(e); +inf for a row that sees nothing, so that exp2(score - lse) is 0."""
    x = tl.load(lse + (b * H + h) * Tq + rows, mask=rows < Tq, other=0.0) * LOG2E
    return tl.where(x == float("-inf"), float("inf"), x)


@triton.jit
def masked_scores(
    queries, keys, key_mask, bias, b, h, rows, cols, Tq, Tk, scale_log2, mask_strides, bias_strides,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Scores ``[rows, cols]`` of one head, times log2(e); -inf where a key may not be attended or does not exist."""
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale_log2
    exists = cols < Tk
    seen = exists
    if HAS_KEY_MASK:
        at = key_mask + b * mask_strides[0] + cols * mask_strides[1]
        seen = seen & (tl.load(at, mask=exists, other=0) != 0)
    if HAS_BIAS:
        inside = (rows < Tq)[:, None] & exists[None, :]
        at = bias + b * bias_strides[0] + h * bias_strides[1]
        at += rows[:, None] * bias_strides[2] + cols[None, :] * bias_strides[3]
        scores += tl.load(at, mask=inside, other=0.0).to(tl.float32) * LOG2E
    return tl.where(seen[None, :], scores, float("-inf"))


@triton.jit
def _attend(
    q, k, v, key_mask, bias, out, lse, b, h, block, H, Tq, Tk, scale_log2,
    q_strides, k_strides, v_strides, mask_strides, bias_strides, out_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of one head for one block of queries: one pass over the keys with a running maximum."""
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    queries = load_rows(q + b * q_strides[0] + h * q_strides[1], rows, Tq, q_strides[2], HEAD_DIM, BLOCK_D)
    k += b * k_strides[0] + (h // GROUP) * k_strides[1]
    v += b * v_strides[0] + (h // GROUP) * v_strides[1]
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    norm = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, Tk, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        keys = load_rows(k, cols, Tk, k_strides[2], HEAD_DIM, BLOCK_D)
        s = masked_scores(
            queries, keys, key_mask, bias, b, h, rows, cols, Tq, Tk, scale_log2, mask_strides, bias_strides,
            HAS_KEY_MASK, HAS_BIAS,
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(s, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # nothing seen yet: -inf - -inf would be NaN
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(top - base)
        norm = norm * shrink + tl.sum(p, 1)
        values = load_rows(v, cols, Tk, v_strides[2], HEAD_DIM, BLOCK_D)
        acc = acc * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision="ieee")
        top = new_top
    norm = tl.where(norm == 0.0, 1.0, norm)  # a row that sees nothing gives 0
    out += b * out_strides[0] + h * out_strides[1]
    store_rows(out, acc / norm[:, None], rows, Tq, out_strides[2], HEAD_DIM, BLOCK_D)
    tl.store(lse + (b * H + h) * Tq + rows, (top + tl.log2(norm)) * LN2, mask=rows < Tq)


@triton.jit
def _map_tile(
    q, k, key_mask, bias, lse, weights, maps, b, row_block, col_block, H, Tq, Tk, scale_log2,
    q_strides, k_strides, mask_strides, bias_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """One tile of the map of one image: the probabilities, from the log-sum-exps, added up over the heads."""
    rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = col_block * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for h in range(H):
        queries = load_rows(q + b * q_strides[0] + h * q_strides[1], rows, Tq, q_strides[2], HEAD_DIM, BLOCK_D)
        keys = load_rows(k + b * k_strides[0] + (h // GROUP) * k_strides[1], cols, Tk, k_strides[2], HEAD_DIM, BLOCK_D)
        s = masked_scores(
            queries, keys, key_mask, bias, b, h, rows, cols, Tq, Tk, scale_log2, mask_strides, bias_strides,
            HAS_KEY_MASK, HAS_BIAS,
        )  # fmt: skip
        p = tl.exp2(s - load_lse(lse, b, h, rows, H, Tq)[:, None])
        if HAS_WEIGHTS:
            p *= tl.load(weights + h)
        total += p
    if not HAS_WEIGHTS:
        total = total / H
    inside = (rows < Tq)[:, None] & (cols < Tk)[None, :]
    tl.store(maps + b * Tq * Tk + rows[:, None] * Tk + cols[None, :], total, mask=inside)


@triton.jit
def _forward_kernel(
    q, k, v, key_mask, bias, out, lse, H, Tq, Tk, scale_log2,
    q_strides, k_strides, v_strides, mask_strides, bias_strides, out_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of queries x heads x images."""
    _attend(
        q, k, v, key_mask, bias, out, lse, tl.program_id(2).to(tl.int64), tl.program_id(1), tl.program_id(0),
        H, Tq, Tk, scale_log2, q_strides, k_strides, v_strides, mask_strides, bias_strides, out_strides,
        GROUP, HEAD_DIM, BLOCK_D, BLOCK_M, BLOCK_N, HAS_KEY_MASK, HAS_BIAS,
    )  # fmt: skip


@triton.jit
def _map_kernel(
    q, k, key_mask, bias, lse, weights, maps, H, Tq, Tk, scale_log2,
    q_strides, k_strides, mask_strides, bias_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of keys x blocks of queries x images."""
    _map_tile(
        q, k, key_mask, bias, lse, weights, maps,
        tl.program_id(2).to(tl.int64), tl.program_id(1), tl.program_id(0), H, Tq, Tk, scale_log2,
        q_strides, k_strides, mask_strides, bias_strides,
        GROUP, HEAD_DIM, BLOCK_D, BLOCK_M, BLOCK_N, HAS_KEY_MASK, HAS_BIAS, HAS_WEIGHTS,
    )  # fmt: skip


@triton.jit
def _one_pass_kernel(
    q, k, v, key_mask, bias, out, lse, maps, done, B, H, Tq, Tk, scale_log2, LAG,
    q_strides, k_strides, v_strides, mask_strides, bias_strides, out_strides,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Every program takes the next piece of work: the heads of image ``i + LAG``, then the map tiles of image ``i``.

    ``done[i]`` counts the heads of image ``i`` that are finished; ``done[B]`` hands out the pieces. A map tile waits
    for the heads of its image. It cannot wait for ever: pieces are handed out in order to programs that already run,
    so all heads that it waits for are running or finished, and a head waits for nothing.
    """
    row_blocks = tl.cdiv(Tq, BLOCK_M)
    heads = H * row_blocks  # pieces of an image that make output
    tiles = row_blocks * tl.cdiv(Tk, BLOCK_N)  # pieces of an image that make the map
    piece = tl.atomic_add(done + B, 1)
    middle = piece - LAG * heads  # before: heads alone, so that no map tile has to wait long
    last = middle - (B - LAG) * (heads + tiles)  # from here: map tiles alone
    place = tl.where(middle < 0, piece % heads, tl.where(last < 0, middle % (heads + tiles), heads + last % tiles))
    turn = tl.where(
        middle < 0, piece // heads - LAG, tl.where(last < 0, middle // (heads + tiles), B - LAG + last // tiles)
    )
    if place < heads:
        b = (turn + LAG).to(tl.int64)
        _attend(
            q, k, v, key_mask, bias, out, lse, b, place // row_blocks, place % row_blocks, H, Tq, Tk, scale_log2,
            q_strides, k_strides, v_strides, mask_strides, bias_strides, out_strides,
            GROUP, HEAD_DIM, BLOCK_D, BLOCK_M, BLOCK_N, HAS_KEY_MASK, HAS_BIAS,
        )  # fmt: skip
        tl.debug_barrier()  # every thread's part of the log-sum-exps is stored ...
        tl.atomic_add(done + b, 1, sem="release")  # ... before others are told
    else:
        b = turn.to(tl.int64)
        while tl.atomic_add(done + b, 0, sem="acquire") < heads:
            pass
        tl.debug_barrier()
        tile = place - heads
        _map_tile(
            q, k, key_mask, bias, lse, lse, maps, b, tile % row_blocks, tile // row_blocks, H, Tq, Tk, scale_log2,
            q_strides, k_strides, mask_strides, bias_strides,
            GROUP, HEAD_DIM, BLOCK_D, BLOCK_M, BLOCK_N, HAS_KEY_MASK, HAS_BIAS, False,
        )  # fmt: skip


class Tile(NamedTuple):
    """How the work is cut: queries and keys a step, warps and pipeline stages of a program."""

    block_m: int
    block_n: int
    warps: int
    stages: int


PROGRAMS = 132
"""Multiprocessors of an H100 or H200: fewer programs than that leave some idle."""
IN_FLIGHT = 3 * PROGRAMS
"""Programs that run at once, roughly. Map tiles come that many programs after the heads that they wait for."""


def block_d(head_dim: int) -> int:
    """The head size as the tensor cores want it: a power of two, at least 16."""
    return max(16, 1 << (head_dim - 1).bit_length())


def tile_for(q: Tensor) -> Tile:
    """The tile for these queries ``[B, H, Tq, d]``."""
    rows = q.shape[2]
    if q.dtype == torch.float32:  # no tensor cores for IEEE float32: small tiles, or the registers overflow
        return Tile(16, 32, 8, 2) if q.shape[3] > 64 else Tile(16 if rows <= 16 else 32, 32, 4, 2)
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    return Tile(block_m, 64, 4, 3 if block_d(q.shape[3]) <= 64 else 2)


def choose_design(q: Tensor) -> Design:
    """For queries ``[B, H, Tq, d]``: one pass where the heads alone fill the GPU twice over, else two."""
    B, H, Tq, _ = q.shape
    return "one_pass" if B * H * triton.cdiv(Tq, tile_for(q).block_m) >= 2 * PROGRAMS else "two_pass"


def with_unit_stride(x: Tensor) -> Tensor:
    """``x`` ``[..., d]`` with ``d`` contiguous, as the kernels need it; copied only where it is not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which kernels run on the device of ``x`` ``[...]``, whatever the current one is."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


class Masks(NamedTuple):
    """Masks as the kernels take them: ``key_mask`` uint8 ``[B, Tk]``, ``bias`` ``[B, H, Tq, Tk]``, and their strides.

    ``flags`` says which of the two there are; the queries stand in for a missing one, unread.
    """

    key_mask: Tensor
    bias: Tensor
    key_mask_strides: tuple[int, ...]
    bias_strides: tuple[int, ...]
    flags: dict[str, bool]

    @classmethod
    def of(cls, q: Tensor, Tk: int, key_mask: Tensor | None, bias: Tensor | None) -> Masks:
        """From the two masks of `model.kernels.inputs.split_mask` and the queries ``[B, H, Tq, d]``."""
        has_key_mask, has_bias = key_mask is not None, bias is not None
        key_mask = q if key_mask is None else key_mask.view(torch.uint8)
        bias = q if bias is None else bias.expand(*q.shape[:3], Tk)
        flags = {"HAS_KEY_MASK": has_key_mask, "HAS_BIAS": has_bias}
        return cls(key_mask, bias, key_mask.stride()[:2], bias.stride(), flags)


def forward(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, bias: Tensor | None,
    *, scale: float, need_map: bool, design: Design | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """Output ``[B, H, Tq, d]``, map ``[B, Tq, Tk]`` or None, log-sum-exp ``[B, H, Tq]`` (both float32).

    Masks as `model.kernels.inputs.split_mask` tells them apart. ``design`` forces one of the two.
    """
    q, k, v = with_unit_stride(q), with_unit_stride(k), with_unit_stride(v)
    B, H, Tq, d = q.shape
    Tk = k.shape[2]
    tile = tile_for(q)
    out = q.new_empty(B, Tq, H, d).transpose(1, 2)
    lse = q.new_empty(B, H, Tq, dtype=torch.float32)
    masks = Masks.of(q, Tk, key_mask, bias)
    strides = (q.stride()[:3], k.stride()[:3], v.stride()[:3], masks.key_mask_strides, masks.bias_strides)
    constants = {
        "GROUP": H // k.shape[1], "HEAD_DIM": d, "BLOCK_D": block_d(d), "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n, **masks.flags, "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    row_blocks = triton.cdiv(Tq, tile.block_m)
    if not need_map or (design or choose_design(q)) == "two_pass":
        with on_device(q):
            _forward_kernel[(row_blocks, H, B)](
                q, k, v, masks.key_mask, masks.bias, out, lse, H, Tq, Tk, scale * LOG2E.value,
                *strides, out.stride()[:3], **constants,
            )  # fmt: skip
        return out, map_from_lse(q, k, lse, key_mask, bias, scale=scale) if need_map else None, lse
    maps = q.new_empty(B, Tq, Tk, dtype=torch.float32)
    done = q.new_zeros(B + 1, dtype=torch.int32)
    pieces = row_blocks * (H + triton.cdiv(Tk, tile.block_n))  # an image
    with on_device(q):
        _one_pass_kernel[(B * pieces,)](
            q, k, v, masks.key_mask, masks.bias, out, lse, maps, done, B, H, Tq, Tk, scale * LOG2E.value,
            min(B, triton.cdiv(IN_FLIGHT, pieces)), *strides, out.stride()[:3], **constants,
        )  # fmt: skip
    return out, maps, lse


def map_from_lse(
    q: Tensor, k: Tensor, lse: Tensor, key_mask: Tensor | None, bias: Tensor | None,
    *, scale: float, head_weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The map ``[B, Tq, Tk]``: probabilities averaged over the heads, or summed with ``head_weights`` ``[H]``."""
    q, k = with_unit_stride(q), with_unit_stride(k)
    B, H, Tq, d = q.shape
    Tk = k.shape[2]
    tile = tile_for(q)
    maps = q.new_empty(B, Tq, Tk, dtype=torch.float32)
    masks = Masks.of(q, Tk, key_mask, bias)
    weights = q if head_weights is None else head_weights.contiguous()  # q: a pointer, which is not read
    with on_device(q):
        _map_kernel[(triton.cdiv(Tk, tile.block_n), triton.cdiv(Tq, tile.block_m), B)](
            q, k, masks.key_mask, masks.bias, lse.contiguous(), weights, maps,
            H, Tq, Tk, scale * LOG2E.value,
            q.stride()[:3], k.stride()[:3], masks.key_mask_strides, masks.bias_strides,
            GROUP=H // k.shape[1], HEAD_DIM=d, BLOCK_D=block_d(d), BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
            **masks.flags, HAS_WEIGHTS=head_weights is not None, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return maps
