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
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.fusion import Fusion
from model.compact.matching import Matching
from model.compact.storage import store_under
from model.compact.text import TextEncoder
from model.compact.vision import EfficientNetLite, VisionFeatures
from model.cross_attention import KeysValues
from model.interface import MapKind
from model.rows import Source

MAP_KINDS: tuple[MapKind, ...] = ("raw", "gradient", "rollout")
FIRST_PATCH = 1  # key 0 is the null key: learned, no place of the image; tokens with nothing to look for attend to it
_NAMES_IN_FILES = {  # of tensors, where the weight files' names are older than those here
    "patches.null_key": "patches.nowhere",
    "head.yes_from_text.": "head.leaning.",
    "head.yes_from_fit.": "head.reliance.",
}


@dataclass(frozen=True, slots=True)
class CompactConfig:
    """Sizes of the network. ``size`` is the side of the square input in pixels; the grid has a cell for 16 of them."""

    vision: str = "lite2"
    size: int = 320
    dim: int = 384
    """Width of the text encoder."""
    num_heads: int = 12
    text_layers: int = 6
    fusion_dim: int = 256
    fusion_heads: int = 8
    fusion_layers: int = 1
    cross_heads: int = 8
    cross_dim: int = 256
    """Width of the queries, keys and values of all cross-attention heads together."""
    patch_dim: int = 256
    max_tokens: int = 64
    meaning_dim: int = 384
    free_dim: int = 64
    """How much of an answer's vector is learned freely: *yes* and *no*, or *2* and *3*, mean much the same."""
    match_dim: int = 128
    matches: bool = False
    """Whether it has learned how well a text fits an image."""
    blind: bool = False
    """A question-only twin: the null key is all there is to attend to, so it has no maps."""
    temperature: float = 1.0
    """Divides the logits; fitted after training."""
    default_map_kind: MapKind = "raw"
    """What is shown where a request names no kind: one of `MAP_KINDS`, the one that is worth most (docs/maps.md)."""
    default_map_layers: tuple[int, ...] | None = None
    """The fusion layers whose maps are averaged where a request names none; None: all."""

    def __post_init__(self) -> None:
        """Raises ValueError for figures that no network can have, and for default maps that there are none of."""
        for name, width in (("num_heads", "dim"), ("fusion_heads", "fusion_dim"), ("cross_heads", "cross_dim")):
            heads = getattr(self, name)
            if heads < 1 or getattr(self, width) % heads:
                raise ValueError(f"{name} divides {width} ({getattr(self, width)}), {heads} does not")
        if self.size < 32 or self.size % 32:
            raise ValueError(f"size is a multiple of 32, not {self.size}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature is a number above 0, not {self.temperature}")
        if self.default_map_kind not in MAP_KINDS:
            raise ValueError(f"default_map_kind is one of {', '.join(MAP_KINDS)}, not {self.default_map_kind!r}")
        if self.default_map_layers is not None:
            layers = tuple(sorted(set(self.default_map_layers)))  # JSON has lists
            if not layers or not set(layers) <= set(range(self.fusion_layers)):
                raise ValueError(f"default_map_layers names layers of {self.fusion_layers}, from 0, not {layers}")
            object.__setattr__(self, "default_map_layers", layers)

    @property
    def cells(self) -> int:
        """Rows (and columns) of the patch grid."""
        return self.size // 16


class ImageState(NamedTuple):
    """All that the questions need of one or more images."""

    layers: list[KeysValues]  # a fusion layer each: [images, heads, 1 + patches, head_dim]
    meaning: Tensor  # [images, patches / 4, meaning_dim], at stride 32
    places: Tensor  # [images, patches / 4, match_dim]: the same places, to be matched with texts


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
        patches: Tensor = self.norm(torch.cat([self.null_key.expand(len(fine), 1, -1), described.flatten(1, 2)], 1))
        return patches


def _mean_of_four(x: Tensor) -> Tensor:
    """``[.., 2h, 2w, channels]`` -> ``[.., h, w, channels]``."""
    *rest, height, width, channels = x.shape
    return x.reshape(*rest, height // 2, 2, width // 2, 2, channels).mean((-4, -2))


class AnswerHead(nn.Module):
    """Logits over the answers: one vector, made of the fused question and of the meaning it looked at, against the
    vector of each answer."""

    def __init__(self, config: CompactConfig, answers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fused = nn.Sequential(
            nn.LayerNorm(config.fusion_dim + config.dim),
            nn.Dropout(dropout),
            nn.Linear(config.fusion_dim + config.dim, 2 * config.dim),
            nn.GELU(),
            nn.LayerNorm(2 * config.dim),
            nn.Dropout(2 * dropout),
            nn.Linear(2 * config.dim, config.meaning_dim + config.free_dim),
        )
        self.read = nn.Linear(config.meaning_dim, config.meaning_dim)
        self.answers = nn.Parameter(torch.randn(answers, config.meaning_dim) * 0.05)
        self.free = nn.Parameter(torch.zeros(answers, config.free_dim))
        self.yes_from_text = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Dropout(dropout),
            nn.Linear(config.dim, config.dim),
            nn.GELU(),
            nn.Dropout(2 * dropout),
            nn.Linear(config.dim, 1),
        )
        # How much rather *yes* it is where the question fits the image: learned after all else, as matching is.
        with torch.random.fork_rng(devices=[]):
            self.yes_from_fit = nn.Linear(config.dim, 1)
        nn.init.zeros_(self.yes_from_fit.weight)
        nn.init.zeros_(self.yes_from_fit.bias)
        self.yes_no: Tensor
        self.register_buffer("yes_no", torch.zeros(answers))
        self.bias = nn.Parameter(torch.zeros(answers))
        # text features -> the vector of any other answer
        self.unseen = nn.Linear(config.dim, config.meaning_dim + config.free_dim + 1)

    def mark_yes_no(self, answers: Sequence[str]) -> None:
        """Tell which answers `yes_score` raises and lowers."""
        self.yes_no.copy_(torch.tensor([{"yes": 0.5, "no": -0.5}.get(answer, 0.0) for answer in answers]))

    @property
    def weight(self) -> Tensor:
        """The answers' whole vectors ``[answers, meaning_dim + free_dim + 1]``."""
        return torch.cat([self.answers, self.free, self.yes_no[:, None]], -1)

    def vector(self, fused: Tensor, asked: Tensor, looked_at: Tensor, fit: Tensor) -> Tensor:
        """``fused`` ``[rows, fusion_dim]``, ``asked`` (what the question says by itself) ``[rows, dim]``,
        ``looked_at`` ``[rows, meaning_dim]``, ``fit`` ``[rows]`` (see `Matching`) -> ``[rows, meaning_dim + free_dim +
        1]``.

        The last number is `yes_score`: from the question's words, and from how well it fits the image, which counts
        more for some questions than for others. It has a small network of its own: in a vector that serves all answers,
        the little that can be learned of it gets lost.
        """
        vector: Tensor = self.fused(torch.cat([fused, asked], -1))
        vector = vector + F.pad(self.read(looked_at), (0, self.free.shape[-1]))
        return torch.cat([vector, self.yes_score(asked, fit)], -1)

    def yes_score(self, asked: Tensor, fit: Tensor) -> Tensor:
        """How much rather *yes* than *no* it is, ``[rows, 1]``; ``asked`` and ``fit`` as in `vector`."""
        said = F.layer_norm(asked, asked.shape[-1:])
        score: Tensor = self.yes_from_text(asked) + self.yes_from_fit(said) * fit[:, None]
        return score


class Fused(NamedTuple):
    """What the fusion gives to each row: the answer's vector, how well the text fits the image ``[rows]`` (log odds),
    and the maps ``[rows, tokens, keys]`` of each layer."""

    vector: Tensor
    fit: Tensor
    maps: list[Tensor]


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
        """``pixels`` uint8 ``[images, size, size, 3]``."""
        features = self.vision(pixels)
        return self.encode_features(features, self.patches.mean(self.vision.classify(features.coarse).softmax(1)))

    def encode_features(self, features: VisionFeatures, meaning: Tensor, *, coarse_only: bool = False) -> ImageState:
        """From vision features and meaning ``[images, h, w, meaning_dim]`` on; training starts here, with both made
        once, and saves time with ``coarse_only`` (see `PatchEmbedding`)."""
        patches = self.patches(features, meaning, coarse_only=coarse_only)
        if self.config.blind:
            patches = patches[:, :FIRST_PATCH]
        return ImageState(
            self.fusion.project(patches), meaning.flatten(1, 2), self.matching.project_places(features.coarse)
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
        patch_mask = self._weigh(patch_mask, images[0][0].layers[0].keys.shape[2], states)
        fused, looking, maps = self.fusion(
            self.narrow(states), mask, sources, need_maps=need_maps, patch_mask=patch_mask
        )
        asked = mean_over(states, mask)
        answering, own = looking[:, 0], mean_over(looking, own_tokens(mask))
        looked_at, matched, start = [], [], 0
        for state, rows in images:
            part = slice(start, start + len(state.meaning) * rows)
            looked_at.append(self._read(answering[part].unflatten(0, (-1, rows)), state.meaning))
            matched.append(self._read(own[part].view(-1, rows, own.shape[-1]), state.places))
            start = part.stop
        fit = self.matching(asked, torch.cat(matched))
        return Fused(self.head.vector(fused, asked, torch.cat(looked_at), fit), fit, maps)

    def _weigh(self, patch_mask: Tensor | None, keys: int, states: Tensor) -> Tensor | None:
        """What is added to the scores where patches are coarse: each stands for four, so that the null key has the
        weight beside them that it has beside all patches."""
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
        weigh = self._weigh(None, images[0][0].layers[0].keys.shape[2], states)
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
