"""CLIP and SigLIP: image and text in one space, and how alike they are there.

Neither has attention between text and image, so their maps are what they can honestly give: the cosine between a
token's feature and each patch's feature, both taken through the model's own projections. That is a ``similarity``,
between -1 and 1, and no attention.

Sources: Radford et al., "Learning Transferable Visual Models", ICML 2021; Zhai et al., "Sigmoid Loss for Language Image
Pre-Training", ICCV 2023.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.grid_maps import find_words, make_tokens
from model.interface import (
    EncodedImage,
    Geometry,
    Item,
    Map,
    MapInfo,
    MapRequest,
    ModelInfo,
    Output,
    Pixels,
    Ranked,
    TextOutput,
)
from model.published.checkpoint import Loaded, LoadRequest, load_weights
from model.published.family import Family, to_input
from model.published.preprocess import read_processor
from model.published.tokenizer import Encoded, load_tokenizer, pad


class Features(NamedTuple):
    """Unit vectors: of the whole ``[n, dim]``, and of its patches or tokens ``[n, parts, dim]``."""

    whole: Tensor
    parts: Tensor


@dataclass(frozen=True, slots=True)
class DualImage:
    """An encoded image: its feature ``[dim]`` and those of its patches ``[rows * columns, dim]``."""

    whole: Tensor
    patches: Tensor
    geometry: Geometry
    batch_key: Hashable = "dual"

    @property
    def nbytes(self) -> int:
        return self.whole.nbytes + self.patches.nbytes


class DualEncoder(Family):
    """What CLIP and SigLIP share. Scores are a softmax over the texts of a request."""

    def __init__(self, loaded: Loaded) -> None:
        self.net = loaded.net.eval().requires_grad_(False)
        self.tokenizer = loaded.tokenizer
        self.device = loaded.device
        self._normalization = loaded.normalization
        self.info = ModelInfo(
            id=loaded.id,
            revision=loaded.revision,
            tasks=("match",),
            map_kinds=("similarity",),
            default_map_kind="similarity",
            layers=(),
            rows=loaded.resize.rows,
            columns=loaded.resize.columns,
            max_tokens=loaded.net.config.text_config.max_position_embeddings,
            preprocess=loaded.resize,
        )

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Features:
        """Of pixels ``[images, 3, height, width]``."""

    @abstractmethod
    def text_features(self, texts: Sequence[Encoded]) -> Features:
        """Of texts; ``parts`` may have rows behind a text's tokens."""

    @abstractmethod
    def logits(self, cosines: Tensor) -> Tensor:
        """The model's logits from cosines."""

    @abstractmethod
    def fits(self, logits: Tensor) -> list[float | None]:
        """The probability of each pair by itself, where the model has one."""

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        features = self.image_features(to_input(images, self._normalization, self.device, self.net.dtype))
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            DualImage(whole.clone(), patches.clone(), image.geometry)
            for whole, patches, image in zip(features.whole, features.parts, images, strict=True)
        ]

    @torch.no_grad()
    def _run(self, items: Sequence[Item], texts: Sequence[Sequence[Encoded]], maps: MapRequest | None) -> list[Output]:
        rows: dict[str, int] = {}  # a text that comes with several images is encoded once
        distinct: list[Encoded] = []
        for item, group in zip(items, texts, strict=True):
            for text, tokens in zip(item.texts, group, strict=True):
                if rows.setdefault(text, len(distinct)) == len(distinct):
                    distinct.append(tokens)
        features = self.text_features(distinct)
        outputs = []
        for item, group in zip(items, texts, strict=True):
            image: Any = item.image
            chosen = [rows[text] for text in item.texts]
            logits = self.logits((features.whole[chosen] @ image.whole).float())
            shares, fits = logits.softmax(0).tolist(), self.fits(logits)
            results = []
            for text, tokens, row, share, fit in zip(item.texts, group, chosen, shares, fits, strict=True):
                looked: list[Map] = []
                if maps is not None:
                    asking = torch.cat([features.whole[row : row + 1], features.parts[row, : len(tokens.ids)]])
                    grid = (item.image.geometry.rows, item.image.geometry.columns)
                    cosines = (asking @ image.patches.T).float().cpu().numpy()
                    looked = [Map(one.reshape(grid), 0.0) for one in cosines]
                results.append(
                    TextOutput(
                        (Ranked(text, share),),
                        "candidates",
                        None,
                        tokens=make_tokens(tokens.texts, tokens.spans, looked[1:]) if looked else (),
                        words=find_words(text, tokens.spans) if looked else (),
                        answer_map=looked[0] if looked else None,
                        token_count=len(tokens.ids),
                        fit=fit,
                    )
                )
            info = None if maps is None else MapInfo("similarity", (), "none", "none")
            outputs.append(Output(tuple(results), info))
        return outputs


class Clip(DualEncoder):
    """`CLIPModel`. A token's feature is the text tower's state there, through the projection that the last one takes;
    a patch's feature goes through the norm and projection that the image's does."""

    def image_features(self, pixels: Tensor) -> Features:
        tower = self.net.vision_model
        states = tower.post_layernorm(tower(pixel_values=pixels).last_hidden_state)
        projected = F.normalize(self.net.visual_projection(states), dim=-1)
        return Features(projected[:, 0], projected[:, 1:])

    def text_features(self, texts: Sequence[Encoded]) -> Features:
        # Padding comes behind the text, which a causal tower never looks at; it takes the first end token as the text.
        ids, _ = pad([text.ids for text in texts], self.tokenizer.hub.eos_token_id, self.device)
        result = self.net.text_model(input_ids=ids)
        whole, parts = (self.net.text_projection(x) for x in (result.pooler_output, result.last_hidden_state))
        return Features(F.normalize(whole, dim=-1), F.normalize(parts, dim=-1))

    def logits(self, cosines: Tensor) -> Tensor:
        scaled: Tensor = cosines * self.net.logit_scale.float().exp()
        return scaled

    def fits(self, logits: Tensor) -> list[float | None]:
        return [None] * len(logits)


class Siglip(DualEncoder):
    """`SiglipModel`. A patch's feature is what the pooling head would make of that patch alone; each pair has its own
    probability, the sigmoid that the model was trained with."""

    def image_features(self, pixels: Tensor) -> Features:
        tower = self.net.vision_model
        result = tower(pixel_values=pixels)
        parts = self._pooled_alone(tower.head, result.last_hidden_state)
        return Features(F.normalize(result.pooler_output, dim=-1), F.normalize(parts, dim=-1))

    @staticmethod
    def _pooled_alone(head: Any, patches: Tensor) -> Tensor:
        """Attention over a single key returns its value, whatever the query."""
        attention = head.attention
        dim = patches.shape[-1]
        values = F.linear(patches, attention.in_proj_weight[2 * dim :], attention.in_proj_bias[2 * dim :])
        pooled = attention.out_proj(values)
        alone: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return alone

    def text_features(self, texts: Sequence[Encoded]) -> Features:
        # Always padded to full length, unmasked, and read from the last place: that is how the model was trained.
        length, fill = self.info.max_tokens, self.tokenizer.hub.pad_token_id
        ids = torch.tensor([text.ids + [fill] * (length - len(text.ids)) for text in texts], device=self.device)
        tower = self.net.text_model
        result = tower(input_ids=ids)
        parts = tower.head(result.last_hidden_state)
        return Features(F.normalize(result.pooler_output, dim=-1), F.normalize(parts, dim=-1))

    def logits(self, cosines: Tensor) -> Tensor:
        scaled: Tensor = cosines * self.net.logit_scale.float().exp() + self.net.logit_bias.float()
        return scaled

    def fits(self, logits: Tensor) -> list[float | None]:
        return list(logits.sigmoid().tolist())


def load_dual_encoder(request: LoadRequest, family: str) -> DualEncoder:
    """Load a `CLIPModel` or `SiglipModel`."""
    import transformers

    theirs, ours = {
        "clip": (transformers.CLIPModel, Clip),
        "siglip": (transformers.SiglipModel, Siglip),
    }[family]
    net = load_weights(theirs, request)
    vision = net.config.vision_config
    resize, normalization = read_processor(request.folder, vision.image_size, vision.patch_size)
    tokenizer = load_tokenizer(request.folder)
    return ours(Loaded(net, tokenizer, resize, normalization, request.id, request.revision, request.device))
