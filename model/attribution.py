"""Maps that are more than the raw attention of one layer: `gradient_map`, `rollout` and `compose`.

They take what every family has: queries, keys, values, and attention probabilities. Nothing here knows a model;
`record` watches whatever has the parts that `Attention` names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.cross_attention import CrossAttention, KeysValues
from model.kernels.inputs import accumulator_dtype, default_scale, split_mask


class Attention(Protocol):
    """What `record` needs of an attention layer: four modules through which its tensors pass.

    ``queries``, ``keys`` and ``values`` return them as attention takes them, ``[batch, tokens, heads * head_dim]`` or
    ``[batch, tokens, heads, head_dim]``. ``output`` takes in the attended values, ``[batch, tokens, heads *
    head_dim]``. A layer that changes its queries after projection (rotary positions) passes the final ones through an
    `nn.Identity`. `model.cross_attention.CrossAttention` is one.
    """

    num_heads: int
    num_kv_heads: int

    @property
    def queries(self) -> nn.Module:
        """The module that returns the queries, ``num_heads`` of them."""

    @property
    def keys(self) -> nn.Module:
        """The module that returns the keys, ``num_kv_heads`` of them."""

    @property
    def values(self) -> nn.Module:
        """The module that returns the values, ``num_kv_heads`` of them."""

    @property
    def output(self) -> nn.Module:
        """The module that takes in the attended values, usually the output projection."""


class Call(NamedTuple):
    """What one call of a layer computed: ``queries`` and ``attended``, both ``[batch, tokens, heads * head_dim]`` and
    part of the graph. ``attended`` is the softmax-weighted sum of the values, before the output projection. ``kv``:
    the keys and values that it made itself; None where it was given them ready."""

    queries: Tensor
    attended: Tensor
    kv: KeysValues | None = None


@contextmanager
def record(model: nn.Module, layers: Sequence[Attention]) -> Iterator[list[list[Call]]]:
    """Keep what ``layers`` compute while the context is open, with gradients: for each layer its calls, in order.

    Every `CrossAttention` of ``model`` has its kernel left to ``auto`` meanwhile: not every kernel has a gradient.
    """
    calls: list[list[Call]] = [[] for _ in layers]
    kernels = {module: module.kernel for module in model.modules() if isinstance(module, CrossAttention)}
    with ExitStack() as stack:
        for layer, found in zip(layers, calls, strict=True):
            for handle in _watch(layer, found):
                stack.callback(handle.remove)
        for module in kernels:
            module.kernel = "auto"
        try:
            with torch.enable_grad():
                yield calls
        finally:
            for module, kernel in kernels.items():
                module.kernel = kernel


def _watch(layer: Attention, found: list[Call]) -> list[RemovableHandle]:
    """Hooks that add each call of ``layer`` to ``found``."""
    latest: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _args, output: latest.update({name: output})

    def end(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kv = None
        if "keys" in latest:
            kv = KeysValues(*(_split(latest.pop(name), layer.num_kv_heads) for name in ("keys", "values")))
        queries = latest.pop("queries")
        found.append(Call(queries.reshape(*queries.shape[:2], -1), args[0], kv))

    parts = {"queries": layer.queries, "keys": layer.keys, "values": layer.values}
    handles = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    return [*handles, layer.output.register_forward_pre_hook(end)]


def _split(x: Tensor, heads: int) -> Tensor:
    """``[batch, n, heads * head_dim]`` or ``[batch, n, heads, head_dim]`` -> ``[batch, heads, n, head_dim]``."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def score_gradient(
    queries: Tensor,
    gradient: Tensor,
    kv: KeysValues,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    map_gradient: Tensor | None = None,
) -> Tensor:
    """``dS`` per head, ``[batch, heads, tokens, keys]``: the gradient of the result with respect to the attention
    scores. It says how much a stronger look at a key, at the cost of all others, would raise the result.

    * ``queries`` ``[batch, tokens, heads * head_dim]``, and ``gradient`` of the same shape: that of the result with
      respect to the attended values (`Call.attended`). With ``P`` the probabilities, ``dP = gradient V^T`` and
      ``dS = P * (dP - sum(P * dP))`` then are exact, and no graph through the probabilities is needed.
    * ``kv``: the keys and values of that call, ``[batch, key heads, keys, head_dim]``, where each key head may be
      shared by a group of query heads; ``mask`` and ``scale`` as in `model.kernels.cross_attention`.
    * ``map_gradient`` ``[batch, tokens, keys]``: where the result is also read from the head-mean map itself, its
      gradient with respect to that; every head gets an equal part: ``dP = gradient V^T + map_gradient / heads``.

    Raises ValueError where the queries cannot be shared out over the key heads.
    """
    key_heads, head_dim = kv.keys.shape[1], kv.keys.shape[3]
    heads = queries.shape[-1] // head_dim
    if heads * head_dim != queries.shape[-1] or heads % key_heads:
        raise ValueError(
            f"queries of {queries.shape[-1]} numbers cannot be shared out over {key_heads} key heads of {head_dim}"
        )
    g = _split(gradient, heads)
    values = kv.values.repeat_interleave(heads // key_heads, 1) if heads > key_heads else kv.values
    probabilities = head_maps(queries, kv, mask=mask, scale=scale)
    dtype = probabilities.dtype
    change = g.to(dtype) @ values.to(dtype).transpose(-2, -1)
    if map_gradient is not None:
        change = change + map_gradient[:, None].to(dtype) / heads
    weighted: Tensor = probabilities * (change - (probabilities * change).sum(-1, keepdim=True))
    return weighted


def head_maps(queries: Tensor, kv: KeysValues, *, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Where each head looks, ``[batch, heads, tokens, keys]``: attention probabilities, whose mean over the heads is
    the raw map. Arguments as in `score_gradient`."""
    heads, key_heads = queries.shape[-1] // kv.keys.shape[3], kv.keys.shape[1]
    keys = kv.keys.repeat_interleave(heads // key_heads, 1) if heads > key_heads else kv.keys
    return _probabilities(_split(queries, heads), keys, mask, scale)


def gradient_map(
    queries: Tensor, gradient: Tensor, kv: KeysValues, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The head mean of ``relu(dS)`` as ``[batch, tokens, keys]``, float32; see `score_gradient` for the arguments.

    Source: Chefer et al., "Generic Attention-model Explainability", ICCV 2021, equation 5, which has ``relu(P * dP)``.
    That ignores that the probabilities sum to 1: a key that supports the result less than the average key does gets a
    positive value there, although the result would gain from less attention to it.
    """
    return score_gradient(queries, gradient, kv, mask=mask, scale=scale).relu().mean(1)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attention probabilities of every head, ``[batch, heads, tokens, keys]``; rows without a key are 0."""
    dtype = accumulator_dtype(q)
    scores = (q.to(dtype) * (default_scale(q) if scale is None else scale)) @ k.to(dtype).transpose(-2, -1)
    key_mask, bias = split_mask(mask, q, k)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None], -torch.inf)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).nan_to_num(0.0)


def rollout(self_attention: Sequence[Tensor], cross_attention: Sequence[Tensor | None]) -> Tensor:
    """How much of each token's final state came from each key, ``[batch, tokens, keys]``.

    ``self_attention`` ``[batch, tokens, tokens]`` and ``cross_attention`` ``[batch, tokens, keys]`` are head means, one
    per layer; None stands for a layer that adds nothing. Each attention counts half, and its residual the other half.
    What a row lacks to 1 is the share of the text itself.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, carried over to two sequences.
    """
    first = next(cross for cross in cross_attention if cross is not None)
    flow = torch.zeros_like(first)
    for own, cross in zip(self_attention, cross_attention, strict=True):
        flow = 0.5 * (flow + own.to(flow.dtype) @ flow)
        if cross is not None:
            flow = 0.5 * (flow + cross)
    return flow


def compose(*steps: Tensor) -> Tensor:
    """The map ``[batch, tokens, keys]`` of a sequence that attends to the image only through others: the product of the
    steps ``[batch, tokens, queries]``, ``[batch, queries, keys]`` and so on, each the attention from one sequence to
    the next.

    Rows that sum to 1 in every step still do in the product. Raises ValueError without steps.
    """
    if not steps:
        raise ValueError("there are no steps to compose")
    return functools.reduce(torch.matmul, steps)
