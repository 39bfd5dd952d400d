"""Writing token by token, for any model that does: rows join a batch and leave it between two tokens.

A `Row` is one text that is being answered. A `Batch` holds the rows that are under way, and the keys and values of
their own tokens, padded on the left so that all rows grow at the same end. What rows attend to beside their own tokens
(an image) is their `Row.source`; rows of one source stand side by side. The model is a `Stack`: one pass over the next
tokens of some rows.

The token is the most likely one, or is drawn by ``temperature`` and ``top_p`` with a generator of the row's own, so
that what else is in the batch changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

from model import progress
from model.interface import Generation, Progress, TokenChoice
from model.published.generation.config import WritingDefaults
from model.published.generation.detokenizer import Detokenizer

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class WritingOptions:
    """`model.interface.Generation` with the model's defaults filled in."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top: int = 0

    @classmethod
    def of(cls, asked: Generation | None, defaults: WritingDefaults, *, limit: int) -> WritingOptions:
        """What a request asks, or else the model's ``defaults``; never more than ``limit`` tokens."""
        given = asked or Generation()
        most = defaults.max_new_tokens if given.max_new_tokens is None else given.max_new_tokens
        return cls(
            max_new_tokens=max(1, min(most, limit)),
            temperature=given.temperature or 0.0,
            top_p=defaults.top_p if given.top_p is None else given.top_p,
            top_k=defaults.top_k,
            seed=given.seed or 0,
            stop=tuple(text for text in given.stop or () if text),
            top=given.top_logprobs,
        )


@dataclass(eq=False, slots=True)
class Row:
    """One text that is being answered. ``prompt``: the ids that are fed first; ``source``: what the row attends to
    beside its own tokens. ``first`` ``[vocabulary]``: the logits of the first token, where the prompt was fed before.
    ``processors`` (`WritingDefaults.processors`) change the logits, by the ids of ``context``, which is all before the
    answer, and of the answer."""

    prompt: list[int]
    options: WritingOptions
    detokenizer: Detokenizer
    source: Hashable = None
    context: Sequence[int] = ()
    processors: Sequence[LogitsProcessor] = ()
    first: Tensor | None = None
    choices: list[TokenChoice] = field(default_factory=list)
    finish: Finish | None = None
    log_probability: float = 0.0
    _generator: torch.Generator | None = None

    @property
    def tokens(self) -> int:
        """The most tokens of its own that it may come to have."""
        return len(self.prompt) + self.options.max_new_tokens

    def news(self, index: int, told: int) -> Progress | None:
        """What there is of the row behind the ``told`` tokens that were reported, and of its text; None for nothing.
        ``index`` is the text's among its item's."""
        text = self.detokenizer.release(over=self.finish is not None)
        return Progress(index, text, tuple(self.choices[told:])) if text or len(self.choices) > told else None

    def processed(self, logits: Tensor) -> Tensor:
        """Float32 ``[vocabulary]`` as the row's processors change it."""
        if not self.processors:
            return logits
        ids = torch.tensor([[*self.context, *self.detokenizer.ids]], device=logits.device)
        scores = logits[None]
        for processor in self.processors:
            scores = processor(ids, scores)  # a tensor of its own, by their contract
        return scores[0]

    def draw(self, logits: Tensor) -> int:
        """A token by the row's temperature, top_k and top_p, from ``[vocabulary]``."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.options.seed)
        ordered, ids = (logits.cpu().double() / self.options.temperature).sort(descending=True)
        if self.options.top_k:
            ordered[self.options.top_k :] = -torch.inf
        ordered = ordered.softmax(-1)
        beyond = ordered.cumsum(0) - ordered >= self.options.top_p  # those before already reach it
        beyond[0] = False
        ordered[beyond] = 0.0
        return int(ids[torch.multinomial(ordered, 1, generator=self._generator)])


@dataclass(frozen=True, slots=True)
class Feed:
    """The next tokens of some rows: ``ids`` ``[rows, tokens]``, padded on the left. ``lengths`` ``[rows]``: each row's
    own tokens up to and with these. ``cache`` holds the keys and values of the earlier ones, as many for every row, and
    takes those of these; of them each row's last ones are real."""

    ids: Tensor
    lengths: Tensor
    rows: Sequence[Row]
    cache: Any

    @property
    def places(self) -> Tensor:
        """Which of its row's own tokens each is, ``[rows, tokens]``, from 0; 0 for the padding."""
        tokens = self.ids.shape[1]
        steps = torch.arange(tokens, device=self.ids.device) - tokens
        return (self.lengths[:, None] + steps).clamp_min(0)


class Stack(Protocol):
    """What a `Batch` needs of a model."""

    end_ids: frozenset[int]
    device: torch.device

    def __call__(self, feed: Feed) -> Tensor:
        """One pass. Logits ``[rows, vocabulary]`` of each row's next token."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""


class Batch:
    """The rows that are under way, and their own keys and values."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.rows: list[Row] = []
        self._lengths: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []  # [rows, key heads, longest, head_dim] each

    def join(self, rows: Sequence[Row]) -> None:
        """Read the rows' prompts and write the first token of each. Those that are finished by it do not stay."""
        rows = _side_by_side(rows)
        fed = [row for row in rows if row.first is None]
        ready = [row for row in rows if row.first is not None]
        logits: list[Tensor] = []
        layers: list[tuple[Tensor, Tensor]] = []
        if fed:
            longest = max(len(row.prompt) for row in fed)
            ids = [[0] * (longest - len(row.prompt)) + row.prompt for row in fed]
            cache = DynamicCache()
            logits += self._pass(ids, [len(row.prompt) for row in fed], fed, cache).unbind()
            layers = [(layer.keys, layer.values) for layer in cache.layers]
        logits += [row.first for row in ready if row.first is not None]
        joined = [*fed, *ready]
        self._choose(joined, torch.stack(logits))
        lengths = [0 if row.first is not None else len(row.prompt) for row in joined]
        self._layers = _merged(self._layers, len(self.rows), layers, len(fed), len(ready))
        self.rows += joined
        self._lengths += lengths
        self._keep_only(row for row in _side_by_side(self.rows) if row.finish is None)

    def step(self) -> None:
        """Write one more token of each row. Those that are finished by it leave."""
        if not self.rows:
            return
        progress.step()
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._layers):
            cache.update(keys, values, index)
        self._lengths = [length + 1 for length in self._lengths]
        logits = self._pass([[row.detokenizer.ids[-1]] for row in self.rows], self._lengths, self.rows, cache)
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._choose(self.rows, logits)
        if any(row.finish for row in self.rows):
            self._keep_only(row for row in self.rows if row.finish is None)

    def finish(self) -> None:
        """Write until no row is under way."""
        while self.rows:
            self.step()

    def leave(self, rows: Sequence[Row]) -> None:
        """Forget rows, finished or not."""
        gone = set(map(id, rows))
        self._keep_only(row for row in self.rows if id(row) not in gone)

    def _pass(self, ids: list[list[int]], lengths: list[int], rows: Sequence[Row], cache: Any) -> Tensor:
        device = self.stack.device
        feed = Feed(torch.tensor(ids, device=device), torch.tensor(lengths, device=device), rows, cache)
        return self.stack(feed)

    def _choose(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Add to each row the token that its logits ``[rows, vocabulary]`` give."""
        given = logits.float()
        plain = given.log_softmax(-1)
        scores = torch.stack([row.processed(own) for row, own in zip(rows, given, strict=True)])
        best = scores.argmax(-1).tolist()
        for row, own, drawn_from, token in zip(rows, plain, scores, best, strict=True):
            self._add(row, row.draw(drawn_from) if row.options.temperature > 0 else token, own)

    def _add(self, row: Row, token: int, log_probabilities: Tensor) -> None:
        chosen = float(log_probabilities[token])
        row.log_probability += chosen
        if token in self.stack.end_ids:
            row.finish = "stop"
            row.detokenizer.end()
            return
        new = row.detokenizer.add(token)
        row.choices.append(TokenChoice(new, chosen, self._alternatives(row, log_probabilities)))
        if row.detokenizer.stopped:
            row.finish = "stop"
        elif len(row.detokenizer.ids) >= row.options.max_new_tokens:
            row.finish = "length"
            row.detokenizer.end()

    def _alternatives(self, row: Row, log_probabilities: Tensor) -> tuple[tuple[str, float], ...]:
        if not row.options.top:
            return ()
        best = log_probabilities.topk(min(row.options.top, len(log_probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple((self.stack.text_of([i]), value) for i, value in pairs)

    def _keep_only(self, rows: Any) -> None:
        """Keep these rows, in this order, and no more padding than they need."""
        kept = list(rows)
        places = {id(row): place for place, row in enumerate(self.rows)}
        order = [places[id(row)] for row in kept]
        if order != list(range(len(self.rows))):
            index = torch.tensor(order, dtype=torch.long, device=self.stack.device)
            longest = max((self._lengths[place] for place in order), default=0)
            self._layers = [
                (keys[index, :, keys.shape[2] - longest :], values[index, :, values.shape[2] - longest :])
                for keys, values in self._layers
            ]
            if not kept or not longest:
                self._layers = []
            self._lengths = [self._lengths[place] for place in order]
            self.rows = kept


def _side_by_side(rows: Sequence[Row]) -> list[Row]:
    """The rows with those of one source next to each other, sources in the order in which they came."""
    first: dict[Hashable, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row.source, place)
    return sorted(rows, key=lambda row: first[row.source])


def _merged(
    old: list[tuple[Tensor, Tensor]], old_rows: int, new: list[tuple[Tensor, Tensor]], new_rows: int, empty_rows: int
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of rows of two batches, and of rows that have none yet, as one batch."""
    layers = old or new
    if not layers:
        return []
    longest = max(part[0][0].shape[2] for part in (old, new) if part)
    merged = []
    for index, sample in enumerate(layers):
        pair = []
        for which in (0, 1):
            like = sample[which]
            parts = [
                _padded(part[index][which] if part else None, rows, longest, like)
                for part, rows in ((old, old_rows), (new, new_rows), ([], empty_rows))
                if rows
            ]
            pair.append(torch.cat(parts))
        merged.append((pair[0], pair[1]))
    return merged


def _padded(x: Tensor | None, rows: int, length: int, like: Tensor) -> Tensor:
    """``[rows, heads, tokens, dim]`` with zeros before them, up to ``length`` tokens."""
    whole = like.new_zeros(rows, like.shape[1], length, like.shape[3])
    if x is not None:
        whole[:, :, length - x.shape[2] :] = x
    return whole


def geometric_mean(log_probability: float, tokens: int) -> float:
    """The mean probability of a sequence's tokens."""
    return math.exp(log_probability / max(1, tokens))
