"""What Llama 3.2 Vision and Idefics share: a language model with layers of cross-attention between its own.

An image's keys and values are made once and kept; every question, and every token of an answer, attends to them through
`CrossAttention`. Each such layer has gates: how much of what was found goes on.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from model.cross_attention import CrossAttention, KeysValues
from model.interface import EncodedImage, Geometry, MapRequest
from model.published.generation.sessions import Session
from model.published.prompted.family import Prompted, side_by_side
from model.published.prompted.prompts import Forced, Prompt
from model.rows import Source, attend


@dataclass(frozen=True, slots=True)
class CrossImage:
    """An encoded image: its keys and values ``[1, key heads, keys, head_dim]`` for every layer of cross-attention; or,
    where those would take too much, the ``features`` ``[1, keys, dim]`` that they are projected from. Where keys are
    latents, ``latent_map`` ``[latents, image keys]`` is where those looked."""

    layers: list[KeysValues]
    geometry: Geometry
    batch_key: Hashable
    latent_map: Tensor | None = None
    features: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """The memory of all tensors, in bytes."""
        own = sum(layer.nbytes for layer in self.layers)
        return own + sum(tensor.nbytes for tensor in (self.latent_map, self.features) if tensor is not None)


@dataclass(frozen=True, slots=True)
class Crossed:
    """``states`` ``[rows, tokens, dim]`` after the last layer and, on request, for each layer of cross-attention its
    map ``[rows, tokens, keys]``."""

    states: Tensor
    maps: list[Tensor]


class CrossBlock(nn.Module):
    """A layer of gated cross-attention with its feed-forward: ``x + tanh(gate) * attention``, then the same of that."""

    def __init__(self, attention: CrossAttention, theirs: Any, gate: nn.Parameter, mlp_gate: nn.Parameter) -> None:
        """``theirs``: the layer of transformers whose norms and feed-forward it takes."""
        super().__init__()
        self.attention, self.mlp = attention, theirs.mlp
        self.before, self.between = theirs.input_layernorm, theirs.post_attention_layernorm
        self.gate, self.mlp_gate = gate, mlp_gate

    def forward(
        self,
        states: Tensor,
        sources: Sequence[Source],
        layer: int,
        *,
        seen: Tensor | None = None,
        silent: bool = False,
        need_map: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """``states`` ``[rows, tokens, dim]``, the rows of ``sources`` in their order.

        ``seen`` ``[rows, tokens, 1]`` is 0 for tokens that stand before the image: they get nothing from it, and
        nothing from the feed-forward either where ``silent``.
        """
        found, looked = attend(self.attention, self.before(states), sources, layer, need_map=need_map)
        if seen is not None:
            found = found * seen
            looked = None if looked is None else looked * seen
        states = states + self.gate.tanh() * found
        made = self.mlp(self.between(states))
        if seen is not None and silent:
            made = made * seen
        return states + self.mlp_gate.tanh() * made, looked


class CrossStack(nn.Module):
    """Such a language model, its cross-attention ours: what it shares with transformers' own, and how it is run."""

    cross_layers: tuple[int, ...]
    """The layers of cross-attention, as transformers counts them."""
    blocks: list[CrossBlock]
    steps: Sequence[nn.Module]
    """All layers in the order in which they run: the blocks, and the language model's own between them."""
    silent: bool = False
    """Whether tokens before the image get nothing from a block's feed-forward either."""
    embed: nn.Module
    norm: nn.Module

    def project(self, states: Tensor) -> list[KeysValues]:
        """Keys and values for all layers of cross-attention from ``[images, keys, dim]``, contiguous by head."""
        made = [block.attention.project(states) for block in self.blocks]
        return [KeysValues(keys.contiguous(), values.contiguous()) for keys, values in made]

    def _options(self, states: Tensor, places: Tensor) -> dict[str, Any]:
        """What the language model's own layers take beside states, mask, places and cache."""
        return {}

    def run(
        self,
        ids: Tensor,
        sources: Sequence[Source],
        cache: DynamicCache,
        start: int,
        *,
        seen: Tensor | None = None,
        need_maps: bool = False,
    ) -> Crossed:
        """Feed ``ids`` ``[rows, tokens]``, the first at place ``start``; ``cache`` has those before and takes these.
        ``seen``: see `CrossBlock`."""
        states = self.embed(ids)
        places = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        own = {
            "attention_mask": causal_bias(states, start),
            "position_ids": places,
            "past_key_values": cache,
            **self._options(states, places),
        }
        maps: list[Tensor] = []
        crossed = 0
        for step in self.steps:
            if isinstance(step, CrossBlock):
                states, found = step(states, sources, crossed, seen=seen, silent=self.silent, need_map=need_maps)
                crossed += 1
                if found is not None:
                    maps.append(found)
            else:
                states = step(states, **own)
        return Crossed(self.norm(states), maps)

    def gates(self) -> list[float]:
        """For each layer of cross-attention, the tanh of its gate; of gates per dimension their mean size."""
        found = [block.gate.detach().float().tanh().flatten() for block in self.blocks]
        return [gate.item() if len(gate) == 1 else gate.abs().mean().item() for gate in found]


def causal_bias(like: Tensor, start: int) -> Tensor | None:
    """What is added to self-attention's scores ``[1, 1, tokens, start + tokens]`` for states ``[rows, tokens, dim]``;
    None for a single token, which sees all."""
    tokens = like.shape[1]
    if tokens == 1:
        return None
    allowed = torch.ones(tokens, start + tokens, dtype=torch.bool, device=like.device).tril(start)
    bias = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill(~allowed, torch.finfo(like.dtype).min)[None, None]


class CrossReader(Prompted):
    """A family with a `CrossStack`."""

    stack: CrossStack
    head: Any
    image_id: int
    """The token that stands for the image in a prompt: what comes before it does not see the image."""

    def _begin(self, prompts: Sequence[Prompt], images: Sequence[EncodedImage]) -> Session:
        return _CrossSession(self, torch.tensor([prompt.ids for prompt in prompts], device=self.device), images)

    def _forced(
        self, prompts: Sequence[Prompt], images: Sequence[EncodedImage], made: Tensor, maps: MapRequest | None
    ) -> Forced:
        given = torch.tensor([prompt.ids for prompt in prompts], device=self.device)
        size, ids = given.shape[1], torch.cat([given, made], 1)
        seen = self.seen(ids)
        found = self.stack.run(ids, self.sources(images), DynamicCache(), 0, seen=seen, need_maps=maps is not None)
        logits = self.head(found.states[:, size - 1 :])
        if maps is None:
            return Forced(logits)
        wanted = maps.layers or ()
        chosen = [one for one, layer in zip(found.maps, self.stack.cross_layers, strict=True) if layer in wanted]
        rows = self.over_image(torch.stack(chosen).mean(0), images)
        return Forced(logits, rows[:, :size], rows[:, size - 1 :])

    def sources(self, images: Sequence[EncodedImage]) -> list[Source]:
        """Each image's keys and values, with the rows that ask it."""
        return [
            Source(image.layers if image.features is None else self.stack.project(image.features), rows)
            for image, rows in side_by_side(images)
        ]

    def seen(self, ids: Tensor) -> Tensor | None:
        """``[rows, tokens, 1]``: 1 from the image on, 0 before; None where no token comes before."""
        after = (ids == self.image_id).cumsum(1).clamp(max=1)
        return None if bool(after.all()) else after[..., None].to(self.net.dtype)

    def over_image(self, rows: Tensor, images: Sequence[EncodedImage]) -> Tensor:
        """Maps over the image ``[rows, tokens, image keys]`` from maps over the keys; the same where those are it."""
        return rows

    def _gates(self, maps: MapRequest) -> tuple[float, ...]:
        pairs = zip(self.stack.gates(), self.stack.cross_layers, strict=True)
        return tuple(gate for gate, layer in pairs if layer in (maps.layers or ()))


class _CrossSession:
    def __init__(self, reader: CrossReader, ids: Tensor, images: Sequence[EncodedImage]) -> None:
        self._reader, self._cache, self._fed = reader, DynamicCache(), 0
        self._sources = reader.sources(images)
        self.logits = self._feed(ids, reader.seen(ids))

    def step(self, ids: Tensor) -> Tensor:
        return self._feed(ids, None)

    def _feed(self, ids: Tensor, seen: Tensor | None) -> Tensor:
        found = self._reader.stack.run(ids, self._sources, self._cache, self._fed, seen=seen)
        self._fed += ids.shape[1]
        logits: Tensor = self._reader.head(found.states[:, -1:])[:, -1]
        return logits


def with_cross_attention(theirs: Any, dim_kv: int, num_kv_heads: int | None = None) -> CrossAttention:
    """A `CrossAttention` with the weights of one of transformers' (``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``)."""
    attention = CrossAttention(
        theirs.hidden_size, dim_kv, theirs.num_heads, bias=False, head_dim=theirs.head_dim, num_kv_heads=num_kv_heads
    )
    attention.wq, attention.wk, attention.wv, attention.o = theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj
    return attention
