"""What every kernel takes and gives: the checks of the inputs, and the result."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class AttentionResult(NamedTuple):
    """What attention gives.

    * ``output`` ``[B, H, Tq, d]``, of the queries' dtype;
    * ``map`` ``[B, Tq, Tk]``: the attention probabilities averaged over the heads, or None where it was not asked for;
    * ``lse`` ``[B, H, Tq]``: natural log of the sum of exponentiated scores (-inf for a fully masked row), or None
      where it was not asked for. `attention_map` makes any part of the map from it later.

    ``map`` and ``lse`` are float32 (float64 for float64 inputs).
    """

    output: Tensor
    map: Tensor | None
    lse: Tensor | None = None


def accumulator_dtype(x: Tensor) -> torch.dtype:
    """The dtype of scores, maps and log-sum-exps for inputs ``x`` ``[...]``: float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def default_scale(q: Tensor) -> float:
    """``1 / sqrt(d)`` for queries ``[B, H, Tq, d]``."""
    return 1.0 / math.sqrt(q.shape[-1])


def check_queries_keys(q: Tensor, k: Tensor) -> None:
    """Raise ValueError unless ``q`` ``[B, H, Tq, d]`` and ``k`` ``[B, Hkv, Tk, d]`` fit together."""
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(
            "queries and keys must be head-split, [batch, heads, tokens, head_dim]; "
            f"got shapes {list(q.shape)} and {list(k.shape)}"
        )
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"queries have batch {q.shape[0]}, keys have batch {k.shape[0]}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"queries have head_dim {q.shape[3]}, keys have head_dim {k.shape[3]}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads cannot be shared out over {k.shape[1]} key heads")
    if k.shape[2] == 0:
        raise ValueError("there are no keys to attend to")
    if q.dtype != k.dtype:
        raise ValueError(f"queries are {q.dtype}, keys are {k.dtype}; they must be of one dtype")
    if not q.is_floating_point():
        raise ValueError(f"attention is for floating point tensors, not {q.dtype}")
    if q.device != k.device:
        raise ValueError(f"queries are on {q.device}, keys are on {k.device}")


def check_values(k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless ``v`` has the shape ``[B, Hkv, Tk, d]``, dtype and device of the keys ``k``."""
    if v.shape != k.shape or v.dtype != k.dtype or v.device != k.device:
        raise ValueError(
            "values must have the keys' shape, dtype and device; "
            f"got {list(v.shape)} {v.dtype} {v.device} and {list(k.shape)} {k.dtype} {k.device}"
        )


def masked_from(dtype: torch.dtype) -> float:
    """A float mask's values from here down forbid a key, as -inf does.

    Transformers' masks hold the lowest number of their dtype, others' -1e9: beside such a number float32 keeps nothing
    of a score, so there is no softmax to speak of where a row holds nothing else.
    """
    return max(-1e8, torch.finfo(dtype).min / 2)


def split_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Tell the two kinds of mask apart: ``(key_mask, bias)``, at most one of them not None.

    ``key_mask`` is bool ``[B, Tk]`` (True: may be attended). ``bias`` is float, 4-D, every size that of
    ``[B, H, Tq, Tk]`` or 1, -inf where a key is forbidden. Raises ValueError for anything else.
    """
    if mask is None:
        return None, None
    if mask.device != q.device:
        raise ValueError(f"queries are on {q.device}, the mask is on {mask.device}")
    B, H, Tq, Tk = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    if mask.dtype == torch.bool:
        if mask.shape != (B, Tk):
            raise ValueError(f"a bool mask must be [batch, keys] = {[B, Tk]}, got {list(mask.shape)}")
        return mask, None
    if not mask.is_floating_point():
        raise ValueError(f"a mask is bool (True: may be attended) or float (added to the scores), not {mask.dtype}")
    full = (B, H, Tq, Tk)
    shape = (1,) * (4 - mask.ndim) + tuple(mask.shape)
    if len(shape) != 4 or any(have not in (1, want) for have, want in zip(shape, full, strict=True)):
        raise ValueError(f"a float mask must broadcast to {list(full)}, got {list(mask.shape)}")
    return None, mask.masked_fill(mask <= masked_from(mask.dtype), -torch.inf).view(shape)
