"""BLIP-2 and InstructBLIP: 32 learned queries look at the image, a language model reads them and writes.

A word never looks at the image itself, so its map is composed: what it took from each query, times where that query
looked, `answer>queries>image`. What it took from the text is in `elsewhere`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from model.attribution import compose
from model.cross_attention import KeysValues
from model.interface import EncodedImage, Geometry, MapRequest, MapStep, Pixels, Task
from model.published.blip2.language import LanguageModel
from model.published.blip2.qformer import QFormer
from model.published.checkpoint import Loaded
from model.published.family import to_input
from model.published.generation.config import ends_of
from model.published.generation.sessions import Session
from model.published.prompted.family import Prompted, side_by_side
from model.published.prompted.prompts import Forced, Prompt, templated
from model.rows import Source

LIMIT = 50  # tokens of an answer where neither request nor folder says
_LONGEST = 2048  # positions used, however many a language model has


@dataclass(frozen=True, slots=True)
class Queried:
    """What the queries found: ``features`` ``[rows, queries, dim]``, as the language model reads them, and where they
    looked, ``maps`` ``[rows, queries, keys]`` (None: not asked for)."""

    features: Tensor
    maps: Tensor | None


@dataclass(frozen=True, slots=True)
class QueriedImage:
    """An encoded image of BLIP-2, whose queries do not see the question: ``features`` ``[1, queries, dim]`` and where
    they looked, ``[1, queries, keys]``."""

    features: Tensor
    maps: Tensor
    geometry: Geometry
    batch_key: Hashable = "blip2"

    @property
    def nbytes(self) -> int:
        """The memory of both, in bytes."""
        return self.features.nbytes + self.maps.nbytes


@dataclass(frozen=True, slots=True)
class ProjectedImage:
    """An encoded image of InstructBLIP, whose queries see the instruction: its keys and values ``[1, heads, keys,
    head_dim]`` for every layer of the Q-Former that looks at it."""

    layers: list[KeysValues]
    geometry: Geometry
    batch_key: Hashable = "instructblip"

    @property
    def nbytes(self) -> int:
        """The memory of all keys and values, in bytes."""
        return sum(layer.nbytes for layer in self.layers)


class QueryWriter(Prompted):
    """What both share: the tower, the Q-Former, and the language model behind it."""

    templates: Mapping[Task, str]

    def __init__(self, loaded: Loaded) -> None:
        self.net = loaded.net.eval().requires_grad_(False)
        self.tokenizer, self.device = loaded.tokenizer, loaded.device
        self._normalization = loaded.normalization
        config = loaded.net.config
        queries = config.num_query_tokens
        self.qformer = QFormer(self.net.qformer, queries)
        self.language = LanguageModel(self.net.language_model, queries)
        settings = self.net.language_model.generation_config
        self.ends = ends_of(settings, self.net.generation_config, config.text_config)
        positions = getattr(config.text_config, "max_position_embeddings", None) or 512  # T5 was trained on 512
        self.room = min(positions, _LONGEST) - queries
        around = max(len(templated(self.tokenizer, template, "").ids) for template in self.templates.values())
        layers = tuple(range(config.text_config.num_hidden_layers))
        self.info = self._describe(loaded, loaded.resize, layers=layers, max_new_tokens=LIMIT, around=around)

    @abstractmethod
    def _query(self, prompts: Sequence[Prompt], images: Sequence[EncodedImage], *, need_map: bool) -> Queried:
        """What the queries bring from each image for each prompt, one row each."""

    def _prompt(self, task: Task, text: str) -> Prompt:
        return templated(self.tokenizer, self.templates[task], text)

    def _context(self, prompt: Prompt) -> Sequence[int]:
        """A decoder behind an encoder knows its first token alone; else the queries stand before the prompt."""
        if self.language.has_encoder:
            return [self.language.start_id]
        token = self.net.config.image_token_index
        return ([] if token is None else [token] * self.net.config.num_query_tokens) + prompt.ids

    def _states(self, images: Sequence[Pixels]) -> Tensor:
        """The vision tower's states ``[images, keys, dim]``."""
        pixels = to_input(images, self._normalization, self.device, self.net.dtype)
        states: Tensor = self.net.vision_model(pixel_values=pixels).last_hidden_state
        return states

    def _project(self, states: Tensor) -> Tensor:
        """States of the queries ``[rows, queries, dim]`` as the language model's."""
        projected: Tensor = self.net.language_projection(states.to(self.net.language_projection.weight.dtype))
        return projected

    def _embed(self, prompts: Sequence[Prompt], queried: Queried) -> Tensor:
        """``[rows, queries + n, dim]``."""
        words = self.language.embed(torch.tensor([prompt.ids for prompt in prompts], device=self.device))
        return torch.cat([queried.features.to(words.dtype), words], 1)

    def _begin(self, prompts: Sequence[Prompt], images: Sequence[EncodedImage]) -> Session:
        return self.language.begin(self._embed(prompts, self._query(prompts, images, need_map=False)))

    def _forced(
        self, prompts: Sequence[Prompt], images: Sequence[EncodedImage], made: Tensor, maps: MapRequest | None
    ) -> Forced:
        queried = self._query(prompts, images, need_map=maps is not None)
        layers = None if maps is None else maps.layers
        forced = self.language.forced(self._embed(prompts, queried), made, layers)
        if queried.maps is None or forced.prompt_maps is None or forced.answer_maps is None:
            return forced
        looked = queried.maps.float()
        return Forced(forced.logits, compose(forced.prompt_maps, looked), compose(forced.answer_maps, looked))

    def _steps(self, maps: MapRequest) -> tuple[MapStep, ...]:
        return (
            MapStep("answer", "queries", maps.layers or ()),
            MapStep("queries", "image", self.qformer.cross_indices),
        )


class Blip2(QueryWriter):
    """`Blip2ForConditionalGeneration`. Its queries see the image alone, so they are asked once an image."""

    # As its authors prompt it.
    templates: Mapping[Task, str] = MappingProxyType({"answer": "Question: {} Answer:", "caption": "{}"})

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self.answer_follows = "" if self.language.has_encoder else " "

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision tower over a batch of images, and the Q-Former over its states."""
        layers = self.qformer.project(self._states(images))
        tokens = self.net.query_tokens
        embedded = self.net.qformer.layernorm(tokens.to(self.net.qformer.layernorm.weight.dtype))
        states, maps = self.qformer(embedded.expand(len(images), -1, -1), [Source(layers)], need_map=True)
        features = self._project(states)
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            QueriedImage(features[i : i + 1].clone(), maps[i : i + 1].clone(), image.geometry)
            for i, image in enumerate(images)
        ]

    def _query(self, prompts: Sequence[Prompt], images: Sequence[EncodedImage], *, need_map: bool) -> Queried:
        asked: Any = images
        features = torch.cat([image.features for image in asked])
        return Queried(features, torch.cat([image.maps for image in asked]) if need_map else None)


def sources_of(images: Sequence[EncodedImage]) -> list[Source]:
    """Each image with the rows that ask it."""
    return [Source(image.layers, rows) for image, rows in side_by_side(images)]
