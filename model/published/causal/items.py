"""What a causal vision-language model holds: an encoded image, and a text that is being answered."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from model.family import TokenizedText
from model.interface import Geometry, Item, MapRequest, Pixels
from model.published.causal.stack import Prefix
from model.published.causal.vision import Placement, tensors_of
from model.published.generation.batch import Row


@dataclass(frozen=True, eq=False, slots=True)
class CausalImage:
    """An encoded image: the ``prefix`` that it stands in, or the projected ``features`` alone, where keys and values
    would take too much or depend on the question. ``ids`` are the prefix's. Several images that are asked about
    together are one: ``pixels`` has what tells the size of each, ``placement`` numbers tokens and cells through all."""

    ids: list[int]
    placement: Placement
    pixels: tuple[Pixels, ...]
    prefix: Prefix | None = None
    features: Any = None
    batch_key: Hashable = "causal"
    lent: weakref.WeakValueDictionary[str, Prefix] = field(default_factory=weakref.WeakValueDictionary)
    """The prefix of an image that keeps none, while a question needs it."""

    @property
    def geometry(self) -> Geometry:
        """The grid that its tokens are placed on, and those of further images."""
        return self.pixels[0].geometry

    @property
    def nbytes(self) -> int:
        """The memory of what is kept, in bytes."""
        if self.prefix is not None:
            return self.prefix.nbytes
        return sum(tensor.nbytes for tensor in tensors_of(self.features))


@dataclass(eq=False, slots=True)
class Asked:
    """One text of an item under way. ``looked``: attention of question tokens to the image ``[tokens, image tokens]``,
    where it was kept as the prompt was read."""

    row: Row
    item: Item
    text: str
    tokens: TokenizedText
    maps: MapRequest | None
    looked: Tensor | None = None
