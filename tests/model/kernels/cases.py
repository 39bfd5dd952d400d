"""Attention inputs for tests, and the formula in float64 as plainly as it can be written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Inputs of one call of `cross_attention`."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None

    def to(self, target: torch.dtype | torch.device | str) -> Case:
        def move(x: Tensor | None) -> Tensor | None:
            if x is None or (isinstance(target, torch.dtype) and x.dtype == torch.bool):
                return x
            return x.to(target)

        return replace(self, q=move(self.q), k=move(self.k), v=move(self.v), mask=move(self.mask))


def make_case(
    B: int = 2,
    H: int = 4,
    Hkv: int | None = None,
    Tq: int = 5,
    Tk: int = 7,
    d: int = 16,
    mask: str | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> Case:
    """Random inputs. ``mask``: None, ``keys`` (ragged), ``dead`` (one item has no key), ``bias`` (per query, with
    -inf and one fully masked row), ``head_bias`` (per head)."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    Hkv = Hkv or H
    q, k, v = normal(B, H, Tq, d) * scale, normal(B, Hkv, Tk, d) * scale, normal(B, Hkv, Tk, d)
    m: Tensor | None = None
    if mask in ("keys", "dead"):
        lengths = torch.randint(1, Tk + 1, (B,), generator=g)
        m = torch.arange(Tk)[None] < lengths[:, None]
        if mask == "dead":
            m[-1] = False
    elif mask in ("bias", "head_bias"):
        m = normal(B, H if mask == "head_bias" else 1, Tq, Tk)
        m = m.masked_fill(torch.rand(m.shape, generator=g) < 0.2, -torch.inf)
        m[0, :, 0] = -torch.inf
    return Case(q, k, v, m)


def formula(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Output, map and log-sum-exp in float64, one row at a time, with masked keys left out rather than masked."""
    case = case.to(torch.float64)
    B, H, Tq, d = case.q.shape
    Hkv, Tk = case.k.shape[1:3]
    output, map_ = torch.zeros(B, H, Tq, d).double(), torch.zeros(B, Tq, Tk).double()
    lse = torch.full((B, H, Tq), -torch.inf).double()
    bias = torch.zeros(B, H, Tq, Tk).double()
    if case.mask is not None and case.mask.dtype == torch.bool:
        bias = bias.masked_fill(~case.mask[:, None, None], -torch.inf)
    elif case.mask is not None:
        bias = bias + case.mask
    for b in range(B):
        for h in range(H):
            for t in range(Tq):
                seen = bias[b, h, t] > -torch.inf
                if not seen.any():
                    continue
                kv_head = h * Hkv // H
                scores = case.k[b, kv_head, seen] @ case.q[b, h, t] / d**0.5 + bias[b, h, t, seen]
                p = (scores - scores.max()).exp()
                lse[b, h, t] = scores.max() + p.sum().log()
                p = p / p.sum()
                output[b, h, t] = p @ case.v[b, kv_head, seen]
                map_[b, t, seen] += p / H
    return output, map_, lse


MASKS = (None, "keys", "dead", "bias", "head_bias")


@st.composite
def cases(draw: st.DrawFn, *, dims: tuple[int, ...] = (1, 3, 16, 40), queries: int = 12, keys: int = 40) -> Case:
    """Random shapes: one head or several, grouped or not, one token, one patch, ragged, every kind of mask."""
    Hkv = draw(st.sampled_from((1, 2, 3)))
    return make_case(
        B=draw(st.integers(1, 3)),
        H=Hkv * draw(st.sampled_from((1, 2))),
        Hkv=Hkv,
        Tq=draw(st.integers(1, queries)),
        Tk=draw(st.integers(1, keys)),
        d=draw(st.sampled_from(dims)),
        mask=draw(st.sampled_from(MASKS)),
        seed=draw(st.integers(0, 10_000)),
    )
