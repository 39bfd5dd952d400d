"""What is done with the part of train that training itself never sees, and with a network that is trained: figures to
choose by, the temperature of its scores, and vectors for answers that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.answers import YES_OR_NO
from model.compact.model import CompactModel
from model.compact.network import mean_over
from model.compact.text_encoder import pad_ids, tokenize
from model.evaluation.data import ImageRef, Question
from model.evaluation.judging import accuracy
from model.interface import QuestionKind
from model.question_kinds import QUESTION_KINDS, question_kind
from model.training.features import FeatureCache
from model.training.tasks import Example

ENOUGH_TO_FIT = 50
"""Questions, of all or of a kind: with fewer, the temperature stays what it is."""


@torch.no_grad()
def tune_logits(
    model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache
) -> tuple[list[Question], Tensor]:
    """The questions, grouped by image, and their logits ``[questions, answers]`` at temperature 1."""
    model.net.eval()
    by_image: dict[ImageRef, list[Question]] = {}
    for question, _ in pairs:
        by_image.setdefault(question.image_ref, []).append(question)
    ordered, logits = [], []
    for ref, questions in by_image.items():
        seen, meaning = features.take([features.index[ref]], model.device)
        ids, mask = pad_ids([tokenize(model.tokenizer, question.question).ids[:64] for question in questions])
        state = model.net.encode_features(seen, meaning)
        fused = model.net.fuse(ids.to(model.device), mask.to(model.device), [(state, len(questions))])
        logits.append((model.net.logits(fused.vector) * model.net.config.temperature).float().cpu())
        ordered += questions
    return ordered, torch.cat(logits)


def figures(model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache) -> dict[str, float]:
    """Accuracies in per cent (0 to 100, two decimals) by source, by VQA kind, and of all questions."""
    questions, logits = tune_logits(model, pairs, features)
    best = logits.argmax(-1).tolist()
    scores: dict[str, list[float]] = {}
    for question, index in zip(questions, best, strict=True):
        score = accuracy(model.answers[index], question.answers, question.source)
        for name in (question.source, "all"):
            scores.setdefault(name, []).append(score)
        if question.source in ("vqa-v1", "vqa-v2"):
            for name in ("vqa", f"vqa {question.kind}"):
                scores.setdefault(name, []).append(score)
    return {name: round(100 * sum(values) / len(values), 2) for name, values in sorted(scores.items())}


def fit_temperatures(
    model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache
) -> tuple[float, dict[QuestionKind, float], float | None]:
    """The temperature of all questions, that of each kind of which there are enough, and that of *yes* and *no* where
    these two share the score (`CompactConfig.yes_no_temperature`); None with too few such questions."""
    questions, logits = tune_logits(model, pairs, features)
    right = _right(model, questions, logits)
    kinds = [question_kind(question.question) for question in questions]
    by_kind: dict[QuestionKind, float] = {}
    for kind in QUESTION_KINDS:
        rows = [row for row, own in enumerate(kinds) if own == kind]
        if len(rows) >= ENOUGH_TO_FIT:
            by_kind[kind] = best_temperature(logits[rows], right[rows])
    rows = [row for row, own in enumerate(kinds) if own == "yes/no"]
    yes_no = None
    if len(rows) >= ENOUGH_TO_FIT:
        either = logits[rows] + YES_OR_NO * model.net.head.is_yes_no.cpu()
        yes_no = best_temperature(either, _right(model, [questions[row] for row in rows], either))
    return best_temperature(logits, right), by_kind, yes_no


def set_temperatures(model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache) -> None:
    """Give the model the temperatures of `fit_temperatures`; where there are too few questions, of all or of a kind, it
    keeps its own."""
    if len(pairs) < ENOUGH_TO_FIT:
        return
    temperature, by_kind, yes_no = fit_temperatures(model, pairs, features)
    config = model.net.config
    model.net.config = replace(
        config,
        temperature=temperature,
        temperatures={**config.temperatures, **by_kind},
        yes_no_temperature=config.yes_no_temperature if yes_no is None else yes_no,
    )


def _right(model: CompactModel, questions: Sequence[Question], logits: Tensor) -> Tensor:
    """How right the top answers of ``logits`` ``[questions, answers]`` are, ``[questions]``, from 0 to 1."""
    pairs = zip(questions, logits.argmax(-1).tolist(), strict=True)
    return torch.tensor([accuracy(model.answers[i], q.answers, q.source) for q, i in pairs])


def best_temperature(logits: Tensor, right: Tensor) -> float:
    """The temperature at which the top score of ``logits`` ``[n, answers]`` says best how often the top answer was
    ``right`` ``[n]`` (least log loss of that event; Guo et al. 2017)."""
    losses: dict[float, float] = {}
    for temperature in (0.4 + 0.025 * step for step in range(125)):
        top = (logits / temperature).softmax(-1).amax(-1).clamp(1e-6, 1 - 1e-6)
        losses[temperature] = float(F.binary_cross_entropy(top, right))
    least = min(losses.values())
    return round(next(temperature for temperature, loss in losses.items() if loss == least), 4)


@torch.no_grad()
def fit_unseen(model: CompactModel) -> None:
    """Ridge regression from the text features of the known answers to their trained vectors, for any other answer."""
    ids, mask = pad_ids([tokenize(model.tokenizer, answer).ids[:64] for answer in model.answers])
    states = model.net.text(ids.to(model.device), mask.to(model.device))
    mask = mask.to(model.device)
    texts = mean_over(states, mask)
    center, target = texts.mean(0), model.net.head.weight.mean(0)
    x, y = (texts - center).double(), (model.net.head.weight - target).double()
    gram = x.T @ x + 0.05 * len(x) * x.var() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ y).T.float()
    model.net.head.unseen.weight.copy_(weight)
    model.net.head.unseen.bias.copy_(target - weight @ center)
