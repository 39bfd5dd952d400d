"""The formula, written out: any device, any dtype, differentiable. What all other kernels are tested against.

Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.2, with queries from one sequence and keys and
values from another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.kernels.inputs import AttentionResult, accumulator_dtype, split_mask


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor | None]:
    """Scaled and masked scores ``[B, H, Tq, Tk]``, and which rows ``[B, 1|H, 1|Tq, 1]`` have no key left.

    The scores of such dead rows are 0, so that neither they nor their gradients turn into NaN.
    """
    dtype = accumulator_dtype(q)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # grouped heads: head h reads key head h // group
    scores = (q.to(dtype) * scale) @ k.to(dtype).transpose(-2, -1)
    key_mask, bias = split_mask(mask, q, k)
    if key_mask is not None:
        bias = torch.zeros_like(key_mask, dtype=dtype).masked_fill(~key_mask, -torch.inf)[:, None, None, :]
    if bias is None:
        return scores, None
    bias = bias.to(dtype)
    dead = (bias == -torch.inf).all(dim=-1, keepdim=True)
    return (scores + bias).masked_fill(dead, 0.0), dead


def cross_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float, need_map: bool, need_lse: bool
) -> AttentionResult:
    """``softmax(q k^T * scale + mask) v`` and the head-mean of the softmax.

    ``q`` ``[B, H, Tq, d]``, ``k`` and ``v`` ``[B, Hkv, Tk, d]``, ``mask`` as `model.kernels.inputs.split_mask` takes
    it; the result's shapes are in `AttentionResult`.
    """
    scores, dead = _scores(q, k, mask, scale)
    probabilities = scores.softmax(dim=-1)
    if dead is not None:
        probabilities = probabilities.masked_fill(dead, 0.0)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    output = (probabilities @ v.to(probabilities.dtype)).to(q.dtype)
    lse = None
    if need_lse:
        lse = scores.logsumexp(dim=-1)
        if dead is not None:
            lse = lse.masked_fill(dead.squeeze(-1), -torch.inf)
    return AttentionResult(output, probabilities.mean(dim=1) if need_map else None, lse)


def attention_map_reference(
    q: Tensor, k: Tensor, lse: Tensor, *, mask: Tensor | None, scale: float, head_weights: Tensor | None
) -> Tensor:
    """The map ``[B, Tq, Tk]`` from the log-sum-exps ``[B, H, Tq]`` of a pass over (at least) these keys: the mean over
    the heads, or their sum weighted with ``head_weights`` ``[H]``."""
    scores, dead = _scores(q, k, mask, scale)
    nothing = (lse == -torch.inf)[..., None]
    if dead is not None:
        nothing = nothing | dead
    # Zero where nothing was attended: exp(x - -inf) would be inf.
    shifted = scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None]
    probabilities = shifted.masked_fill(nothing, -torch.inf).exp()
    if head_weights is None:
        return probabilities.mean(dim=1)
    return torch.einsum("bhqk,h->bqk", probabilities, head_weights.to(probabilities.dtype))
