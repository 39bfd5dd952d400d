"""BLIP's decoder at work: generating with a KV cache, and scoring given sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from model.published.beam_search import Generated, beam_search
from model.published.blip.text_stack import Stacked, TextStack
from model.published.generation_config import BeamOptions
from model.rows import Source

Sources = Callable[[Sequence[int], int], list[Source]]
"""``(rows, hypotheses) -> sources``: what these rows of a batch look at, with so many hypotheses each."""


class Decoder:
    """A causal `TextStack` and its vocabulary head ``[.., dim] -> [.., vocabulary]``."""

    def __init__(self, stack: TextStack, head: Any, *, end: int, options: BeamOptions) -> None:
        self.stack, self.head, self.end, self.options = stack, head, end, options

    def generate(self, prompts: Tensor, sources: Sources) -> list[list[Generated]]:
        """Continue ``prompts`` ``[rows, tokens]``, all of one length; see `beam_search` for what comes out."""
        cache: Any = DynamicCache()
        fed = prompts.shape[1]
        everyone = list(range(len(prompts)))
        first = self.stack(self.stack.embed(prompts), sources(everyone, 1), causal=True, cache=cache)
        asked: tuple[tuple[int, ...], list[Source]] = ((), [])

        def step(ids: Tensor, beams: Tensor, rows: Sequence[int]) -> Tensor:
            nonlocal fed, asked
            cache.reorder_cache(beams)
            if asked[0] != tuple(rows):  # rows end seldom; their sources are gathered only then
                asked = (tuple(rows), sources(rows, len(ids) // len(rows)))
            result = self.stack(self.stack.embed(ids, fed), asked[1], causal=True, cache=cache)
            fed += 1
            logits: Tensor = self.head(result.states[:, -1])
            return logits

        logits = self.head(first.states[:, -1])
        return beam_search(logits, step, self.options, end=self.end, prompts=prompts.tolist())

    def feed(self, ids: Tensor, sources: Sequence[Source], *, need_maps: bool = False) -> Stacked:
        """One pass over whole sequences ``[rows, tokens]``. Padding behind them harms nothing: it comes later."""
        result: Stacked = self.stack(self.stack.embed(ids), sources, causal=True, need_maps=need_maps)
        return result

    def log_probabilities(self, states: Tensor, targets: Tensor) -> Tensor:
        """Of the target that each state ``[rows, tokens, dim]`` is to predict, ``[rows, tokens]``; 0 where it is -1."""
        logits: Tensor = self.head(states).float()
        found = logits.log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
        return found.masked_fill(targets < 0, 0.0)


def with_targets(
    start: Sequence[Sequence[int]], rest: Sequence[Sequence[int]], *, fill: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What to feed and what to predict, ``[rows, tokens]`` both: ``start + rest`` without its last token, and ``rest``
    one place earlier (-1: nothing)."""
    length = max(len(a) + len(b) for a, b in zip(start, rest, strict=True)) - 1
    fed, targets = [], []
    for a, b in zip(start, rest, strict=True):
        row = [*a, *b][:-1]
        target = [*[-1] * (len(a) - 1), *b]
        fed.append(row + [fill] * (length - len(row)))
        targets.append(target + [-1] * (length - len(target)))
    return torch.tensor(fed, device=device), torch.tensor(targets, device=device)
