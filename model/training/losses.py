"""What training minimises: how unlikely the people's answers are, and on collages how little of a map points."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.network import FIRST_PATCH, CompactNet
from model.compact.objects import Evidence
from model.training.batches import TrainingBatch


def batch_loss(
    net: CompactNet,
    batch: TrainingBatch,
    rng: torch.Generator,
    *,
    smoothing: float,
    drop_patches: float,
    coarse_only: bool,
    map_weight: float = 0.0,
    count_weight: float = 0.0,
) -> Tensor:
    """The loss of a batch, a scalar ``[]``: cross-entropy of the answers, and on collages `miss` of the first layer's
    maps. Later layers stay free to look for what the answer needs.

    A share of each image's patches is hidden, drawn evenly from 0 to ``2 * drop_patches``; ``smoothing`` of the targets
    is spread over all answers.
    """
    state = net.encode_features(batch.features, batch.meaning, coarse_only=coarse_only)
    images, keys = batch.features.fine.shape[0], state.layers[0].keys.shape[2]
    patch_mask = None
    if keys > FIRST_PATCH:
        share = torch.rand(images, 1, generator=rng) * 2 * drop_patches
        keep = torch.rand(images, keys, generator=rng) >= share
        keep[:, :FIRST_PATCH] = True
        patch_mask = keep.repeat_interleave(batch.rows, 0).to(state.meaning.device)
        patch_mask[:, FIRST_PATCH:] |= _on_grid(batch.boxes, keys - FIRST_PATCH) > 0  # what is asked about stays
    taught = bool(batch.words.any()) and keys > FIRST_PATCH
    on_collage = batch.places is not None and keys > FIRST_PATCH
    fused = net.fuse_states(
        batch.states, batch.mask, [(state, batch.rows)], need_maps=on_collage or taught, patch_mask=patch_mask
    )
    log_probabilities = F.log_softmax(net.logits(fused.vector), -1)
    weight = (batch.targets.sum(-1) > 0).float() * batch.weights
    fit = -(batch.targets * log_probabilities).sum(-1)
    spread = -log_probabilities.mean(-1)
    loss = (weight * ((1 - smoothing) * fit + smoothing * spread)).sum() / weight.sum().clamp_min(1)
    if on_collage and batch.places is not None:
        loss = loss + miss(fused.maps[0], batch.mask, batch.places)
    if taught:
        loss = loss + map_weight * miss_boxes(fused.maps[0], batch.words, batch.boxes)
    if fused.evidence is not None and batch.counted.any():
        loss = loss + count_weight * miscount(fused.evidence, batch.counted)
    return loss


def _on_grid(boxes: Tensor, patches: int) -> Tensor:
    """Shares of coarse places ``[rows, places]`` at patches ``[rows, patches]``, where each place has one or four."""
    side, half = math.isqrt(patches), math.isqrt(boxes.shape[1])
    square = boxes.view(-1, half, half).repeat_interleave(side // half, 1).repeat_interleave(side // half, 2)
    return square.flatten(1)


def miscount(evidence: Evidence, counted: Tensor) -> Tensor:
    """How unlikely the objects hold what is known: that there are any, and how many. ``counted`` ``[rows, 11]`` as in
    `TrainingBatch`."""
    rows = counted.any(1).nonzero()[:, 0]
    known = counted[rows] / counted[rows].sum(1, keepdim=True)
    presence = F.binary_cross_entropy_with_logits(evidence.presence[rows], 1 - known[:, 0])
    return presence - (known * evidence.counts[rows]).sum(1).mean()


def miss_boxes(maps: Tensor, words: Tensor, boxes: Tensor) -> Tensor:
    """The mean of ``-log`` of the share of a word's map in its boxes, or on the null key where it has no box.
    ``maps`` ``[rows, tokens, keys]``, ``words`` bool ``[rows, tokens]``, ``boxes`` ``[rows, coarse places]``."""
    rows = words.any(1).nonzero()[:, 0]
    places, half = maps[rows, :, FIRST_PATCH:], math.isqrt(boxes.shape[1])
    if places.shape[-1] != half**2:
        places = places.reshape(*places.shape[:2], half, 2, half, 2).sum((-3, -1)).flatten(-2)
    right = (boxes[rows] > 0.3) | (boxes[rows] >= boxes[rows].amax(1, keepdim=True).clamp_min(1e-6))
    inside = torch.einsum("rtp,rp->rt", places, right.float())
    nowhere = ~right.any(1)
    inside = torch.where(nowhere[:, None], maps[rows, :, 0], inside)
    valid = words[rows].float()
    word = -((inside + 1e-3).log() * valid).sum(1) / valid.sum(1)
    answer = -(inside[:, 0] + 1e-3).log()
    weight = torch.where(nowhere, 0.3, 1.0)
    return (weight * (word + 0.3 * answer * (~nowhere))).mean()


def miss(maps: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """The mean of ``-log`` of the share of a map on its quarter: the answer's map, and the mean of the tokens'.
    ``maps`` ``[rows, tokens, keys]``, ``places`` ``[rows]``, -1 where a text has none."""
    rows = (places >= 0).nonzero()[:, 0]
    half = math.isqrt(maps.shape[-1] - FIRST_PATCH) // 2
    squares = maps[rows, :, FIRST_PATCH:]
    squares = squares.reshape(*squares.shape[:2], 2, half, 2, half).sum((-3, -1)).flatten(-2)
    on_place = squares.gather(-1, places[rows, None, None].expand(-1, squares.shape[1], 1))[..., 0]
    valid = mask[rows].float()
    tokens = (on_place * valid).sum(1) / valid.sum(1)
    return -(on_place[:, 0] + 1e-3).log().mean() - 0.5 * (tokens + 1e-3).log().mean()
