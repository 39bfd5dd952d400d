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
from model.published.generation.config import BeamOptions


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


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """A beginning of a sequence: ``score`` ranks it, which is its log-probability but for repetition's penalty."""

    ids: tuple[int, ...]
    score: float
    log_probability: float


@dataclass(slots=True)
class _Row:
    """One row's hypotheses, and its finished sequences with their scores over their length."""

    beams: list[_Hypothesis]
    finished: list[tuple[float, Generated]] = field(default_factory=list)


def beam_search(
    logits: Tensor, step: Step, options: BeamOptions, *, end: int, prompts: Sequence[Sequence[int]]
) -> list[list[Generated]]:
    """For each row up to ``num_beams`` sequences, best first by log-probability per token, or as ``options`` say.

    ``logits`` ``[rows, vocabulary]``: of the first token, after the prompt. The cache that ``step`` keeps has one
    hypothesis per row then; the first call's ``beams`` point at those.
    """
    rows = {index: _Row([_Hypothesis((), 0.0, 0.0)]) for index in range(len(logits))}
    done: dict[int, _Row] = {}
    for length in range(1, options.max_new_tokens + 1):
        running = [(index, beam) for index, row in rows.items() for beam in row.beams]
        width = len(running) // len(rows)
        said = logits.float().log_softmax(-1)
        ranked = said
        if options.repetition_penalty != 1.0:
            there = [[*prompts[index], *beam.ids] for index, beam in running]
            ranked = _penalised(said, there, options.repetition_penalty)
        scores = torch.tensor([beam.score for _, beam in running], device=logits.device)
        sums = torch.tensor([beam.log_probability for _, beam in running], device=logits.device)
        vocabulary = said.shape[-1]
        best = (ranked + scores[:, None]).view(len(rows), -1).topk(min(2 * options.num_beams, width * vocabulary))
        whole = (said + sums[:, None]).view(len(rows), -1).gather(1, best.indices)
        chosen: list[int] = []
        found = zip(list(rows), best.values.tolist(), whole.tolist(), best.indices.tolist(), strict=True)
        for start, (index, values, probabilities, places) in enumerate(found):
            tokens = [divmod(place, vocabulary) for place in places]
            extended = [
                (beam, token, value, probability)
                for (beam, token), value, probability in zip(tokens, values, probabilities, strict=True)
            ]
            kept = _advance(rows[index], extended, length, options, end)
            if kept:
                chosen += [start * width + beam for beam in kept]
            else:
                done[index] = rows.pop(index)
        if not rows:
            break
        progress.step()
        beams = torch.tensor(chosen, device=logits.device)
        last = [beam.ids[-1] for row in rows.values() for beam in row.beams]
        logits = step(torch.tensor(last, device=logits.device)[:, None], beams, list(rows))
    return [[sequence for _, sequence in done[index].finished] for index in range(len(done))]


def _penalised(said: Tensor, there: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Log-probabilities ``[n, vocabulary]``, those of the tokens that are ``there`` made smaller."""
    ranked = said.clone()
    for row, ids in enumerate(there):
        index = torch.tensor(sorted(set(ids)), device=said.device)
        ranked[row, index] = said[row, index] * penalty
    return ranked


def _advance(
    row: _Row, extended: Sequence[tuple[int, int, float, float]], length: int, options: BeamOptions, end: int
) -> list[int]:
    """Take one row's best continuations: each a beam, its next token, score and log-probability. Returns which of its
    hypotheses the next ones continue; empty when done."""
    beams: list[_Hypothesis] = []
    kept: list[int] = []
    last = length == options.max_new_tokens
    of_length = length**options.length_penalty
    for rank, (beam, token, score, log_probability) in enumerate(extended):
        ids = row.beams[beam].ids
        if token == end or last:
            if rank < options.num_beams:  # those further down only replace beams that ended
                ended = token == end
                sequence = Generated(ids if ended else (*ids, token), log_probability, ended)
                row.finished.append((score / of_length, sequence))
        elif len(beams) < options.num_beams:
            beams.append(_Hypothesis((*ids, token), score, log_probability))
            kept.append(beam)
    row.finished.sort(key=lambda found: -found[0])  # stable: of equals the earlier one
    del row.finished[options.num_beams :]
    if last or not beams:
        return []
    row.beams = beams
    full = len(row.finished) == options.num_beams
    over = full and (options.early_stopping or beams[0].score / of_length <= row.finished[-1][0])
    return [] if over else kept
