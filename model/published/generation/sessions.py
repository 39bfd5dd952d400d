"""Rows that have read their prompts write their answers, each by its own settings.

The tokens are chosen by `model.published.generation.batch`; here, its batch runs over a session, which keeps the keys
and values of its rows itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.interface import Generation
from model.published.generation.batch import Batch, Feed, Row, WritingOptions
from model.published.generation.config import WritingDefaults
from model.published.generation.detokenizer import Detokenizer

FOLLOWED = ("max_new_tokens", "temperature", "top_p", "seed", "stop", "top_logprobs")
"""The fields of `Generation` that `write` follows; the last tells more, and changes nothing."""

Decode = Callable[[Sequence[int]], str]


class Session(Protocol):
    """Rows that have read their prompts."""

    logits: Tensor
    """``[rows, vocabulary]``: of the first token to write."""

    def step(self, ids: Tensor) -> Tensor:
        """Feed ``ids`` ``[rows, 1]``; the next token's logits ``[rows, vocabulary]``."""


class _SessionStack:
    """A session as what a `Batch` asks. Rows that are finished are fed on; nothing of it is kept."""

    def __init__(self, session: Session, rows: Sequence[Row], ends: Collection[int], decode: Decode) -> None:
        self.end_ids, self.device, self.text_of = frozenset(ends), session.logits.device, decode
        self._session, self._rows, self._started = session, rows, False

    def __call__(self, feed: Feed) -> Tensor:
        if not self._started:
            self._started = True
            return self._session.logits
        last = [row.detokenizer.ids[-1] if row.detokenizer.ids else 0 for row in self._rows]
        logits = self._session.step(torch.tensor(last, device=self.device)[:, None])
        wanted = {id(row) for row in feed.rows}
        return logits[[place for place, row in enumerate(self._rows) if id(row) in wanted]]


def start(
    session: Session,
    options: Sequence[Generation | None],
    *,
    ends: Collection[int],
    defaults: WritingDefaults,
    contexts: Sequence[Sequence[int]],
    most: int,
    decode: Decode,
) -> tuple[list[Row], Batch]:
    """The rows of ``session``, each with its first token, and the batch of those that are not finished by it.

    * ``options``: of each row; ``defaults`` holds where they do not say; ``most`` is how many tokens the model has room
      for. ``contexts`` are the ids before each row's answer.
    * ``ends``: the tokens that end an answer. ``decode`` makes text of ids, without special tokens, spaces kept.
    """
    rows = []
    for asked, context in zip(options, contexts, strict=True):
        settled = WritingOptions.of(asked, defaults, limit=max(1, most))
        row = Row([0], settled, Detokenizer(decode, settled.stop), context=context)  # its prompt was read
        row.processors = defaults.processors(len(context), ends, session.logits.device)
        rows.append(row)
    batch = Batch(_SessionStack(session, rows, ends, decode))
    batch.join(rows)
    return rows, batch


def before_stop(ids: Sequence[int], stop: Sequence[str] | None, decode: Decode) -> int:
    """How many of the tokens come before any of the ``stop`` strings in their text; all where none occurs."""
    text = decode(ids) if stop else ""
    places = [place for one in stop or () if one and (place := text.find(one)) >= 0]
    kept = len(ids)
    while places and kept and len(decode(ids[:kept])) > min(places):
        kept -= 1
    return kept
