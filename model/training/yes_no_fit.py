"""Learning *yes* from *no* anew, when all else is trained.

Few questions say little of it, and a network that learns all answers at once remembers them rather than learn from
them: on photographs that it has not seen it then does no better than always *yes*. What is known of it can be told by
less: by the question's words, and by how well it fits the image, which counts more for some questions than for others
(`AnswerHead.yes_score`). Here these two are learned, for a few rounds; the network still says how likely it is either
of the two answers, for which their vectors become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.model import CompactModel
from model.compact.network import mean_over
from model.compact.text import pad_ids, tokenize
from model.evaluation.data import ImageRef, Question
from model.training.features import FeatureCache
from model.training.tasks import Example

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
    """Learn ``yes_from_text`` and ``yes_from_fit`` of ``model.net.head`` anew, from the questions among ``pairs`` that
    are answered yes or no."""
    head, (yes, no) = model.net.head, (model.answers.index(answer) for answer in ("yes", "no"))
    pairs = [pair for pair in pairs if pair[1].targets.get("yes", 0.0) + pair[1].targets.get("no", 0.0) > 0]
    if len(pairs) < _ENOUGH:
        return
    asked, fit, share, weight = _what_is_known(model, pairs, features)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for module in head.yes_from_text.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        for linear in (head.yes_from_text[-1], head.yes_from_fit):
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        head.yes_from_text.train().requires_grad_(True)
        head.yes_from_fit.requires_grad_(True)
        # The weights of fit learn the slower, the wider it is spread.
        slower = 0.3 / fit.std().clamp_min(0.3).item()
        groups: list[dict[str, Any]] = [
            {"params": list(head.yes_from_text.parameters())},
            {"params": list(head.yes_from_fit.parameters()), "lr": _RATE * slower},
        ]
        optimizer = torch.optim.AdamW(groups, _RATE, weight_decay=_DECAY)
        for _ in range(rounds):
            for rows in torch.randperm(len(asked)).to(asked.device).split(_AT_ONCE):  # type: ignore[no-untyped-call]
                scores = head.yes_score(asked[rows], fit[rows])[:, 0]
                loss = F.binary_cross_entropy_with_logits(scores, share[rows], weight[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    head.yes_from_text.eval().requires_grad_(False)
    head.yes_from_fit.requires_grad_(False)
    with torch.no_grad():
        for vectors in (head.answers, head.free, head.bias):
            vectors[[yes, no]] = vectors[[yes, no]].mean(0)


@torch.no_grad()
def _what_is_known(
    model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each question: the mean of its features ``[n, dim]``, how well it fits its image ``[n]``, how far *yes* is the
    answer rather than *no* ``[n]``, and how far it is either ``[n]``."""
    model.net.eval()
    by_image: dict[ImageRef, list[Example]] = {}
    for question, example in pairs:
        by_image.setdefault(question.image_ref, []).append(example)
    asked, fit, targets = [], [], []
    for ref, examples in by_image.items():
        seen, meaning = features.take([features.index[ref]], model.device)
        ids, mask = pad_ids([tokenize(model.tokenizer, example.text).ids[:64] for example in examples])
        ids, mask = ids.to(model.device), mask.to(model.device)
        states = model.net.text(ids, mask)
        asked.append(mean_over(states, mask))
        fit.append(model.net.fuse_states(states, mask, [(model.net.encode_features(seen, meaning), len(examples))]).fit)
        targets += [[example.targets.get(answer, 0.0) for answer in ("yes", "no")] for example in examples]
    found = torch.tensor(targets, device=model.device)
    either = found.sum(1)
    return torch.cat(asked), torch.cat(fit), found[:, 0] / either, either
