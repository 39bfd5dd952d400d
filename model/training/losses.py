"""What training minimises: how unlikely the people's answers are, and on collages how little of a map points."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact.network import FIRST_PATCH, CompactNet
from model.training.batches import TrainingBatch


def batch_loss(
    net: CompactNet,
    batch: TrainingBatch,
    rng: torch.Generator,
    *,
    smoothing: float,
    drop_patches: float,
    coarse_only: bool,
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
    on_collage = batch.places is not None and keys > FIRST_PATCH
    fused = net.fuse_states(
        batch.states, batch.mask, [(state, batch.rows)], need_maps=on_collage, patch_mask=patch_mask
    )
    log_probabilities = F.log_softmax(net.logits(fused.vector), -1)
    weight = (batch.targets.sum(-1) > 0).float()
    fit = -(batch.targets * log_probabilities).sum(-1)
    spread = -log_probabilities.mean(-1)
    loss = (weight * ((1 - smoothing) * fit + smoothing * spread)).sum() / weight.sum().clamp_min(1)
    if on_collage and batch.places is not None:
        loss = loss + miss(fused.maps[0], batch.mask, batch.places)
    return loss


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
