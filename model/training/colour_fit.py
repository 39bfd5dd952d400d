"""Learning which colour is the answer, when all else is trained: of the colours where the words look, the ones that
stand out against the whole image.

Thirteen numbers are learned from people's questions about colours, and a line that tells such questions from others. In
the steps of training the same shares of colours, among hundreds of inputs, taught nothing (benchmarks/results/
training.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.colours import COLOURS
from model.compact.model import CompactModel
from model.compact.network import mean_over
from model.compact.text_encoder import pad_ids, tokenize
from model.evaluation.data import ImageRef, Question
from model.question_kinds import question_kind
from model.training.features import FeatureCache
from model.training.tasks import Example

_ENOUGH = 100  # questions about colours; with fewer, all stays as it is
_OTHERS = 5  # questions of all kinds for each of these, to tell them apart
_STRONG = 20.0  # how much more exactly the colours' own answers are met than all others


class _Known(NamedTuple):
    """Of each question: how far the colours stand where its words look and in the whole image ``[n, 22]`` (logarithms,
    see `model.compact.objects.Evidence`), the logits ``[n, answers]``, and what it is aimed at ``[n, answers]``."""

    hues: Tensor
    logits: Tensor
    targets: Tensor


def fit_colours(
    model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache, *, seed: int = 0
) -> None:
    """Learn ``read_hues`` and ``hue_gate`` of ``model.net.head`` from the questions among ``pairs`` that ask for a
    colour, and mark them as learned; a network without them, or with too few such questions, stays as it is."""
    asked = [(question.image_ref, example) for question, example in pairs]
    colours = [pair for pair in asked if question_kind(pair[1].text) == "colour"]
    if not model.net.head.hues or len(colours) < _ENOUGH:
        return
    others = random.Random(seed).sample(asked, min(len(asked), _OTHERS * len(colours)))  # noqa: S311
    _fit_answers(model, _know(model, colours, features))
    _fit_gate(model, [example.text for _, example in (*colours, *others)])
    model.net.config = replace(model.net.config, hues=True)


def _fit_answers(model: CompactModel, known: _Known, *, steps: int = 80) -> None:
    """A weight for a colour's share where the words look, one for its share in the whole image, and a leaning of each
    colour, beside what the network says already: that a colour is asked for, and which is likely.

    They reach the answers through vectors whose products are 1 with the colour's own answer and, as far as may be, 0
    with all others."""
    head, row_of = model.net.head, {name: row for row, name in enumerate(model.answers)}
    answers = head.answers.detach()
    wanted, weight = answers.new_zeros(len(answers), len(COLOURS)), answers.new_ones(len(answers), 1)
    for column, colour in enumerate(COLOURS):
        if colour in row_of:
            wanted[row_of[colour], column], weight[row_of[colour]] = 1.0, _STRONG
    x, y = (answers * weight).double(), (wanted * weight).double()
    ridge = 1e-4 * x.pow(2).mean() * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    space = torch.linalg.solve(x.T @ x + ridge, x.T @ y).float()  # [meaning_dim, colours]
    here, whole = known.hues.chunk(2, -1)
    of_look, of_whole = (torch.tensor(start, device=model.device, requires_grad=True) for start in (0.5, -0.5))
    leaning = torch.zeros(len(COLOURS), device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([of_look, of_whole, leaning], 0.06)
    reach = answers @ space
    with torch.enable_grad():
        for _ in range(steps):
            raised = known.logits + (here * of_look + whole * of_whole + leaning) @ reach.T
            loss = 3 * (leaning**2).sum() - (known.targets * raised.log_softmax(1)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        head.read_hues.weight.copy_(torch.cat([of_look * space, of_whole * space], 1))
        head.read_hues.bias.copy_(space @ leaning)


def _fit_gate(model: CompactModel, texts: Sequence[str], *, steps: int = 160) -> None:
    """Tell by a text's features whether it asks for a colour."""
    asked = torch.cat([_mean_features(model, texts[i : i + 64]) for i in range(0, len(texts), 64)])
    said = F.layer_norm(asked, asked.shape[-1:])
    is_colour = torch.tensor([question_kind(text) == "colour" for text in texts], device=model.device).float()
    line = torch.zeros(said.shape[1], device=model.device, requires_grad=True)
    offset = torch.tensor(-3.0, device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([line, offset], 0.02)
    with torch.enable_grad():
        for _ in range(steps):
            loss = F.binary_cross_entropy_with_logits(said @ line + offset, is_colour) + 1e-3 * (line**2).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        model.net.head.hue_gate.weight.copy_(line[None])
        model.net.head.hue_gate.bias.copy_(offset[None])


@torch.no_grad()
def _mean_features(model: CompactModel, texts: Sequence[str]) -> Tensor:
    """The mean of each text's features, ``[texts, dim]``."""
    ids, mask = pad_ids([tokenize(model.tokenizer, text).ids[:64] for text in texts])
    ids, mask = ids.to(model.device), mask.to(model.device)
    return mean_over(model.net.text(ids, mask), mask)


@torch.no_grad()
def _know(model: CompactModel, pairs: Sequence[tuple[ImageRef, Example]], features: FeatureCache) -> _Known:
    net, row_of = model.net.eval(), {name: row for row, name in enumerate(model.answers)}
    by_image: dict[ImageRef, list[Example]] = {}
    for ref, example in pairs:
        by_image.setdefault(ref, []).append(example)
    hues, logits, targets = [], [], []
    for ref, examples in by_image.items():
        seen, meaning = features.take([features.index[ref]], model.device)
        ids, mask = pad_ids([tokenize(model.tokenizer, example.text).ids[:64] for example in examples])
        image = net.encode_features(seen, meaning)
        fused = net.fuse(ids.to(model.device), mask.to(model.device), [(image, len(examples))])
        if fused.evidence is None:
            raise ValueError("a network with hues, and features without colours")
        hues.append(fused.evidence.hues)
        logits.append(F.linear(fused.vector, net.head.weight, net.head.bias))
        target = logits[-1].new_zeros(logits[-1].shape)
        for row, example in enumerate(examples):
            for answer, share in example.targets.items():
                if answer in row_of:
                    target[row, row_of[answer]] = share
        # What people agree on counts more; an answer that the model does not know teaches nothing.
        targets.append(target / target.sum(1, keepdim=True).clamp_min(1e-6) * target.amax(1, keepdim=True))
    return _Known(torch.cat(hues), torch.cat(logits), torch.cat(targets))
