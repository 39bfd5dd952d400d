"""Batches for training: some images, the same number of texts for each, so that an image's keys are made once.

Sampling is a function of the seed and the step alone: a run that resumes at step n draws what it would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.objects import COUNTS, Seen, cover, object_state
from model.compact.vision import VisionFeatures
from model.evaluation.data import Captions
from model.training.collage_tasks import AskedCollage, singular
from model.training.features import FeatureCache
from model.training.made_questions import Found, QuestionMaker, count_together
from model.training.tasks import Asked, CaptionTasks, Example
from model.training.texts import TextCache


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """``images`` images with ``rows`` texts each: text features ``[images * rows, tokens, dim]``, their mask, and
    targets ``[images * rows, answers]`` (rows sum to 1, or to 0 where there is no answer to learn).

    ``words`` bool ``[images * rows, tokens]``: the tokens whose map is taught; ``boxes`` ``[images * rows, patches /
    4]``: the share of each coarse place that is a right place to look; nowhere is, where there is none.
    ``counted`` ``[images * rows, 11]``: how likely so many objects are meant; all 0 where that is not known.
    ``weights`` ``[images * rows]``: how much an answer counts beside others.
    ``places`` ``[images * rows]``: which quarter of a collage the text is about; None where the images are no collages.
    """

    features: VisionFeatures
    meaning: Tensor
    states: Tensor
    mask: Tensor
    targets: Tensor
    rows: int
    words: Tensor
    boxes: Tensor
    counted: Tensor
    weights: Tensor
    places: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """What a step is made of: ``images`` images with ``rows`` texts each, ``captioned`` of them from captions, the
    others with people's questions, ``turned`` of which are replaced by a yes/no question made from one; with ``made``
    questions more each, whose answers the detector knows; and ``collages`` collages besides."""

    images: int
    rows: int
    captioned: int
    turned: float
    collages: int
    made: int = 0


class Sampler:
    """Draws batches. Half of all images are mirrored where no text says left or right."""

    def __init__(
        self,
        asked: Sequence[Asked],
        captions: Sequence[Captions],
        tasks: CaptionTasks | None,
        collages: Sequence[AskedCollage],
        features: FeatureCache,
        texts: TextCache,
        answers: Sequence[str],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.asked, self.captions, self.collages = asked, captions, collages
        self.features, self.texts = features, texts
        self._maker = None
        if "objects" in features.parts:
            self._maker = QuestionMaker(
                count_together(features.parts["objects"].take(range(0, len(features.index), 3)).numpy())
            )
        self._said = {
            record.image_ref: frozenset(word for caption in record.captions for word in singular(caption))
            for record in captions
        }
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
        said: list[frozenset[str]] = []
        for _ in range(mix.images - captioned):
            asked = self.asked[min(int(np.searchsorted(self.weights, rng.random())), len(self.asked) - 1)]
            examples = rng.sample(asked.examples, min(mix.rows, len(asked.examples)))
            examples = [
                rng.choice(asked.turned) if asked.turned and rng.random() < mix.turned else one for one in examples
            ]
            chosen.append((self.features.index[asked.ref], examples))
            said.append(frozenset())
        for _ in range(captioned):
            record = rng.choice(self.captions)
            stock = self._stock[record.image_ref]
            chosen.append((self.features.index[record.image_ref], rng.sample(stock, min(mix.rows, len(stock)))))
            said.append(self._said[record.image_ref])
        rows = [row for row, _ in chosen]
        seen, meaning = self.features.take(rows, self.device)
        if self._maker is not None and seen.seen is not None and mix.made:
            state = object_state(seen.seen)
            for i, (_, examples) in enumerate(chosen):
                found = Found(seen.seen.objects[i].cpu().numpy(), state.colours[i].cpu().numpy())
                made = (self._maker.draw(found, said[i], rng) for _ in range(mix.made))
                examples += [one for one in made if one is not None]
        texts = [examples for _, examples in chosen]
        batch = self._batch(seen, meaning, texts, mix.rows + mix.made, rng, mirror=True)
        if not mix.collages or not self.collages:
            return batch, None
        return batch, self._collages(mix, rng)

    def all_texts(self) -> Iterator[str]:
        """Every text that a run may read."""
        for asked in self.asked:
            yield from (example.text for example in (*asked.examples, *asked.turned))
        for stock in self._stock.values():
            yield from (example.text for example in stock)
        for collage in self.collages:
            yield from (example.text for example, _ in collage.texts)

    def _collages(self, mix: Mix, rng: random.Random) -> TrainingBatch:
        rows = rng.sample(range(len(self.collages)), min(mix.collages, len(self.collages)))
        chosen = [rng.sample(self.collages[row].texts, min(mix.rows, len(self.collages[row].texts))) for row in rows]
        places = torch.full((len(rows), mix.rows), -1)
        for i, found in enumerate(chosen):
            places[i, : len(found)] = torch.tensor([place for _, place in found])
        refs = [ref for row in rows for ref in self.collages[row].refs]
        seen, meaning = self.features.take([self.features.index[ref] for ref in refs], self.device)
        seen, meaning = collage_features(seen, meaning)
        texts = [[example for example, _ in found] for found in chosen]
        batch = self._batch(seen, meaning, texts, mix.rows, rng, mirror=False)
        return replace(batch, places=places.flatten().to(self.device))

    def _batch(
        self,
        seen: VisionFeatures,
        meaning: Tensor,
        chosen: list[list[Example]],
        rows: int,
        rng: random.Random,
        *,
        mirror: bool,
    ) -> TrainingBatch:
        texts, examples_of = [], []
        places = seen.coarse.shape[-1] ** 2
        targets = torch.zeros(len(chosen) * rows, len(self.answers))
        boxes, counted, weights = (torch.zeros(len(targets), *more) for more in ((places,), (COUNTS,), ()))
        for i, examples in enumerate(chosen):
            text = " ".join(" ".join((example.text.lower(), *example.targets)) for example in examples)
            mirrored = mirror and rng.random() < 0.5 and "left" not in text and "right" not in text
            if mirrored:
                _mirror(seen, meaning, i)
            for j in range(rows):
                example = examples[j % len(examples)]
                row = i * rows + j
                texts.append(example.text)
                examples_of.append(example if j < len(examples) else None)
                if j >= len(examples):
                    continue
                self._fill(targets[row], example)
                weights[row] = example.weight
                if example.counted is not None:
                    counted[row, : len(example.counted)] = torch.tensor(example.counted)
                if example.boxes is not None:
                    found = torch.tensor(example.boxes).view(-1, 4)
                    if mirrored:
                        found[:, [0, 2]] = 1 - found[:, [2, 0]]
                    boxes[row] = cover(found, seen.coarse.shape[-1]).sum(0).clamp_max(1)
        states, mask = self.texts.take(texts)
        words = torch.zeros(mask.shape, dtype=torch.bool)
        for row, one in enumerate(examples_of):
            if one is not None and one.word is not None:
                words[row, self.texts.tokens_of(one.text, one.word, mask.shape[1])] = True
        told = (x.to(self.device) for x in (words, boxes, counted, weights))
        return TrainingBatch(seen, meaning, states, mask, targets.to(self.device), rows, *told)

    def _fill(self, target: Tensor, example: Example) -> None:
        known = {answer: share for answer, share in example.targets.items() if answer in self.answers and share > 0}
        total = sum(known.values())
        for answer, share in known.items():
            target[self.answers[answer]] = share / total


def _mirror(seen: VisionFeatures, meaning: Tensor, image: int) -> None:
    """Turn left and right round, in place."""
    for part in (seen.fine, seen.coarse):
        part[image] = part[image].flip(2)
    meaning[image] = meaning[image].flip(1)
    if seen.seen is not None:
        seen.seen.features[image] = seen.seen.features[image].flip(2)
        seen.seen.colours[image] = seen.seen.colours[image].flip(1)
        seen.seen.objects[image, :, [2, 4]] = 1 - seen.seen.objects[image, :, [4, 2]]


def collage_features(seen: VisionFeatures, meaning: Tensor) -> tuple[VisionFeatures, Tensor]:
    """The features of collages of four images each, row by row, from those of the images, halved in height and width.
    ``meaning`` is ``[4 * collages, h, w, meaning_dim]``, the result ``[collages, h, w, meaning_dim]``.

    The image networks would give slightly different features for the collage itself, at the cost of a pass.
    """

    def join(x: Tensor) -> Tensor:
        """``[4n, channels, h, w]`` -> ``[n, channels, h, w]``"""
        small = F.avg_pool2d(x, 2)
        small = small.view(-1, 2, 2, *small.shape[1:])
        return torch.cat([torch.cat([small[:, i, 0], small[:, i, 1]], -1) for i in (0, 1)], -2)

    def channels_first(x: Tensor) -> Tensor:
        return join(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    found = None
    if seen.seen is not None:
        corner = seen.seen.objects.new_tensor([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]]).repeat(1, 2)
        objects = seen.seen.objects.view(-1, 4, *seen.seen.objects.shape[1:]).clone()
        objects[..., 2:] = objects[..., 2:] / 2 + corner[:, None]
        objects = objects.flatten(1, 2)
        best = objects[..., 1].topk(seen.seen.objects.shape[1]).indices
        objects = objects.gather(1, best[..., None].expand(-1, -1, 6))
        found = Seen(join(seen.seen.features), channels_first(seen.seen.colours), objects)
    return VisionFeatures(join(seen.fine), join(seen.coarse), found), channels_first(meaning)
