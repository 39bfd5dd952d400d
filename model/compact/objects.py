"""Objects and colours: what a detector has found in an image, and what a question makes of it.

`SeenPatches` adds to every patch the classes of the objects that cover it and the basic colours in it, both as sentence
vectors of their names, and the detector's own features. `ObjectReader` asks each object whether the question's words
mean it and look at it. The number of objects for which that holds is a sum of independent yes/no draws, whose
distribution is exact (Poisson-binomial); it answers "how many" and "is there a". The idea of counting by a sum over
objects that the question selects is from Trott et al. 2018, "Interpretable Counting for Visual Question Answering".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.colours import COLOURS

CLASSES = 80  # of COCO
COUNTS = 11  # 0 to 10, where 10 stands for all above
SLOTS = 48  # objects that are kept of an image
_LEAST = 0.04  # score of an object that is kept
_SAME = 0.6  # overlap from which two boxes of a class are one object
_CANDIDATES = 400
_WIDTH = 128
NEVER = -20.0  # log odds of an empty slot
MOST = 8.0  # log odds beyond which nothing is told apart
LEAST_CHANCE = 1e-4  # of a number of objects
LEAST_SHARE = 0.01  # of a colour, added before its logarithm is taken


class Seen(NamedTuple):
    """``features`` ``[images, channels, h, w]`` of the detector, ``colours`` ``[images, h, w, 11]`` (shares), and
    ``objects`` ``[images, slots, 6]``: class, score, left, top, right, bottom, all as shares of the image's sides, best
    first; empty slots have score 0."""

    features: Tensor
    colours: Tensor
    objects: Tensor


class ObjectState(NamedTuple):
    """What is kept of `Seen` for questions: ``objects`` as there, their ``colours`` ``[images, slots, 11]``, and
    ``place_colours`` ``[images, places, 11]`` at stride 32."""

    objects: Tensor
    colours: Tensor
    place_colours: Tensor


def best_objects(scores: Tensor, boxes: Tensor) -> Tensor:
    """One image's detections ``[places, classes]`` and ``[places, 4]`` as the ``objects`` ``[SLOTS, 6]`` of `Seen`: of
    boxes of a class that overlap, the best is kept (non-maximum suppression)."""
    place, name = (scores > _LEAST).nonzero(as_tuple=True)
    order = scores[place, name].topk(min(_CANDIDATES, len(place))).indices
    place, name = place[order], name[order]
    box = boxes[place].clamp(0, 1)
    low = torch.maximum(box[:, None, :2], box[None, :, :2])
    high = torch.minimum(box[:, None, 2:], box[None, :, 2:])
    area = (box[:, 2:] - box[:, :2]).prod(-1)
    shared = (high - low).clamp_min(0).prod(-1)
    same = (shared / (area[:, None] + area - shared + 1e-9) >= _SAME) & (name[:, None] == name)
    rivals = same.cpu().numpy()
    kept: list[int] = []
    for one in range(len(rivals)):
        if not rivals[one, kept].any():
            kept.append(one)
        if len(kept) == SLOTS:
            break
    objects = scores.new_zeros(SLOTS, 6)
    objects[: len(kept)] = torch.cat([name[kept, None], scores[place, name][kept, None], box[kept]], -1)
    return objects


def cover(boxes: Tensor, cells: int) -> Tensor:
    """How much of each cell of a grid a box covers: ``[.., 4]`` -> ``[.., cells * cells]``, row by row."""
    edges = torch.arange(cells + 1, dtype=boxes.dtype, device=boxes.device) / cells

    def along(low: Tensor, high: Tensor) -> Tensor:
        ends = torch.minimum(high[..., None], edges[1:]) - torch.maximum(low[..., None], edges[:-1])
        return ends.clamp_min(0) * cells

    left, top, right, bottom = boxes.unbind(-1)
    return (along(top, bottom)[..., :, None] * along(left, right)[..., None, :]).flatten(-2)


def object_state(seen: Seen) -> ObjectState:
    """The colours of an object are those of the middle of its box."""
    images, cells = seen.colours.shape[0], seen.colours.shape[1]
    low, high = seen.objects[..., 2:4], seen.objects[..., 4:6]
    middle = cover(torch.cat([low + 0.2 * (high - low), high - 0.2 * (high - low)], -1), cells)
    weights = middle / middle.sum(-1, keepdim=True).clamp_min(1e-6)
    colours = torch.bmm(weights, seen.colours.flatten(1, 2))
    coarse = seen.colours.reshape(images, cells // 2, 2, cells // 2, 2, -1).mean((2, 4)).flatten(1, 2)
    return ObjectState(seen.objects, colours, coarse)


class SeenPatches(nn.Module):
    """`Seen` -> what is added to the patches."""

    def __init__(self, channels: int, meaning_dim: int, patch_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.class_meaning = nn.Linear(CLASSES, meaning_dim, bias=False)
        self.colour_meaning = nn.Linear(len(COLOURS), meaning_dim, bias=False)
        self.classes = nn.Linear(meaning_dim, patch_dim, bias=False)
        self.colours = nn.Linear(meaning_dim, patch_dim, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.features = nn.Linear(channels, patch_dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, seen: Seen, *, coarse_only: bool = False) -> Tensor:
        """``[images, h, w, patch_dim]``; ``coarse_only``: at half of the height and width."""
        features, colours = seen.features.permute(0, 2, 3, 1), seen.colours
        if coarse_only:
            features, colours = _halved(features), _halved(colours)
        cells = colours.shape[1]
        score = seen.objects[..., 1:2] * F.one_hot(seen.objects[..., 0].long(), CLASSES)
        classes = torch.bmm((2 * cover(seen.objects[..., 2:], cells)).clamp_max(1).transpose(1, 2), score).clamp_max(1)
        by_class = self.classes.weight @ self.class_meaning.weight
        by_colour = self.colours.weight @ self.colour_meaning.weight
        found = F.linear(classes.view(-1, cells, cells, CLASSES), by_class) + F.linear(colours, by_colour)
        added: Tensor = found + self.features(self.dropout(self.norm(features)))
        return added


def _halved(x: Tensor) -> Tensor:
    """``[images, 2h, 2w, channels]`` -> ``[images, h, w, channels]``."""
    images, height, width, channels = x.shape
    return x.reshape(images, height // 2, 2, width // 2, 2, channels).mean((2, 4))


class Evidence(NamedTuple):
    """What the objects say to each row: ``counts`` ``[rows, 11]``, log probabilities of how many the question means;
    ``presence`` ``[rows]``, log odds that it is at least one; ``colours`` ``[rows, 22]`` of what the words look at, and
    of the objects meant; ``meaning`` ``[rows, meaning_dim]`` of these objects; ``hues`` ``[rows, 22]``, logarithms of
    the colours' shares where the words look, and in the whole image."""

    counts: Tensor
    presence: Tensor
    colours: Tensor
    meaning: Tensor
    hues: Tensor


class ObjectReader(nn.Module):
    """Which objects a question means; see the module's docstring."""

    def __init__(self, dim: int, meaning_dim: int) -> None:
        super().__init__()
        self.asked = nn.Linear(dim, _WIDTH)
        self.named = nn.Linear(meaning_dim, _WIDTH, bias=False)
        self.matters = nn.Linear(dim, 1)
        self.of_look = nn.Parameter(torch.tensor(0.5))
        self.of_score = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(
        self,
        states: Tensor,
        own: Tensor,
        looking: Tensor,
        state: ObjectState,
        names: Tensor,
        visible: Tensor | None = None,
    ) -> Evidence:
        """``states`` ``[images, rows, tokens, dim]``, ``own`` bool ``[images, rows, tokens]`` (the text's own tokens),
        ``looking`` ``[images, rows, places]``: how much they look where; ``names`` ``[classes, meaning_dim]``.
        ``visible`` bool ``[images, rows, places]``: an object that lies in no place of these is not there."""
        objects, score = state.objects, state.objects[..., 1]
        places = cover(objects[..., 2:], round(looking.shape[-1] ** 0.5))
        density = looking @ places.transpose(1, 2) / (places.mean(-1)[:, None] + 0.01)
        named = F.embedding(objects[..., 0].long(), names)
        match = torch.einsum("irtw,ikw->irtk", self.asked(states), self.named(named))
        match = (match + self.matters(states)).masked_fill(~own[..., None], -torch.inf).logsumexp(2)
        match = match.clamp_min(NEVER)  # texts without a token of their own
        odds = match + self.of_look * (density + 1e-2).log() + self.of_score * score.clamp(0.01, 0.99).logit()[:, None]
        odds = (odds + self.offset).clamp(-MOST, MOST).masked_fill(score[:, None] <= 0, NEVER)
        if visible is not None:
            odds = odds.masked_fill(visible.to(places) @ places.transpose(1, 2) <= 0, NEVER)
        chance = odds.sigmoid()
        none = -F.softplus(odds).sum(-1)
        presence = (-torch.expm1(none.clamp_max(-1e-6))).log() - none
        share = chance / chance.sum(-1, keepdim=True).clamp_min(1.0)
        look = looking / looking.sum(-1, keepdim=True).clamp_min(1e-3)
        looked_at = look @ state.place_colours
        colours = torch.cat([looked_at, share @ state.colours], -1)
        whole = state.place_colours.mean(1, keepdim=True).expand_as(looked_at)
        hues = (torch.cat([looked_at, whole], -1) + LEAST_SHARE).log()
        counts = _count(chance).clamp_min(LEAST_CHANCE).log()
        parts = (counts, presence.clamp(-MOST, MOST), colours, share @ named, hues)
        return Evidence(*(part.flatten(0, 1) for part in parts))


def _count(chance: Tensor) -> Tensor:
    """Probabilities ``[.., n]`` of independent draws -> those of how many come true, ``[.., 11]``: of every draw by
    itself, then of two together, of four, and so on."""
    slots = 1 << max(0, chance.shape[-1] - 1).bit_length()
    chance = F.pad(chance, (0, slots - chance.shape[-1]))
    counts = torch.stack([1 - chance, chance], -1)  # [.., slots, 2]
    while counts.shape[-2] > 1:
        sums = sums_of_counts(counts.shape[-1], counts.device).to(counts.dtype)
        left, right = counts[..., 0::2, :], counts[..., 1::2, :]
        counts = (left[..., :, None] * right[..., None, :]).flatten(-2) @ sums
    return F.pad(counts[..., 0, :], (0, COUNTS - counts.shape[-1]))


def sums_of_counts(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Which sum two numbers below ``size`` have, bool ``[size * size, sums]``; what is above 10 counts as 10."""
    numbers = torch.arange(size, device=device)
    sums = (numbers[:, None] + numbers).clamp_max(COUNTS - 1).flatten()
    return sums[:, None] == torch.arange(min(2 * size - 1, COUNTS), device=device)
