"""The network of the default model: vision, text, fusion, and a head that is tied to what the answers mean.

Every patch gets two descriptions: its visual features (stride 16 joined with stride 32), and its *meaning*: ImageNet's
classes as probabilities at that place, times the sentence vectors of the classes' names. The answers' vectors start
from sentence vectors too. So what a patch means can be read straight out, through the answer's own attention map, into
the space in which answers are compared: the map is not beside the answer, it carries a part of it. So it is with how
well a text fits the image (`model.compact.matching`), which matching shows and by which *yes* is told from *no*.
Training starts the queries and keys in that space as well: a word first looks where the patches mean what it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.colours import colour_shares
from model.compact.config import MAP_KINDS as MAP_KINDS
from model.compact.config import CompactConfig as CompactConfig
from model.compact.fusion import Fusion
from model.compact.head import AnswerHead
from model.compact.image_networks import ImageFeatures, resized
from model.compact.matching import Matching
from model.compact.objects import (
    Evidence,
    ObjectState,
    Seen,
    SeenPatches,
    best_objects,
    object_state,
)
from model.compact.storage import store_under
from model.compact.text_encoder import TextEncoder
from model.compact.vision import EfficientNetLite, VisionFeatures
from model.cross_attention import KeysValues
from model.rows import Source

FIRST_PATCH = 1  # key 0 is the null key: learned, outside the grid; tokens with nothing to look for attend to it
_NAMES_IN_FILES = {  # of tensors, where the weight files' names are older than those here
    "patches.null_key": "patches.nowhere",
    "head.yes_from_text.": "head.leaning.",
    "head.yes_from_fit.": "head.reliance.",
}


class ImageState(NamedTuple):
    """All that the questions need of one or more images.

    * ``layers``: keys and values per fusion layer, ``[images, heads, 1 + patches, head_dim]``;
    * ``meaning`` ``[images, patches / 4, meaning_dim]``, at stride 32;
    * ``places`` ``[images, patches / 4, match_dim]``: the same places, to be matched with texts;
    * ``objects``: what the detector found, None for a model without one.
    """

    layers: list[KeysValues]
    meaning: Tensor
    places: Tensor
    objects: ObjectState | None = None

    def tensors(self) -> list[Tensor]:
        """All tensors, each ``[images, ...]``, in the order in which `of_tensors` takes them."""
        pairs = [tensor for layer in self.layers for tensor in layer]
        return [*pairs, self.meaning, self.places, *(self.objects or ())]

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor], layers: int) -> ImageState:
        """The state of these `tensors`, each ``[images, ...]``, of a network with so many fusion layers."""
        pairs, (meaning, places, *rest) = tensors[: 2 * layers], tensors[2 * layers :]
        found = [KeysValues(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
        return cls(found, meaning, places, ObjectState(*rest) if rest else None)


class PatchEmbedding(nn.Module):
    """Vision features -> keys' and values' source ``[images, 1 + patches, patch_dim]``; and the patches' meaning."""

    def __init__(self, config: CompactConfig, fine_channels: int, coarse_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fine_norm, self.coarse_norm = nn.LayerNorm(fine_channels), nn.LayerNorm(coarse_channels)
        self.features = nn.Linear(fine_channels + coarse_channels, config.patch_dim)
        self.class_meaning = nn.Linear(1000, config.meaning_dim, bias=False)
        self.meaning = nn.Linear(config.meaning_dim, config.patch_dim, bias=False)
        self.row = nn.Parameter(torch.randn(config.cells, config.patch_dim) * 0.02)
        self.column = nn.Parameter(torch.randn(config.cells, config.patch_dim) * 0.02)
        self.null_key = nn.Parameter(torch.randn(config.patch_dim) * 0.02)
        self.norm = nn.LayerNorm(config.patch_dim)
        self.dropout = nn.Dropout(dropout)
        channels = config.detector_channels
        self.seen = SeenPatches(channels, config.meaning_dim, config.patch_dim, dropout) if channels else None

    def mean(self, class_probabilities: Tensor) -> Tensor:
        """ImageNet probabilities ``[images, 1000, h, w]`` -> meaning ``[images, h, w, meaning_dim]``."""
        meaning: Tensor = self.class_meaning(class_probabilities.permute(0, 2, 3, 1))
        return meaning

    def forward(self, features: VisionFeatures, meaning: Tensor, *, coarse_only: bool = False) -> Tensor:
        """``meaning`` ``[images, h, w, meaning_dim]`` of the coarse places. ``coarse_only``: a patch for each of these
        places, a quarter of all, each the mean of the four in it."""
        fine = self.dropout(self.fine_norm(features.fine.permute(0, 2, 3, 1)))  # [images, 2h, 2w, channels]
        coarse = self.dropout(self.coarse_norm(features.coarse.permute(0, 2, 3, 1)))
        described = F.linear(coarse, self.features.weight[:, fine.shape[-1] :]) + self.meaning(meaning)
        places = self.row[:, None] + self.column
        if coarse_only:
            fine, places = _mean_of_four(fine), _mean_of_four(places)
        else:
            described = described.repeat_interleave(2, 1).repeat_interleave(2, 2)  # stride 32 -> 16
        described = described + F.linear(fine, self.features.weight[:, : fine.shape[-1]], self.features.bias) + places
        if self.seen is not None and features.seen is not None:
            described = described + self.seen(features.seen, coarse_only=coarse_only)
        patches: Tensor = self.norm(torch.cat([self.null_key.expand(len(fine), 1, -1), described.flatten(1, 2)], 1))
        return patches


def _mean_of_four(x: Tensor) -> Tensor:
    """``[.., 2h, 2w, channels]`` -> ``[.., h, w, channels]``."""
    *rest, height, width, channels = x.shape
    return x.reshape(*rest, height // 2, 2, width // 2, 2, channels).mean((-4, -2))


class Fused(NamedTuple):
    """What the fusion gives to each row: the answer's vector, how well the text fits the image ``[rows]`` (log odds),
    and the maps ``[rows, tokens, keys]`` of each layer."""

    vector: Tensor
    fit: Tensor
    maps: list[Tensor]
    evidence: Evidence | None = None


class CompactNet(nn.Module):
    """Pixels and token ids in, answer logits and maps out. See the module's docstring for the idea."""

    def __init__(self, config: CompactConfig, *, vocabulary: int, answers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.vision = EfficientNetLite(config.vision)
        self.patches = PatchEmbedding(config, self.vision.fine_channels, self.vision.coarse_channels, dropout)
        self.text = TextEncoder(
            vocabulary,
            dim=config.dim,
            num_heads=config.num_heads,
            layers=config.text_layers,
            max_tokens=config.max_tokens,
        )
        self.dropout = nn.Dropout(dropout)
        self.narrow = nn.Linear(config.dim, config.fusion_dim)
        self.fusion = Fusion(
            config.fusion_layers,
            dim=config.fusion_dim,
            dim_kv=config.patch_dim,
            num_heads=config.fusion_heads,
            cross_heads=config.cross_heads,
            cross_dim=config.cross_dim,
            dropout=dropout,
        )
        self.head = AnswerHead(config, answers, dropout)
        self.matching = Matching(config.dim, self.vision.coarse_channels, config.match_dim)
        store_under(self, _NAMES_IN_FILES)

    def encode_image(self, pixels: Tensor) -> ImageState:
        """``pixels`` uint8 ``[images, config.size, config.size, 3]``, by the image network of this module alone."""
        features = self.vision(pixels)
        return self.encode_features(features, self.patches.mean(self.vision.classify(features.coarse).softmax(1)))

    def describe(self, found: ImageFeatures, pixels: Tensor) -> VisionFeatures:
        """What the image networks found in ``pixels`` ``[images, side, side, 3]``, with objects and colours."""
        config = self.config
        if found.detections is None or not config.detector:
            return found.vision
        scores, boxes, levels = found.detections
        objects = [best_objects(*one) for one in zip(scores, boxes, strict=True)]
        small = resized(pixels, config.size).cpu().numpy()
        colours = torch.from_numpy(np.stack([colour_shares(one, config.cells) for one in small]))
        middle = F.adaptive_avg_pool2d(levels[1], config.cells)
        return found.vision._replace(seen=Seen(middle, colours.to(middle), torch.stack(objects)))

    def encode_features(self, features: VisionFeatures, meaning: Tensor, *, coarse_only: bool = False) -> ImageState:
        """From vision features and meaning ``[images, h, w, meaning_dim]`` on; training starts here, with both made
        once, and saves time with ``coarse_only`` (see `PatchEmbedding`)."""
        patches = self.patches(features, meaning, coarse_only=coarse_only)
        if self.config.blind:
            patches = patches[:, :FIRST_PATCH]
        seen = None if features.seen is None else object_state(features.seen)
        return ImageState(
            self.fusion.project(patches), meaning.flatten(1, 2), self.matching.project_places(features.coarse), seen
        )

    def fuse(
        self,
        ids: Tensor,
        mask: Tensor,
        images: Sequence[tuple[ImageState, int]],
        *,
        need_maps: bool = False,
        patch_mask: Tensor | None = None,
    ) -> Fused:
        """``ids``, ``mask`` ``[rows, tokens]``; ``images``: states and how many rows ask each image in them, in order.

        ``patch_mask`` bool ``[rows, 1 + patches]``: the keys that a row may attend.
        """
        return self.fuse_states(self.text(ids, mask), mask, images, need_maps=need_maps, patch_mask=patch_mask)

    def fuse_states(
        self,
        states: Tensor,
        mask: Tensor,
        images: Sequence[tuple[ImageState, int]],
        *,
        need_maps: bool = False,
        patch_mask: Tensor | None = None,
    ) -> Fused:
        """`fuse` from text features ``[rows, tokens, dim]`` on."""
        sources = [Source(state.layers, rows) for state, rows in images]
        states = self.dropout(states)
        visible = None if patch_mask is None else self._at_places(patch_mask.to(states.dtype)) > 0
        patch_mask = self.weigh(patch_mask, images[0][0].layers[0].keys.shape[2], states)
        fused, looking, maps = self.fusion(
            self.narrow(states), mask, sources, need_maps=need_maps, patch_mask=patch_mask
        )
        asked = mean_over(states, mask)
        answering, own = looking[:, 0], mean_over(looking, own_tokens(mask))
        looked_at, matched, found, start = [], [], [], 0
        for state, rows in images:
            part = slice(start, start + len(state.meaning) * rows)
            looked_at.append(self._read(answering[part].unflatten(0, (-1, rows)), state.meaning))
            matched.append(self._read(own[part].view(-1, rows, own.shape[-1]), state.places))
            if state.objects is not None and self.patches.seen is not None and not self.config.blind:
                look = self._at_places(own[part]).view(-1, rows, state.meaning.shape[1])
                words, mine = (x.view(-1, rows, *x.shape[1:]) for x in (states[part], own_tokens(mask[part])))
                names = self.patches.seen.class_meaning.weight.T
                shown = None if visible is None else visible[part].view(-1, rows, look.shape[-1])
                found.append(self.head.reader(words, mine, look, state.objects, names, shown))
            start = part.stop
        evidence = Evidence(*(torch.cat(parts) for parts in zip(*found, strict=True))) if found else None
        fit = self.matching(asked, torch.cat(matched))
        return Fused(self.head.vector(fused, asked, torch.cat(looked_at), fit, evidence), fit, maps, evidence)

    def weigh(self, patch_mask: Tensor | None, keys: int, states: Tensor) -> Tensor | None:
        """What is added to the scores of ``keys`` keys where patches are coarse: ``[images, keys]``, of the dtype of
        ``states`` ``[images, ..]``. Each patch stands for four, so that the null key has the weight beside them that it
        has beside all patches. Where they are not, ``patch_mask``, bool ``[images, keys]``, as it is."""
        if keys in (FIRST_PATCH, FIRST_PATCH + self.config.cells**2):
            return patch_mask
        bias = states.new_full((len(states), keys), math.log(4.0))
        bias[:, :FIRST_PATCH] = 0
        return bias if patch_mask is None else bias.masked_fill_(~patch_mask, -torch.inf)

    def _read(self, looking: Tensor, meaning: Tensor) -> Tensor:
        """What coarse places are under a map: ``[images, rows, keys]`` over ``[images, patches / 4, dim]`` -> ``[images
        * rows, dim]``."""
        if self.config.blind:
            return meaning.new_zeros(looking.shape[0] * looking.shape[1], meaning.shape[-1])
        return torch.bmm(self._at_places(looking).to(meaning.dtype), meaning).flatten(0, 1)

    def _at_places(self, looking: Tensor) -> Tensor:
        """Maps ``[.., keys]`` at the coarse places ``[.., patches / 4]``, each of which holds 2x2 patches."""
        places, half = looking[..., FIRST_PATCH:], self.config.cells // 2
        if places.shape[-1] == half**2:
            return places
        return places.reshape(*looking.shape[:-1], half, 2, half, 2).sum((-3, -1)).flatten(-2)

    def last_map(self, states: Tensor, mask: Tensor, images: Sequence[tuple[ImageState, int]]) -> Tensor:
        """How much the text's own tokens look at each coarse place ``[rows, patches / 4]``, mean; see `fuse_states`."""
        sources = [Source(state.layers, rows) for state, rows in images]
        weigh = self.weigh(None, images[0][0].layers[0].keys.shape[2], states)
        looking = self.fusion.last_map(self.narrow(states), mask, sources, weigh)
        return self._at_places(mean_over(looking, own_tokens(mask)))

    def logits(self, vector: Tensor) -> Tensor:
        """Answer logits ``[rows, answers]`` of the rows' vectors, at the fitted temperature."""
        return F.linear(vector, self.head.weight, self.head.bias) / self.config.temperature


def own_tokens(mask: Tensor) -> Tensor:
    """Of ``mask`` ``[rows, tokens]``, the text's own tokens: all but the first and each row's last, which open and
    close it."""
    return F.pad(mask[:, 2:], (1, 1))


def mean_over(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``x`` ``[rows, tokens, dim]`` over the tokens in ``mask`` ``[rows, tokens]`` -> ``[rows, dim]``; 0
    where there is none."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
