"""What every model family does alike: texts and map requests are checked, and what goes together runs together.

A family derives from `Family` and says what is its own: `Family.encode`, `Family.tokenize` and `Family._run`, which
gets checked items that all ask for the same maps. `docs/models.md`, "Adding a family", builds one in about 50 lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from model.cross_attention import set_kernel
from model.interface import EncodedImage, Item, ItemError, MapRequest, ModelInfo, Output, Pixels, Task
from model.languages import NAMES
from model.progress import step

_MAX_UNKNOWN_SHARE = 0.5

Span = tuple[int, int]


class TokenizedText(NamedTuple):
    """One text as tokens. ``spans`` are half-open, in code points of the text as sent; None for special tokens.
    ``unknown_share`` (0 to 1) is how much of the text, without special tokens, the vocabulary cannot represent.
    ``words``: the spans of its words, where spaces do not divide them. ``chinese``: it is read by the Chinese
    encoder."""

    ids: list[int]
    texts: list[str]
    spans: list[Span | None]
    unknown_share: float = 0.0
    words: list[Span] | None = None
    chinese: bool = False


class Family(ABC):
    """A loaded model; see `model.interface.Model` for what `info`, `encode` and `run` promise."""

    info: ModelInfo
    net: nn.Module
    device: torch.device

    @abstractmethod
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the vision pass over a batch of images."""

    @abstractmethod
    def tokenize(self, text: str) -> TokenizedText:
        """The tokens of ``text`` between the family's special ones; nothing is cut off."""

    @abstractmethod
    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        """Run checked items, one output each. ``texts`` are the tokens of each item's texts; ``maps`` is what they all
        ask for, with kind and layers filled in."""

    def _check_own(self, task: Task, item: Item, texts: Sequence[TokenizedText]) -> ItemError | None:
        """The hook for rules of one family: why it cannot run an item that passed all the others, None if it can."""
        return None

    def _foreign(self, text: str) -> str | None:
        """The hook for families that tell languages apart: what a text is that the model does not read, such as "in
        Japanese"; None where nothing speaks against it."""
        return None

    def use_kernel(self, kernel: str) -> None:
        """Compute cross-attention by one of `model.kernels.KERNELS`. Raises ValueError for an unknown one."""
        set_kernel(self.net, kernel)

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        """One output or error per item, in order. Items that ask for the same maps share a pass."""
        if task not in self.info.tasks:
            message = f"{self.info.id} cannot {task}; it can {', '.join(self.info.tasks)}."
            return [ItemError("task_not_supported", message)] * len(items)
        outcomes: dict[int, Output | ItemError] = {}
        tokenized: dict[int, list[TokenizedText]] = {}
        batches: dict[MapRequest | None, list[int]] = {}
        for index, item in enumerate(items):
            found = self._check(task, item)
            if isinstance(found, ItemError):
                outcomes[index] = found
            else:
                tokenized[index] = found
                batches.setdefault(self._resolve(item.maps), []).append(index)
        for maps, members in batches.items():
            step()
            outputs = self._run(task, [items[i] for i in members], [tokenized[i] for i in members], maps)
            outcomes.update(zip(members, outputs, strict=True))
        return [outcomes[index] for index in range(len(items))]

    def _resolve(self, maps: MapRequest | None) -> MapRequest | None:
        """The request with the model's defaults filled in, its layers and heads sorted and each named once."""
        if maps is None:
            return None
        layers = maps.layers or self.info.default_layers or self.info.layers
        heads = None if maps.heads is None else tuple(sorted(set(maps.heads)))
        return MapRequest(maps.kind or self.info.default_map_kind, tuple(sorted(set(layers))), heads)

    def _check(self, task: Task, item: Item) -> list[TokenizedText] | ItemError:
        """The item's texts as tokens, or why it cannot be run."""
        if item.maps is not None:
            kinds, layers = self.info.map_kinds, self.info.layers
            if not kinds:
                return ItemError("map_not_supported", f"{self.info.id} makes no maps.")
            if item.maps.kind not in (None, *kinds) or not set(item.maps.layers or ()) <= set(layers):
                return ItemError("map_not_supported", f"maps are {', '.join(kinds)} of layers {list(layers)}")
            kind, heads = item.maps.kind or self.info.default_map_kind, item.maps.heads or ()
            if heads and (kind != "raw" or not set(heads) <= set(range(self.info.heads))):
                return ItemError("map_not_supported", f"raw maps alone can be had of some of {self.info.heads} heads")
        found = []
        for index, text in enumerate(item.texts):
            tokens = self.tokenize(text)
            empty = not text.strip() or all(span is None for span in tokens.spans)
            if empty and task != "caption":  # a caption needs no beginning
                return ItemError("question_empty", "The text is empty.", index)
            if len(tokens.ids) > self.info.max_tokens:
                detail: dict[str, object] = {"tokens": len(tokens.ids), "limit": self.info.max_tokens}
                return ItemError("question_too_long", "The text has more tokens than the model takes.", index, detail)
            foreign = self._foreign(text)
            if foreign is not None or tokens.unknown_share > _MAX_UNKNOWN_SHARE:
                known = " and ".join(NAMES.get(code, code) for code in self.info.languages)
                what = (
                    "More than half of the text is unknown to the model"
                    if foreign is None
                    else f"The text is {foreign}"
                )
                detail = {"unknown_share": round(tokens.unknown_share, 3), "languages": list(self.info.languages)}
                return ItemError("question_not_understood", f"{what}; the model reads {known}.", index, detail)
            found.append(tokens)
        return self._check_own(task, item, found) or found
