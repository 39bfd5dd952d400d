"""From what the compact model's fusion gives to rankings: the known answers, given candidates, and texts matched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.compact.network import CompactNet, Fused, mean_over
from model.compact.text import pad_ids, tokenize
from model.interface import Item, Ranked, ScoreOver, Task, TextOutput


class AnswerSpace:
    """What `CompactNet.fuse` says of one item's texts."""

    def __init__(self, net: CompactNet, tokenizer: Tokenizer, answers: Sequence[str]) -> None:
        self.net = net
        self.tokenizer = tokenizer
        self.answers = list(answers)
        self.index = {answer: i for i, answer in enumerate(answers)}

    def rank(self, fused: Fused, item: Item) -> list[TextOutput]:
        """The best answers to each text, without maps; ``fused.vector`` is ``[texts, meaning_dim + free_dim + 1]``."""
        names = self.answers if item.candidates is None else item.candidates
        known = None if item.candidates is None else self._find(item.candidates)
        over: ScoreOver = "vocabulary" if known is None else "candidates"
        best = self._logits(fused.vector, item).softmax(-1).sort(dim=-1, descending=True, stable=True)
        scores, order = best.values[:, : item.top_k].tolist(), best.indices[:, : item.top_k].tolist()
        ranked = []
        for row_scores, row_order in zip(scores, order, strict=True):
            ranking = tuple(
                Ranked(names[i], score, None if known is None else known[i] is not None)
                for i, score in zip(row_order, row_scores, strict=True)
            )
            ranked.append(TextOutput(ranking, over, max(0.0, 1.0 - sum(row_scores))))
        return ranked

    def match(self, fused: Fused, item: Item) -> list[TextOutput]:
        """The texts of an item compared with each other; ``fused.fit`` is ``[texts]``. The result's ``fit`` is the
        probability that a text fits by itself, if half of all texts do."""
        scores, fits = fused.fit.softmax(0).tolist(), fused.fit.sigmoid().tolist()
        return [
            TextOutput((Ranked(text, score),), "candidates", None, fit=fit)
            for text, score, fit in zip(item.texts, scores, fits, strict=True)
        ]

    def log_odds(self, fused: Fused, item: Item, task: Task) -> Tensor:
        """What a gradient map explains, ``[rows]``: the log odds of the top answer against all others, or that the text
        fits.

        Odds rather than the bare logit, which can rise without any change of the answer where all logits rise; and
        rather than the probability, whose gradient vanishes where the model is sure.
        """
        if task == "match":
            return fused.fit
        logits = self._logits(fused.vector, item)
        if logits.shape[-1] == 1:
            return logits[:, 0]
        best = logits.argmax(-1, keepdim=True)
        return logits.gather(-1, best)[:, 0] - logits.scatter(-1, best, -torch.inf).logsumexp(-1)

    def _find(self, candidates: Sequence[str]) -> list[int | None]:
        """Which answer each candidate is; None for one outside the vocabulary."""
        return [self.index.get(candidate.strip().lower()) for candidate in candidates]

    def _logits(self, vectors: Tensor, item: Item) -> Tensor:
        """Logits ``[rows, answers or candidates]``. A candidate outside the vocabulary gets its vector from its
        text."""
        if item.candidates is None:
            return self.net.logits(vectors)
        head, candidates = self.net.head, item.candidates
        known = self._find(candidates)
        weight, bias = head.weight[[i or 0 for i in known]].clone(), head.bias[[i or 0 for i in known]].clone()
        unseen = [row for row, i in enumerate(known) if i is None]
        if unseen:
            weight[unseen] = self._unseen([candidates[row] for row in unseen])
            bias[unseen] = head.bias.median()
        return (vectors @ weight.T + bias) / self.net.config.temperature

    @torch.no_grad()
    def _unseen(self, texts: Sequence[str]) -> Tensor:
        """Vectors ``[texts, meaning_dim + free_dim + 1]`` of answers outside the vocabulary, from their texts alone."""
        ids, mask = pad_ids([tokenize(self.tokenizer, text).ids[: self.net.config.max_tokens] for text in texts])
        device = self.net.head.bias.device
        ids, mask = ids.to(device), mask.to(device)
        vectors: Tensor = self.net.head.unseen(mean_over(self.net.text(ids, mask), mask))
        return vectors
