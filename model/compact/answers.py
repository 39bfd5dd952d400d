"""From what the compact model's fusion gives to rankings: the known answers, given candidates, and texts matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.answer_words import AnswerWords
from model.compact.network import CompactNet, Fused, mean_over
from model.compact.texts import Texts
from model.interface import Item, Ranked, ScoreOver, TextOutput
from model.progress import step
from model.question_kinds import question_kind

YES_OR_NO = 20.0
"""Added to the logits of *yes* and *no* where nothing else is an answer, before the temperature: divided by 3 it is
6.7, so hundreds of other answers together may be left some per cent."""
_EMBEDDED_AT_ONCE = 32
"""Candidates in a pass of the text layers: more gain no speed, take memory, and nobody hears of the work."""


class Choices(NamedTuple):
    """What an item's texts may be answered with: ``names``, with vectors ``[names, meaning_dim + free_dim + 1 +
    counts]`` and biases ``[names]``; ``yes_no`` ``[names]`` is 1 for *yes* and *no* where these can share the score
    (`_sharing`), else 0. ``known``: for given candidates, whether each is in the vocabulary."""

    names: Sequence[str]
    vectors: Tensor
    biases: Tensor
    yes_no: Tensor
    known: Sequence[bool] | None = None


class AnswerSpace:
    """What `CompactNet.fuse` says of one item's texts."""

    def __init__(self, net: CompactNet, texts: Texts, answers: Sequence[str], words: AnswerWords) -> None:
        self.net = net
        self.texts = texts
        self.words = words
        self.answers = list(answers)
        self.index = {answer: i for i, answer in enumerate(answers)}

    @torch.no_grad()
    def choices(self, candidates: Sequence[str] | None) -> Choices:
        """The vocabulary's answers, or ``candidates``. One outside the vocabulary gets its vector from its text: this
        is the slow part, to be done once for all that is asked with them."""
        head = self.net.head
        if candidates is None:
            return Choices(self.answers, head.weight, head.bias, _sharing(head.yes_no))
        found = [self.index.get(self.words.in_english(candidate).strip().lower()) for candidate in candidates]
        known = [index is not None for index in found]
        rows = [index or 0 for index in found]
        vectors, biases, signs = (x[rows].clone() for x in (head.weight, head.bias, head.yes_no))
        unseen = [row for row, index in enumerate(found) if index is None]
        for start in range(0, len(unseen), _EMBEDDED_AT_ONCE):
            step()
            rows = unseen[start : start + _EMBEDDED_AT_ONCE]
            vectors[rows] = self._unseen([candidates[row] for row in rows])
        biases[unseen], signs[unseen] = head.bias.median(), 0.0
        only = _sharing(signs) * signs.all()  # an offered "unsure" may be the answer
        return Choices(candidates, vectors, biases, only, known)

    def rank(self, logits: Tensor, item: Item, choices: Choices) -> list[TextOutput]:
        """The best answers to each text, without maps; ``logits`` ``[texts, choices]``."""
        names, known = choices.names, choices.known
        over: ScoreOver = "vocabulary" if known is None else "candidates"
        best = self.settled(logits, item.texts, choices).softmax(-1).sort(dim=-1, descending=True, stable=True)
        scores, order = best.values[:, : item.top_k].tolist(), best.indices[:, : item.top_k].tolist()
        ranked = []
        for row_scores, row_order in zip(scores, order, strict=True):
            ranking = tuple(
                Ranked(names[i], score, None if known is None else known[i])
                for i, score in zip(row_order, row_scores, strict=True)
            )
            ranked.append(TextOutput(ranking, over, max(0.0, 1.0 - sum(row_scores))))
        return ranked

    def settled(self, logits: Tensor, texts: Sequence[str], choices: Choices) -> Tensor:
        """``logits`` ``[texts, choices]`` (`logits_of`) as scores are made of them: where the wording asks for *yes* or
        *no*, and nothing else was offered, the two share nearly the whole score. Maps tell the top
        answer of these from all others by the logits as they came: of *yes* against *no* alone, the image's part is
        small."""
        wanted = self.net.config.yes_no_temperature
        if wanted is None or not choices.yes_no.any():
            return logits
        raised = self.raised(texts)
        shared = _raise(logits, choices, raised) * self.temperatures(texts)[:, None] / wanted
        return torch.where(raised[:, None] > 0, shared, logits)

    def match(self, fit: Tensor, item: Item) -> list[TextOutput]:
        """The texts of an item compared with each other; ``fit`` ``[texts]``: see `Fused`. The result's ``fit`` is the
        probability that a text fits by itself, if half of all texts do."""
        scores, fits = fit.softmax(0).tolist(), fit.sigmoid().tolist()
        return [
            TextOutput((Ranked(text, score),), "candidates", None, fit=fit)
            for text, score, fit in zip(item.texts, scores, fits, strict=True)
        ]

    def temperatures(self, texts: Sequence[str]) -> Tensor:
        """What divides the logits of each text's answers, ``[texts]``: it was fitted for the text's kind."""
        return self.net.head.bias.new_tensor([self.net.config.temperature_of(text) for text in texts])

    def raised(self, texts: Sequence[str]) -> Tensor:
        """What the logits of *yes* and *no* gain before the top answer is chosen, ``[texts]``: 0 for a text that does
        not ask for them, or where they share no score."""
        config = self.net.config
        asks = [config.yes_no_temperature is not None and question_kind(text) == "yes/no" for text in texts]
        return YES_OR_NO * self.net.head.bias.new_tensor(asks) / self.temperatures(texts)

    def _unseen(self, texts: Sequence[str]) -> Tensor:
        """Vectors ``[texts, meaning_dim + free_dim + 1]`` of answers outside the vocabulary, from their texts alone."""
        tokenized = [self.texts.tokenize(text) for text in texts]
        states, mask = self.texts.states(tokenized, length=self.net.config.max_tokens)
        vectors: Tensor = self.net.head.unseen(mean_over(states, mask))
        return vectors


def _sharing(signs: Tensor) -> Tensor:
    """1 for *yes* and *no* where both are among the answers, else 0, ``[names]``. ``signs`` ``[names]``: above 0 for
    *yes*, below for *no*, 0 for all others."""
    return signs.sign().abs() * ((signs > 0).any() & (signs < 0).any())


def logits_of(vectors: Tensor, choices: Choices, temperatures: Tensor) -> Tensor:
    """Logits ``[rows, choices]`` of the rows' ``vectors`` (`Fused.vector`), at their ``temperatures`` ``[rows]``."""
    return F.linear(vectors, choices.vectors, choices.biases) / temperatures[:, None]


def _raise(logits: Tensor, choices: Choices, raised: Tensor) -> Tensor:
    """``logits`` ``[rows, choices]`` with what *yes* and *no* gain; ``raised`` ``[rows]``: see `AnswerSpace.raised`."""
    return logits + raised[:, None] * choices.yes_no


def log_odds(fused: Fused, choices: Choices | None, temperatures: Tensor, raised: Tensor) -> Tensor:
    """What a gradient map explains, ``[rows]``: the log odds of the top answer of ``choices`` against all others;
    without choices, that the text fits. ``raised`` ``[rows]`` (`AnswerSpace.raised`) tells which
    answer is the top one, as it does in scores, and has no part in the odds.

    Odds rather than the bare logit, which can rise without any change of the answer where all logits rise; and rather
    than the probability, whose gradient vanishes where the model is sure.
    """
    if choices is None:
        return fused.fit
    logits = logits_of(fused.vector, choices, temperatures)
    if logits.shape[-1] == 1:
        return logits[:, 0]
    best = _raise(logits, choices, raised).argmax(-1, keepdim=True)
    return logits.gather(-1, best)[:, 0] - logits.scatter(-1, best, -torch.inf).logsumexp(-1)
