"""What a model is asked: an item is one encoded image with its texts, which maps to make, and how to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.interface.images import EncodedImage

Task = Literal["answer", "caption", "match", "embed"]
MapKind = Literal["raw", "gradient", "rollout", "similarity"]


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Which maps to make: ``None`` stands for the model's default kind and layers, and for all heads. ``heads``: those
    that are averaged, of each layer; for ``raw`` maps of models that have them apart (`ModelInfo.heads`)."""

    kind: MapKind | None = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """How to write an answer, for models that write. None stands for the model's default; a model ignores what it does
    not follow (`ModelInfo.generation`)."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    """Divides the logits before a token is drawn; 0: always the most likely token."""
    top_p: float | None = None
    """Draw from the most likely tokens that together have this probability, 0 to 1."""
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    """Writing ends before any of these strings."""
    top_logprobs: int = 0
    """How many of the most likely tokens to tell at each place."""


@dataclass(frozen=True, slots=True)
class Item:
    """One encoded image and the texts to run against it, kept together as a group.

    ``texts`` are the questions (answer), prompts (caption) or the texts to compare with each other (match).
    ``maps`` None means no maps, at no cost.
    """

    image: EncodedImage
    texts: tuple[str, ...]
    candidates: tuple[str, ...] | None = None
    top_k: int = 5
    maps: MapRequest | None = None
    generation: Generation | None = None
    language: str | None = None
    """The language of the answers, one of `ModelInfo.answer_languages`; None: each text's own."""
