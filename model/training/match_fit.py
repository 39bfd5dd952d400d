"""Learning how well a text fits an image, from captions, when all else is trained (`model.compact.matching.Matching`).

The words look where they have learned to look; only the two projections into the common space are
new. Each caption of a batch has to find its own image among all of the batch, and each image its caption (InfoNCE, as
in CLIP: Radford et al. 2021).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from model.compact.model import CompactModel
from model.compact.network import mean_over
from model.evaluation.data import Captions
from model.training.features import FeatureCache
from model.training.texts import TextCache

_AT_ONCE = 32  # images, and captions; each meets each
_RATE, _DECAY, _DROPOUT = 2e-3, 0.1, 0.2
_HELD_OUT = 0.1


def fit_match(
    model: CompactModel,
    captions: Sequence[Captions],
    features: FeatureCache,
    texts: TextCache,
    *,
    steps: int = 400,
    seed: int = 0,
) -> None:
    """Learn ``model.net.matching`` and mark it as learned. A tenth of the images is held out, to fit
    the scale and offset that turn a cosine into the log odds that a text fits. Does nothing with too few images."""
    net, rng = model.net, random.Random(seed)  # noqa: S311
    records = [record for record in captions if record.image_ref in features.index]
    rng.shuffle(records)
    kept, learned = records[: (cut := int(_HELD_OUT * len(records)))], records[cut:]
    if len(kept) < 2:
        return
    net.eval()
    matching, at_once = net.matching, min(_AT_ONCE, len(learned))
    parameters = [matching.place.weight, *matching.text.parameters()]
    sharpness = torch.full((1,), math.log(10.0), device=model.device, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in parameters[:2]:
            torch.nn.init.normal_(parameter, std=0.05)
            parameter.requires_grad_(True)
        torch.nn.init.zeros_(parameters[2])
        parameters[2].requires_grad_(True)
        optimizer = torch.optim.AdamW([*parameters, sharpness], _RATE, weight_decay=_DECAY)
        for step in tqdm(range(steps), desc="matching", unit="step", mininterval=5):
            optimizer.param_groups[0]["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            cosines = _cosines(model, rng.sample(learned, at_once), features, texts, rng, dropout=_DROPOUT)
            logits, own = cosines * sharpness.exp(), torch.arange(at_once, device=cosines.device)
            loss = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    _fit_odds(model, kept, features, texts, rng)
    net.config = replace(net.config, matches=True)


def _cosines(
    model: CompactModel,
    records: Sequence[Captions],
    features: FeatureCache,
    texts: TextCache,
    rng: random.Random,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """``[captions, images]``: a caption drawn of each of the records, against each one's image."""
    net, count = model.net, len(records)
    states, mask = texts.take([rng.choice(record.captions) for record in records])
    seen, meaning = features.take([features.index[record.image_ref] for record in records], model.device)
    with torch.no_grad():
        state = net.encode_features(seen, meaning, coarse_only=True)
        rows = mask.repeat(count, 1)
        own = net.last_map(states.repeat(count, 1, 1), rows, [(state, count)]).view(count, count, -1)
    places = F.dropout(net.matching.project_places(seen.coarse), dropout)
    looked_at = own @ places  # [images, captions, match_dim]
    asked = F.dropout(mean_over(states, mask), dropout / 2)
    return net.matching.cosine(asked, looked_at).T


@torch.no_grad()
def _fit_odds(
    model: CompactModel, records: Sequence[Captions], features: FeatureCache, texts: TextCache, rng: random.Random
) -> None:
    """Logistic regression of whether a caption is an image's own on their cosine; as many are as are not."""
    right, wrong = [], []
    for start in range(0, len(records), _AT_ONCE):
        cosines = _cosines(model, records[start : start + _AT_ONCE], features, texts, rng).double().cpu()
        own = torch.eye(len(cosines), dtype=torch.bool)
        right.append(cosines[own])
        wrong.append(cosines[~own])
    x = torch.cat([*right, *wrong])
    y = torch.cat([torch.ones(sum(map(len, right))), torch.zeros(sum(map(len, wrong)))]).double()
    weight = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum().clamp_min(1))
    line = torch.tensor([10.0, 0.0], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * x + line[1], y, weight, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    scale, offset = line.tolist()
    model.net.matching.scale.fill_(scale)
    model.net.matching.offset.fill_(offset)
