"""Learning *yes* from *no* anew, when all else is trained.

The yes/no questions are too few for a network that learns all answers at once: it memorises them, and on new
photographs does no better than always saying *yes*. Less input generalises better: the question's words, and how likely
what it names is there or, without a detector, how well the question fits the image, either of which counts more for
some questions than for others (`AnswerHead.yes_score`). These two are learned here, for a few rounds. (Both measures
together are worse than what is there alone: benchmarks/results/training.md.) The network still says how likely the
answer is either of the two, so the vectors of *yes* and *no* become one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.model import CompactModel
from model.compact.network import mean_over
from model.compact.objects import object_state
from model.compact.text_encoder import pad_ids, tokenize
from model.evaluation.data import ImageRef, Question
from model.training.features import FeatureCache
from model.training.made_questions import Found, QuestionMaker, count_together
from model.training.tasks import Example

_MADE_IMAGES, _MADE_EACH = 1200, 3
_ENOUGH = 200  # questions; with fewer, all stays as it is
_ROUNDS, _AT_ONCE = 12, 128
_RATE, _DECAY = 5e-4, 0.1


def fit_yes_no(
    model: CompactModel,
    pairs: Sequence[tuple[Question, Example]],
    features: FeatureCache,
    *,
    rounds: int = _ROUNDS,
    seed: int = 0,
) -> None:
    """Learn ``yes_from_text`` of ``model.net.head`` anew, with ``yes_from_objects`` or, without a detector,
    ``yes_from_fit``, from the questions among ``pairs`` that are answered yes or no."""
    head, (yes, no) = model.net.head, (model.answers.index(answer) for answer in ("yes", "no"))
    asked = [(question.image_ref, example) for question, example in pairs if {"yes", "no"} & _positive(example.targets)]
    if len(asked) < _ENOUGH:
        return
    known = _what_is_known(model, asked, features)
    if known.presence is not None:
        known = _joined(known, _what_is_known(model, made_presence(features, seed), features))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for module in head.yes_from_text.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        relied = head.yes_from_fit if known.presence is None else head.yes_from_objects
        for linear in (head.yes_from_text[-1], head.yes_from_fit, relied):
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        groups: list[dict[str, Any]] = [{"params": list(head.yes_from_text.train().requires_grad_(True).parameters())}]
        # The weights of the fit learn the slower, the wider it is spread.
        slower = 1.0 if known.presence is not None else 0.3 / known.fit.std().clamp_min(0.3).item()
        groups.append({"params": list(relied.requires_grad_(True).parameters()), "lr": _RATE * slower})
        optimizer = torch.optim.AdamW(groups, _RATE, weight_decay=_DECAY)
        for _ in range(rounds):
            order = torch.randperm(len(known.asked)).to(known.asked.device)
            for rows in order.split(_AT_ONCE):  # type: ignore[no-untyped-call]
                presence = None if known.presence is None else known.presence[rows]
                scores = head.yes_score(known.asked[rows], known.fit[rows], presence)[:, 0]
                loss = F.binary_cross_entropy_with_logits(scores, known.share[rows], known.weight[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    head.yes_from_text.eval().requires_grad_(False)
    relied.requires_grad_(False)
    with torch.no_grad():
        for vectors in (head.answers, head.free, head.bias):
            vectors[[yes, no]] = vectors[[yes, no]].mean(0)


class Known(NamedTuple):
    """Of each question: the mean of its features ``[n, dim]``, how well it fits its image ``[n]``, the log odds that
    what it names is there ``[n]`` (None without a detector), how far *yes* is the answer rather than *no* ``[n]``, and
    how far it is either ``[n]``."""

    asked: Tensor
    fit: Tensor
    presence: Tensor | None
    share: Tensor
    weight: Tensor


def _positive(targets: dict[str, float]) -> set[str]:
    return {answer for answer, share in targets.items() if share > 0}


def _joined(one: Known, other: Known) -> Known:
    presence = None
    if one.presence is not None and other.presence is not None:
        presence = torch.cat([one.presence, other.presence])
    asked, fit, share, weight = (
        torch.cat([getattr(one, name), getattr(other, name)]) for name in ("asked", "fit", "share", "weight")
    )
    return Known(asked, fit, presence, share, weight)


def made_presence(features: FeatureCache, seed: int) -> list[tuple[ImageRef, Example]]:
    """Made questions of what is there and of colours, about a part of the images."""
    rng = random.Random(seed)  # noqa: S311
    refs = rng.sample(sorted(features.index), min(_MADE_IMAGES, len(features.index)))
    maker = QuestionMaker(count_together(features.parts["objects"].take([features.index[r] for r in refs]).numpy()))
    found = []
    for ref in refs:
        seen = features.take([features.index[ref]], torch.device("cpu"))[0].seen
        if seen is None:
            continue
        known = Found(seen.objects[0].numpy(), object_state(seen).colours[0].numpy())
        made = (maker.draw(known, frozenset(), rng) for _ in range(_MADE_EACH * 3))
        yes_no = [example for example in made if example is not None and {"yes", "no"} & example.targets.keys()]
        found += [(ref, example) for example in yes_no[:_MADE_EACH]]
    return found


@torch.no_grad()
def _what_is_known(model: CompactModel, pairs: Sequence[tuple[ImageRef, Example]], features: FeatureCache) -> Known:
    model.net.eval()
    by_image: dict[ImageRef, list[Example]] = {}
    for ref, example in pairs:
        by_image.setdefault(ref, []).append(example)
    asked, fit, presence, targets = [], [], [], []
    for ref, examples in by_image.items():
        seen, meaning = features.take([features.index[ref]], model.device)
        ids, mask = pad_ids([tokenize(model.tokenizer, example.text).ids[:64] for example in examples])
        ids, mask = ids.to(model.device), mask.to(model.device)
        states = model.net.text(ids, mask)
        asked.append(mean_over(states, mask))
        fused = model.net.fuse_states(states, mask, [(model.net.encode_features(seen, meaning), len(examples))])
        fit.append(fused.fit)
        if fused.evidence is not None:
            presence.append(fused.evidence.presence)
        targets += [[example.targets.get(answer, 0.0) for answer in ("yes", "no")] for example in examples]
    found = torch.tensor(targets, device=model.device)
    either = found.sum(1)
    share = found[:, 0] / either
    return Known(torch.cat(asked), torch.cat(fit), torch.cat(presence) if presence else None, share, either)
