"""BLIP's decoder at work: generating with a KV cache, and scoring given sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from model.interface import Generation
from model.published.blip.text_stack import Stacked, TextStack
from model.published.generation.beam_search import Generated, beam_search
from model.published.generation.config import BeamOptions, WritingDefaults
from model.published.generation.sessions import Decode, before_stop, start
from model.rows import Source

Sources = Callable[[Sequence[int], int], list[Source]]
"""``(rows, hypotheses) -> sources``: what these rows of a batch look at, with so many hypotheses each."""


class Decoder:
    """A causal `TextStack` and its vocabulary head ``[.., dim] -> [.., vocabulary]``."""

    def __init__(self, stack: TextStack, head: Any, *, end: int, options: BeamOptions) -> None:
        self.stack, self.head, self.end, self.options = stack, head, end, options

    def generate(
        self, prompts: Tensor, sources: Sources, options: Sequence[Generation | None], *, room: int, decode: Decode
    ) -> list[list[Generated]]:
        """Continue ``prompts`` ``[rows, tokens]``, all of one length, as each row's ``options`` say: a row with a
        temperature is drawn once, all others are searched with beams (see `beam_search` for what comes out).

        ``room``: the most tokens that may be written; ``decode`` makes text of ids, in which stop strings are sought.
        """
        given = [one or Generation() for one in options]
        groups: dict[int, list[int]] = {}  # beams of one limit run together, and so do all drawn rows (limit 0)
        for i, one in enumerate(given):
            limit = 0 if one.temperature else max(1, min(one.max_new_tokens or self.options.max_new_tokens, room))
            groups.setdefault(limit, []).append(i)
        found: dict[int, list[Generated]] = {}
        for limit, members in groups.items():

            def own(rows: Sequence[int], hypotheses: int, members: list[int] = members) -> list[Source]:
                return sources([members[row] for row in rows], hypotheses)

            if limit:
                made = self._search(prompts[members], own, replace(self.options, max_new_tokens=limit))
            else:
                made = self._draw(prompts[members], own, [given[i] for i in members], room, decode)
            found.update(zip(members, made, strict=True))
        return [[_cut(one, given[i].stop, decode) for one in found[i]] for i in range(len(given))]

    def _draw(
        self, prompts: Tensor, sources: Sources, options: Sequence[Generation], room: int, decode: Decode
    ) -> list[list[Generated]]:
        session = _Session(self, prompts, sources(list(range(len(prompts))), 1))
        given = WritingDefaults(self.options.max_new_tokens, repetition_penalty=self.options.repetition_penalty)
        contexts = prompts.tolist()
        rows, batch = start(
            session, options, ends=(self.end,), defaults=given, contexts=contexts, most=room, decode=decode
        )
        batch.finish()
        return [[Generated(tuple(row.detokenizer.ids), row.log_probability, row.finish == "stop")] for row in rows]

    def _search(self, prompts: Tensor, sources: Sources, options: BeamOptions) -> list[list[Generated]]:
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
        return beam_search(logits, step, options, end=self.end, prompts=prompts.tolist())

    def feed(self, ids: Tensor, sources: Sequence[Source], *, need_maps: bool = False) -> Stacked:
        """One pass over whole sequences ``[rows, tokens]``. Padding behind them harms nothing: it comes later."""
        result: Stacked = self.stack(self.stack.embed(ids), sources, causal=True, need_maps=need_maps)
        return result

    def log_probabilities(self, states: Tensor, targets: Tensor) -> Tensor:
        """Of the target that each state ``[rows, tokens, dim]`` is to predict, ``[rows, tokens]``; 0 where it is -1."""
        logits: Tensor = self.head(states).float()
        found = logits.log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
        return found.masked_fill(targets < 0, 0.0)


class _Session:
    """Rows that each have one hypothesis."""

    def __init__(self, decoder: Decoder, prompts: Tensor, sources: Sequence[Source]) -> None:
        self._decoder, self._sources, self._fed = decoder, sources, 0
        self._cache: Any = DynamicCache()
        self.logits = self.step(prompts)

    def step(self, ids: Tensor) -> Tensor:
        stack = self._decoder.stack
        result = stack(stack.embed(ids, self._fed), self._sources, causal=True, cache=self._cache)
        self._fed += ids.shape[1]
        logits: Tensor = self._decoder.head(result.states[:, -1])
        return logits


def _cut(one: Generated, stop: Sequence[str] | None, decode: Decode) -> Generated:
    """The sequence up to the first stop string; its log-probability stays that of what was found."""
    kept = before_stop(one.ids, stop, decode)
    return one if kept == len(one.ids) else Generated(one.ids[:kept], one.log_probability, True)


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
