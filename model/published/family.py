"""What all published families share: checking texts and map requests, and running what goes together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.interface import EncodedImage, Geometry, Item, ItemError, Map, MapRequest, ModelInfo, Output, Pixels, Task
from model.published.preprocess import Normalization
from model.published.tokenizer import Encoded, Tokenizer

_MAX_UNKNOWN_SHARE = 0.5


class Family(ABC):
    """A published model of one task; see `model.interface.Model` for what the methods promise."""

    info: ModelInfo
    net: Any  # one of transformers' models, with our cross-attention inside where it has any
    tokenizer: Tokenizer
    device: torch.device
    free_text_may_be_empty = False

    @abstractmethod
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]: ...

    @abstractmethod
    def _run(self, items: Sequence[Item], texts: Sequence[Sequence[Encoded]], maps: MapRequest | None) -> list[Output]:
        """Run checked items, all with the same map request whose kind is set."""

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        if task not in self.info.tasks:
            message = f"{self.info.id} cannot {task}; it can {', '.join(self.info.tasks)}."
            return [ItemError("task_not_supported", message)] * len(items)
        outcomes: dict[int, Output | ItemError] = {}
        tokenized: dict[int, list[Encoded]] = {}
        batches: dict[MapRequest | None, list[int]] = {}
        for index, item in enumerate(items):
            found = self._check(item)
            if isinstance(found, ItemError):
                outcomes[index] = found
                continue
            tokenized[index] = found
            batches.setdefault(self._resolve(item.maps), []).append(index)
        for maps, members in batches.items():
            outputs = self._run([items[i] for i in members], [tokenized[i] for i in members], maps)
            outcomes.update(zip(members, outputs, strict=True))
        return [outcomes[index] for index in range(len(items))]

    def _resolve(self, maps: MapRequest | None) -> MapRequest | None:
        """The request with the model's defaults filled in."""
        if maps is None:
            return None
        return MapRequest(maps.kind or self.info.default_map_kind, maps.layers or self.info.layers)

    def _check(self, item: Item) -> list[Encoded] | ItemError:
        """The item's texts as tokens, or why it cannot be run."""
        if item.maps is not None:
            kinds, layers = self.info.map_kinds, self.info.layers
            if item.maps.kind not in (None, *kinds) or not set(item.maps.layers or ()) <= set(layers):
                return ItemError("map_not_supported", f"maps are {', '.join(kinds)} of layers {list(layers)}")
        found = []
        for index, text in enumerate(item.texts):
            if not text.strip() and not self.free_text_may_be_empty:
                return ItemError("question_empty", "The text is empty.", index)
            tokens = self.tokenizer(text)
            if len(tokens.ids) > self.info.max_tokens:
                detail: dict[str, object] = {"tokens": len(tokens.ids), "limit": self.info.max_tokens}
                return ItemError("question_too_long", "The text has more tokens than the model takes.", index, detail)
            if tokens.unknown_share > _MAX_UNKNOWN_SHARE:
                message = "More than half of the text is unknown to the model's vocabulary."
                share = round(tokens.unknown_share, 3)
                return ItemError("question_not_understood", message, index, {"unknown_share": share})
            found.append(tokens)
        return found


def to_input(
    images: Sequence[Pixels], normalization: Normalization, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Normalised channels-first pixels ``[images, 3, height, width]``."""
    pixels = torch.from_numpy(np.stack([image.values for image in images])).to(device)
    mean = torch.tensor(normalization.mean, device=device)
    std = torch.tensor(normalization.std, device=device)
    values = (pixels.float() * normalization.scale - mean) / std
    return values.permute(0, 3, 1, 2).contiguous().to(dtype)


def to_maps(rows: Tensor, geometry: Geometry, first_patch: int, *, whole: bool) -> list[Map]:
    """Maps from ``[tokens, keys]``; patches are the keys from ``first_patch`` on.

    ``whole``: a row's shares belong to a total of 1, and what is not on the grid went elsewhere; else elsewhere is
    what the other keys have.
    """
    values = rows.float().cpu().numpy()
    count = geometry.rows * geometry.columns
    patches = values[:, first_patch : first_patch + count]
    totals = np.ones(len(values)) if whole else values.sum(1)
    elsewhere = np.maximum(totals - patches.sum(1), 0.0)
    grids = np.ascontiguousarray(patches.reshape(-1, geometry.rows, geometry.columns))
    return [Map(grid, float(rest)) for grid, rest in zip(grids, elsewhere, strict=True)]
