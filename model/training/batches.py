"""Batches for training: some images, the same number of texts for each, so that an image's keys are made once.

Sampling is a function of the seed and the step alone: a run that resumes at step n draws what it would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.compact.vision import VisionFeatures
from model.evaluation.data import Captions
from model.training.collage_tasks import AskedCollage
from model.training.features import FeatureCache
from model.training.tasks import Asked, CaptionTasks, Example
from model.training.texts import TextCache


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """``images`` images with ``rows`` texts each: text features ``[images * rows, tokens, dim]``, their mask, and
    targets ``[images * rows, answers]`` (rows sum to 1, or to 0 where there is no answer to learn).

    ``places`` ``[images * rows]``: which quarter of a collage the text is about; None where the images are no collages.
    """

    features: VisionFeatures
    meaning: Tensor
    states: Tensor
    mask: Tensor
    targets: Tensor
    rows: int
    places: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """What a step is made of: ``images`` images with ``rows`` texts each, ``captioned`` of them from captions, the
    others with people's questions, ``turned`` of which are replaced by a yes/no question made from one; and
    ``collages`` collages besides."""

    images: int
    rows: int
    captioned: int
    turned: float
    collages: int


class Sampler:
    """Draws batches. Half of all images are mirrored where no text says left or right."""

    def __init__(
        self,
        asked: Sequence[Asked],
        captions: Sequence[Captions],
        tasks: CaptionTasks | None,
        collages: Sequence[AskedCollage],
        features: FeatureCache,
        collage_features: FeatureCache | None,
        texts: TextCache,
        answers: Sequence[str],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.asked, self.captions, self.collages = asked, captions, collages
        self.features, self.collage_features, self.texts = features, collage_features, texts
        self.answers = {answer: i for i, answer in enumerate(answers)}
        self._stock = {} if tasks is None else {record.image_ref: tasks.stock(record) for record in captions}
        self.seed, self.device = seed, device
        weights = np.array([a.weight * min(len(a.examples), 4) for a in asked], dtype=np.float64)
        self.weights = np.cumsum(weights / weights.sum())

    def draw(self, step: int, mix: Mix) -> tuple[TrainingBatch, TrainingBatch | None]:
        """The batch of one step, and its collages."""
        rng = random.Random(f"{self.seed}/{step}")  # noqa: S311
        captioned = mix.captioned if self._stock else 0
        chosen: list[tuple[int, list[Example]]] = []
        for _ in range(mix.images - captioned):
            asked = self.asked[min(int(np.searchsorted(self.weights, rng.random())), len(self.asked) - 1)]
            examples = rng.sample(asked.examples, min(mix.rows, len(asked.examples)))
            examples = [
                rng.choice(asked.turned) if asked.turned and rng.random() < mix.turned else one for one in examples
            ]
            chosen.append((self.features.index[asked.ref], examples))
        for _ in range(captioned):
            record = rng.choice(self.captions)
            stock = self._stock[record.image_ref]
            chosen.append((self.features.index[record.image_ref], rng.sample(stock, min(mix.rows, len(stock)))))
        batch = self._batch(self.features, chosen, mix.rows, rng, mirror=True)
        if not mix.collages or self.collage_features is None:
            return batch, None
        return batch, self._collages(self.collage_features, mix, rng)

    def all_texts(self) -> Iterator[str]:
        """Every text that a run may read."""
        for asked in self.asked:
            yield from (example.text for example in (*asked.examples, *asked.turned))
        for stock in self._stock.values():
            yield from (example.text for example in stock)
        for collage in self.collages:
            yield from (example.text for example, _ in collage.texts)

    def _collages(self, features: FeatureCache, mix: Mix, rng: random.Random) -> TrainingBatch:
        rows = rng.sample(range(len(self.collages)), min(mix.collages, len(self.collages)))
        texts = [rng.sample(self.collages[row].texts, min(mix.rows, len(self.collages[row].texts))) for row in rows]
        places = torch.full((len(rows), mix.rows), -1)
        for i, found in enumerate(texts):
            places[i, : len(found)] = torch.tensor([place for _, place in found])
        chosen = [(row, [example for example, _ in found]) for row, found in zip(rows, texts, strict=True)]
        batch = self._batch(features, chosen, mix.rows, rng, mirror=False)
        return replace(batch, places=places.flatten().to(self.device))

    def _batch(
        self,
        features: FeatureCache,
        chosen: list[tuple[int, list[Example]]],
        rows: int,
        rng: random.Random,
        *,
        mirror: bool,
    ) -> TrainingBatch:
        seen, meaning = features.take([row for row, _ in chosen], self.device)
        texts, targets = [], torch.zeros(len(chosen) * rows, len(self.answers))
        for i, (_, examples) in enumerate(chosen):
            text = " ".join(example.text.lower() for example in examples)
            if mirror and rng.random() < 0.5 and "left" not in text and "right" not in text:
                for part in (seen.fine, seen.coarse):
                    part[i] = part[i].flip(2)
                meaning[i] = meaning[i].flip(1)
            for j in range(rows):
                texts.append(examples[j % len(examples)].text)
                if j < len(examples):
                    self._fill(targets[i * rows + j], examples[j])
        states, mask = self.texts.take(texts)
        return TrainingBatch(seen, meaning, states, mask, targets.to(self.device), rows)

    def _fill(self, target: Tensor, example: Example) -> None:
        known = {answer: share for answer, share in example.targets.items() if answer in self.answers and share > 0}
        total = sum(known.values())
        for answer, share in known.items():
            target[self.answers[answer]] = share / total
