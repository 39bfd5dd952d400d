"""Cross-attention: the question's tokens ask, the image's patches answer. The heart of the project; read this first.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V

with queries Q from one sequence, keys K and values V from another, in ``num_heads`` heads side by side. In code, with
``q``, ``k`` and ``v`` split into heads ``[batch, heads, tokens or patches, head_dim]``:

    scores = q @ k.transpose(-2, -1) / head_dim**0.5  # [batch, heads, tokens, patches]
    probabilities = scores.softmax(-1)
    attended = probabilities @ v  # [batch, heads, tokens, head_dim]
    output = o(attended.transpose(1, 2).flatten(2))  # heads merged, [batch, tokens, dim_q]

The rows of the softmax are probabilities over patches. So their mean over the heads, ``probabilities.mean(1)``, says
for each token where it looked: that is the map.

Next, read `model/kernels/reference.py`: the same lines with masks. The other files of `model.kernels` compute them
faster. Source: Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.kernels import KERNELS, cross_attention
from model.kernels.inputs import masked_from


class KeysValues(NamedTuple):
    """What an image gives to one layer, split into heads: two tensors ``[batch, key heads, patches, head_dim]``."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        """The memory of both, in bytes."""
        return self.keys.nbytes + self.values.nbytes


class CrossAttention(nn.Module):
    """Multi-head cross-attention from ``q`` ``[batch, tokens, dim_q]`` to ``kv`` ``[batch, patches, dim_kv]``.

    * ``head_dim``: ``dim_q / num_heads`` unless given.
    * ``num_kv_heads``: key and value heads, a divisor of ``num_heads``, each shared by a group of query heads (Ainslie
      et al., "GQA", 2023); ``num_heads`` unless given.
    * ``qk_norm``: an RMS norm over ``head_dim`` on queries and keys (Dehghani et al., "Scaling Vision Transformers to
      22 Billion Parameters", 2023), as Llama 3.2 Vision has it.

    Raises ValueError where ``dim_q`` or the heads do not divide so. `kernel` (see `model.kernels.KERNELS`) says how it
    is computed, not what: `set_kernel` sets it for a whole model.
    """

    def __init__(
        self,
        dim_q: int,
        dim_kv: int,
        num_heads: int,
        *,
        bias: bool = True,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or (head_dim is None and dim_q % num_heads):
            raise ValueError(f"dim_q = {dim_q} cannot be split into {num_heads} heads")
        self.dim_q, self.dim_kv, self.num_heads = dim_q, dim_kv, num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if self.num_kv_heads < 1 or num_heads % self.num_kv_heads:
            raise ValueError(f"{num_heads} query heads cannot be shared out over {num_kv_heads} key heads")
        self.head_dim = head_dim or dim_q // num_heads
        inner, inner_kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.wq = nn.Linear(dim_q, inner, bias=bias)
        self.wk = nn.Linear(dim_kv, inner_kv, bias=bias)
        self.wv = nn.Linear(dim_kv, inner_kv, bias=bias)
        self.o = nn.Linear(inner, dim_q, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else None
        self.kernel = "auto"

    def forward(
        self, q: Tensor, kv: Tensor | KeysValues, *, mask: Tensor | None = None, need_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The attended output ``[batch, tokens, dim_q]`` and, on request, the map ``[batch, tokens, patches]``.

        * ``kv``: features ``[batch, patches, dim_kv]``, or what `project` made of them.
        * ``mask``: bool ``[batch, patches]``, True where a patch may be attended; or a float mask that is added to the
          scores (see `model.kernels.cross_attention`).

        The map is float32, non-negative, and each row sums to 1. A token all of whose patches are masked gets output 0
        and map 0. Raises ValueError for wrong ranks or sizes.
        """
        self._check("q", q, "tokens", self.dim_q)
        keys, values = kv if isinstance(kv, KeysValues) else self.project(kv)
        if keys.shape[0] != q.shape[0]:
            raise ValueError(f"q has batch {q.shape[0]}, kv has batch {keys.shape[0]}")
        queries = self._split(self.wq(q), self.q_norm)  # [batch, heads, tokens, head_dim]
        attended = cross_attention(queries, keys, values, mask=mask, need_map=need_map, kernel=self.kernel)
        output: Tensor = self.o(attended.output.transpose(1, 2).flatten(2))  # heads merged, [batch, tokens, dim_q]
        if mask is not None:  # without a patch to look at there is nothing to add, not even o.bias
            output = output.masked_fill(_nothing_to_attend(mask), 0.0)
        return output, attended.map

    def project(self, kv: Tensor) -> KeysValues:
        """Keys and values of ``kv`` ``[batch, patches, dim_kv]``: made once, used for any question."""
        self._check("kv", kv, "patches", self.dim_kv)
        return KeysValues(self._split(self.wk(kv), self.k_norm), self._split(self.wv(kv)))

    @property
    def queries(self) -> nn.Module:
        """The module whose output are the queries; with `keys`, `values` and `output` what `model.attribution.record`
        watches."""
        return self.q_norm or self.wq

    @property
    def keys(self) -> nn.Module:
        """The module whose output are the keys."""
        return self.k_norm or self.wk

    @property
    def values(self) -> nn.Module:
        """The module whose output are the values."""
        return self.wv

    @property
    def output(self) -> nn.Module:
        """The module whose input are the attended values, heads merged."""
        return self.o

    def _split(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """``[batch, n, heads * head_dim]`` -> ``[batch, heads, n, head_dim]``, through the norm if there is one."""
        heads = x.view(x.shape[0], x.shape[1], x.shape[2] // self.head_dim, self.head_dim)
        return (heads if norm is None else norm(heads)).transpose(1, 2)

    @staticmethod
    def _check(name: str, x: Tensor, rows: str, dim: int) -> None:
        if x.ndim != 3 or x.shape[-1] != dim:
            raise ValueError(f"{name} must be [batch, {rows}, {dim}], got {list(x.shape)}")


def _nothing_to_attend(mask: Tensor) -> Tensor:
    """Which tokens have every patch masked in every head: bool, broadcastable to ``[batch, tokens, dim_q]``."""
    if mask.dtype == torch.bool:
        return ~mask.any(dim=-1)[:, None, None]
    dead = (mask <= masked_from(mask.dtype)).all(dim=-1)  # at most [batch, heads, tokens]
    return (dead.all(dim=-2) if mask.ndim > 2 else dead)[..., None]


def project_all(layers: Sequence[CrossAttention], kv: Tensor) -> list[KeysValues]:
    """`CrossAttention.project` of several layers over the same ``kv`` ``[batch, patches, dim_kv]``, in one product.

    Raises ValueError where the layers differ in ``dim_kv`` or in having a bias.
    """
    if not layers:
        return []
    for layer in layers:
        layer._check("kv", kv, "patches", layer.dim_kv)
    linears = [linear for layer in layers for linear in (layer.wk, layer.wv)]
    if len({linear.bias is None for linear in linears}) > 1:
        raise ValueError("layers with and without bias cannot be projected together")
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    parts = torch.split(F.linear(kv, weight, bias), [linear.out_features for linear in linears], dim=-1)
    # Contiguous by head: every later question then reads rows that lie side by side.
    split = [
        layers[i // 2]._split(part, None if i % 2 else layers[i // 2].k_norm).contiguous()
        for i, part in enumerate(parts)
    ]
    return [KeysValues(keys, values) for keys, values in zip(split[::2], split[1::2], strict=True)]


def set_kernel(model: nn.Module, name: str) -> None:
    """Tell every `CrossAttention` in ``model`` which kernel to use. Raises ValueError for an unknown one."""
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}; there are {', '.join(KERNELS)}")
    for module in model.modules():
        if isinstance(module, CrossAttention):
            module.kernel = name
