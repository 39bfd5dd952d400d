"""The text model of a causal vision-language model, fed with tokens behind the prefixes of images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from model.cross_attention import KeysValues
from model.published.attention import AttentionPass, install
from model.published.generation.batch import Feed, Row
from model.published.tokenizer import Tokenizer
from model.rows import Source


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Prefix:
    """A prompt up to its image's last token, as read by the text model: keys and values ``[1, key heads, tokens,
    head_dim]`` a layer. ``columns``: which of its tokens are the image's; ``next_position``: the position of the first
    token behind it."""

    layers: Sequence[KeysValues]
    ids: tuple[int, ...]
    columns: slice | Tensor
    next_position: int

    @property
    def nbytes(self) -> int:
        """The memory of all keys and values, in bytes."""
        return sum(layer.nbytes for layer in self.layers)


class TextStack:
    """A `model.published.generation.batch.Stack` whose rows' sources are `Prefix`es."""

    def __init__(self, net: Any, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        inner = net.model
        self.text = inner.language_model if hasattr(inner, "language_model") else inner.text_model
        self.head, self.embed = net.lm_head, net.get_input_embeddings()
        self.tokenizer, self.end_ids = tokenizer, end_ids
        self.device: torch.device = net.device
        install(self.text)
        self._no_mask = torch.zeros(1, 1, 1, 1, device=self.device, dtype=net.dtype)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens left out."""
        text: str = self.tokenizer.hub.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @torch.no_grad()
    def __call__(self, feed: Feed) -> Tensor:
        """Logits ``[rows, vocabulary]`` of each row's next token."""
        states, _ = self.states(feed)
        logits: Tensor = self.head(states[:, -1])
        return logits

    def states(self, feed: Feed, keep: Collection[int] = ()) -> tuple[Tensor, AttentionPass]:
        """States ``[rows, tokens, dim]`` of the fed tokens, and the pass, which has kept the layers ``keep``."""
        starts = torch.tensor([_prefix(row).next_position for row in feed.rows], device=self.device)
        running = AttentionPass(keep=keep, sources=sources_of(feed.rows), lengths=feed.lengths)
        with running:
            output = self.text(
                inputs_embeds=self.embed(feed.ids),
                position_ids=feed.places + starts[:, None],
                attention_mask=self._no_mask,  # the pass masks by itself; without one, the model would build its own
                past_key_values=feed.cache,
                use_cache=True,
            )
        return output.last_hidden_state, running

    @torch.no_grad()
    def log_probabilities(self, rows: Sequence[Row], targets: Sequence[Sequence[int]]) -> list[float]:
        """For each row, the log-probability of its target behind its prompt."""
        fed = [[*row.prompt, *target][:-1] for row, target in zip(rows, targets, strict=True)]
        states, _ = self.states(self.feed(rows, fed))
        found = []
        for own, target in zip(states, targets, strict=True):
            logits = self.head(own[len(own) - len(target) :]).float().log_softmax(-1)
            wanted = torch.tensor(target, device=self.device)
            found.append(float(logits.gather(-1, wanted[:, None]).sum()))
        return found

    def feed(self, rows: Sequence[Row], ids: Sequence[Sequence[int]]) -> Feed:
        """Whole sequences behind the rows' prefixes, for one pass."""
        longest = max(map(len, ids))
        padded = [[0] * (longest - len(own)) + list(own) for own in ids]
        lengths = torch.tensor([len(own) for own in ids], device=self.device)
        return Feed(torch.tensor(padded, device=self.device), lengths, rows, DynamicCache())


def kv_bytes(config: Any, tokens: int, dtype: torch.dtype) -> int:
    """The memory of so many tokens' keys and values in all text layers of a model with this configuration, in bytes."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * int(heads) * int(head_dim) * tokens * int(dtype.itemsize)


def sources_of(rows: Sequence[Row]) -> list[Source]:
    """Rows of one prefix that stand side by side, as one source."""
    return [Source(prefix.layers, len(list(group))) for prefix, group in groupby(map(_prefix, rows))]


def _prefix(row: Row) -> Prefix:
    assert isinstance(row.source, Prefix)  # noqa: S101 - rows of this stack are made so
    return row.source
