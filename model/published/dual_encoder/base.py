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
from torch import Tensor

from model.family import TokenizedText
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
    Task,
    TextOutput,
)
from model.published.checkpoint import Loaded
from model.published.family import PublishedFamily, to_input


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
        """The memory of all features, in bytes."""
        return self.whole.nbytes + self.patches.nbytes


class DualEncoder(PublishedFamily):
    """What CLIP and SigLIP share. Scores are a softmax over the texts of a request."""

    def __init__(self, loaded: Loaded) -> None:
        self.net = loaded.net.eval().requires_grad_(False)
        self.tokenizer = loaded.tokenizer
        self.device = loaded.device
        self._normalization = loaded.normalization
        self.info = ModelInfo(
            id=loaded.id,
            revision=loaded.revision,
            tasks=("match", "embed"),
            map_kinds=("similarity",),
            default_map_kind="similarity",
            layers=(),
            rows=loaded.resize.rows,
            columns=loaded.resize.columns,
            max_tokens=loaded.net.config.text_config.max_position_embeddings,
            preprocess=loaded.resize,
            dimensions=self.dimensions,
        )

    @property
    def dimensions(self) -> int:
        """The length of a feature."""
        config = self.net.config
        return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Features:
        """The features of pixels ``[images, 3, height, width]``: whole ``[images, dim]``, parts ``[images, patches,
        dim]``."""

    @abstractmethod
    def text_features(self, texts: Sequence[TokenizedText]) -> Features:
        """The features of texts: whole ``[texts, dim]``, parts ``[texts, tokens, dim]``, padding behind each text's
        tokens included."""

    @abstractmethod
    def logits(self, cosines: Tensor) -> Tensor:
        """The model's logits ``[texts]`` from the cosines ``[texts]`` of texts with one image, float32."""

    @abstractmethod
    def fits(self, logits: Tensor) -> list[float | None]:
        """For each of the logits ``[texts]``, the probability (0 to 1) that this text fits the image, independent of
        the other texts; None where the model has no such probability."""

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision tower over a batch of images."""
        features = self.image_features(to_input(images, self._normalization, self.device, self.net.dtype))
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            DualImage(whole.clone(), patches.clone(), image.geometry)
            for whole, patches, image in zip(features.whole, features.parts, images, strict=True)
        ]

    @torch.no_grad()
    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        rows: dict[str, int] = {}  # a text that comes with several images is encoded once
        distinct: list[TokenizedText] = []
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
                        embedding=features.whole[row].float().cpu().numpy() if task == "embed" else None,
                    )
                )
            info = None if maps is None else MapInfo("similarity", (), "none", "none")
            feature = image.whole.float().cpu().numpy() if task == "embed" else None
            outputs.append(Output(tuple(results), info, feature))
        return outputs
