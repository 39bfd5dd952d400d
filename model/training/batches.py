"""Batches for training: some images, the same number of texts for each, so that an image's keys are made once.

Sampling is a function of the seed and the step alone: a run that resumes at step n draws what it would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.compact_net import CompactNet
from model.text import pad_ids, tokenize
from model.training.data import Captions, ImageRef
from model.training.features import FeatureCache
from model.training.tasks import CaptionTasks, Example
from model.vision import VisionFeatures

MAX_TRAIN_TOKENS = 20  # the longest captions are cut: padding costs as much as text


@dataclass(frozen=True, slots=True)
class Batch:
    """``images`` images with ``rows`` texts each: text features ``[images * rows, tokens, dim]``, their mask, and
    targets ``[images * rows, answers]`` (rows sum to 1, or to 0 where an image had fewer texts)."""

    features: VisionFeatures
    meaning: Tensor
    states: Tensor
    mask: Tensor
    targets: Tensor
    rows: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of one image, and how gladly the sampler takes it."""

    ref: ImageRef
    examples: list[Example]


class Sampler:
    """Draws batches. ``caption_share`` of the images of a step come from ``captions``, a ``board_share`` of these as
    boards of four; half of all images are mirrored where no text says left or right."""

    def __init__(
        self,
        asked: Sequence[Asked],
        captions: Sequence[Captions],
        tasks: CaptionTasks | None,
        features: FeatureCache,
        net: CompactNet,
        tokenizer: Tokenizer,
        answers: Sequence[str],
        *,
        images: int,
        rows: int,
        board_share: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.asked, self.captions, self.tasks = asked, captions, tasks
        self.features, self.tokenizer, self.net = features, tokenizer, net
        self._states: dict[str, Tensor] = {}  # of texts that come again: the text layers are frozen
        self._repeated = {example.text for one in asked for example in one.examples}
        self.answers = {answer: i for i, answer in enumerate(answers)}
        self.images, self.rows, self.board_share = images, rows, board_share
        self.seed, self.device = seed, device
        weights = np.array([min(len(a.examples), rows) for a in asked], dtype=np.float64)
        self.weights = np.cumsum(weights / weights.sum())

    def draw(self, step: int, caption_share: float) -> Batch:
        """The batch of one step."""
        rng = random.Random(f"{self.seed}/{step}")  # noqa: S311
        from_captions = round(self.images * caption_share) if self.tasks and self.captions else 0
        chosen: list[tuple[list[int], list[Example]]] = []
        for _ in range(self.images - from_captions):
            asked = self.asked[min(int(np.searchsorted(self.weights, rng.random())), len(self.asked) - 1)]
            examples = rng.sample(asked.examples, min(self.rows, len(asked.examples)))
            chosen.append(([self.features.index[asked.ref]], examples))
        for _ in range(from_captions):
            chosen.append(self._from_captions(rng))
        return self._batch(chosen, rng)

    def _from_captions(self, rng: random.Random) -> tuple[list[int], list[Example]]:
        if self.tasks is None:
            raise ValueError("no captions to draw from")
        board = rng.random() < self.board_share and len(self.captions) >= 4
        records = rng.sample(self.captions, 4) if board else [rng.choice(self.captions)]
        examples = [self.tasks.draw(rng.choice(records), rng, board=board) for _ in range(self.rows)]
        return [self.features.index[record.image_ref] for record in records], examples

    def _batch(self, chosen: list[tuple[list[int], list[Example]]], rng: random.Random) -> Batch:
        seen, meaning = self.features.take([row for rows, _ in chosen for row in rows], self.device)
        fine: list[Tensor] = []
        coarse: list[Tensor] = []
        means: list[Tensor] = []
        at = 0
        for rows, examples in chosen:
            parts = seen.fine[at : at + len(rows)], seen.coarse[at : at + len(rows)]
            means_here = meaning[at : at + len(rows)].permute(0, 3, 1, 2)
            at += len(rows)
            one = [_board(part) if len(rows) == 4 else part for part in (*parts, means_here)]
            text = " ".join(example.text.lower() for example in examples)
            if rng.random() < 0.5 and "left" not in text and "right" not in text:
                one = [part.flip(3) for part in one]
            for parts_so_far, part in zip((fine, coarse, means), one, strict=True):
                parts_so_far.append(part)
        texts, targets = [], torch.zeros(len(chosen) * self.rows, len(self.answers))
        for i, (_, examples) in enumerate(chosen):
            for j in range(self.rows):
                texts.append(examples[j % len(examples)].text)
                if j < len(examples):
                    self._fill(targets[i * self.rows + j], examples[j])
        states, mask = self._text_features(texts)
        means_all = torch.cat(means).permute(0, 2, 3, 1)
        return Batch(
            VisionFeatures(torch.cat(fine), torch.cat(coarse)),
            means_all,
            states,
            mask,
            targets.to(self.device),
            self.rows,
        )

    @torch.no_grad()
    def _text_features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features ``[texts, tokens, dim]`` and mask, each text that people wrote computed once in a run."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._states]
        passing: dict[str, Tensor] = {}
        if missing:
            ids, mask = pad_ids([tokenize(self.tokenizer, text).ids[:MAX_TRAIN_TOKENS] for text in missing])
            found = self.net.text(ids.to(self.device), mask.to(self.device)).half()
            for text, states, count in zip(missing, found, mask.sum(1).tolist(), strict=True):
                (self._states if text in self._repeated else passing)[text] = states[:count].clone()
        each = [self._states[text] if text in self._states else passing[text] for text in texts]
        states = torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
        lengths = torch.tensor([len(one) for one in each], device=states.device)
        return states.float(), torch.arange(states.shape[1], device=states.device) < lengths[:, None]

    def _fill(self, target: Tensor, example: Example) -> None:
        known = {answer: share for answer, share in example.targets.items() if answer in self.answers and share > 0}
        total = sum(known.values())
        for answer, share in known.items():
            target[self.answers[answer]] = share / total


def _board(part: Tensor) -> Tensor:
    """Four images' features ``[4, channels, h, w]`` at half their size, two by two: ``[1, channels, h, w]``."""
    small = torch.nn.functional.avg_pool2d(part, 2)
    upper, lower = torch.cat([small[0], small[1]], 2), torch.cat([small[2], small[3]], 2)
    return torch.cat([upper, lower], 1)[None]
