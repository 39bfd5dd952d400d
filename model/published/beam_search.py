"""Beam search, as transformers' `generate` does it (tokens are tested to be the same), over rows that end one by one.

Own code because the library's runs only inside its own models, copies the attended keys and values once per beam, and
keeps finished rows in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model import progress


@dataclass(frozen=True, slots=True)
class Generated:
    """One finished sequence: the tokens behind the prompt without the end token, and their log-probability (with the
    end token's, where ``ended``; else the limit cut it off)."""

    ids: tuple[int, ...]
    log_probability: float
    ended: bool


Step = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""``(ids [n, 1], beams [n], rows) -> logits [n, vocabulary]``: the next token's logits after feeding ``ids``.
``beams`` says which of the last step's hypotheses each one continues, ``rows`` which rows of the batch are left, each
with ``n / len(rows)`` hypotheses side by side."""


@dataclass(slots=True)
class _Row:
    """One row's hypotheses. Scores are log-probabilities; of finished ones also divided by their length."""

    beams: list[tuple[tuple[int, ...], float]]
    finished: list[tuple[float, Generated]] = field(default_factory=list)

    def best_possible(self, length: int) -> float:
        return self.beams[0][1] / length


def beam_search(logits: Tensor, step: Step, *, num_beams: int, max_tokens: int, end: int) -> list[list[Generated]]:
    """For each row up to ``num_beams`` sequences, best first by log-probability per token.

    ``logits`` ``[rows, vocabulary]``: of the first token, after the prompt. The cache that ``step`` keeps has one
    hypothesis per row then; the first call's ``beams`` point at those.
    """
    rows = {index: _Row([((), 0.0)]) for index in range(len(logits))}
    done: dict[int, _Row] = {}
    for length in range(1, max_tokens + 1):
        width = len(next(iter(rows.values())).beams)
        scores = torch.tensor([s for row in rows.values() for _, s in row.beams], device=logits.device)
        totals = logits.float().log_softmax(-1) + scores[:, None]
        vocabulary = totals.shape[-1]
        best = totals.view(len(rows), -1).topk(min(2 * num_beams, width * vocabulary))
        chosen: list[int] = []
        start = 0
        for index, values, places in zip(list(rows), best.values.tolist(), best.indices.tolist(), strict=True):
            row = rows[index]
            kept = _advance(row, values, places, vocabulary, num_beams, length, length == max_tokens, end)
            if kept:
                chosen += [start + beam for beam in kept]
            else:
                done[index] = rows.pop(index)
            start += width
        if not rows:
            break
        progress.step()
        beams = torch.tensor(chosen, device=logits.device)
        last = [ids[-1] for row in rows.values() for ids, _ in row.beams]
        logits = step(torch.tensor(last, device=logits.device)[:, None], beams, list(rows))
    return [[sequence for _, sequence in done[index].finished] for index in range(len(done))]


def _advance(
    row: _Row,
    values: Sequence[float],
    places: Sequence[int],
    vocabulary: int,
    num_beams: int,
    length: int,
    last: bool,
    end: int,
) -> list[int]:
    """Take one row's best continuations. Returns which of its hypotheses the next ones continue; empty when done."""
    beams: list[tuple[tuple[int, ...], float]] = []
    kept: list[int] = []
    for rank, (value, place) in enumerate(zip(values, places, strict=True)):
        beam, token = divmod(place, vocabulary)
        ids = row.beams[beam][0]
        if token == end or last:
            if rank < num_beams:  # those further down only replace beams that ended
                ended = token == end
                sequence = Generated(ids if ended else (*ids, token), value, ended)
                row.finished.append((value / length, sequence))
        elif len(beams) < num_beams:
            beams.append(((*ids, token), value))
            kept.append(beam)
    row.finished.sort(key=lambda found: -found[0])  # stable: of equals the earlier one
    del row.finished[num_beams:]
    if last or not beams:
        return []
    row.beams = beams
    full = len(row.finished) == num_beams
    return [] if full and row.best_possible(length) <= row.finished[-1][0] else kept
