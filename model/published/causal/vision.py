"""What a causal vision-language model's family says of its images: how they are made ready, which tokens stand for
them, and which cell of the grid each of these tokens saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.interface import Pixels, Preprocess
from model.published.preprocess import Normalization


@dataclass(frozen=True, slots=True)
class Placement:
    """How image tokens lie on the grid: the share ``weights[i]`` of token ``tokens[i]`` (its number among the image's
    tokens) goes to cell ``cells[i]``. A token that saw several cells (one of a thumbnail) is shared out by area, one
    that saw none (the end of a row) is in no entry."""

    tokens: NDArray[np.int64]
    cells: NDArray[np.int64]
    weights: NDArray[np.float32]

    def on_grid(self, rows: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
        """Shares of image tokens ``[n, tokens]`` as shares of the grid's ``[n, cells]``."""
        grid = np.zeros((len(rows), cells), np.float32)
        np.add.at(grid.T, self.cells, (rows[:, self.tokens] * self.weights).T)
        return grid

    @classmethod
    def one_to_one(cls, cells: Sequence[int] | NDArray[np.int64]) -> Placement:
        """Token ``i`` saw ``cells[i]``, or nothing of the grid where that is -1."""
        all_cells = np.asarray(cells, np.int64)
        tokens = np.flatnonzero(all_cells >= 0)
        return cls(tokens, all_cells[tokens], np.ones(len(tokens), np.float32))

    @classmethod
    def shared_out(cls, grid: tuple[int, int], rows: int, columns: int, first: int = 0) -> Placement:
        """Tokens of a coarser or finer ``grid`` (rows, columns) over the same area, from token ``first`` on, row by
        row: each cell of ``rows`` x ``columns`` gets what of the token lies in it."""
        down, across = _overlaps(grid[0], rows), _overlaps(grid[1], columns)
        found = [(first + i * grid[1] + j, y * columns + x, a * b) for i, y, a in down for j, x, b in across]
        tokens, cells, weights = zip(*found, strict=True)
        return cls(np.array(tokens, np.int64), np.array(cells, np.int64), np.array(weights, np.float32))

    @classmethod
    def joined(cls, parts: Sequence[tuple[Placement, int, int]]) -> Placement:
        """Images one after the other, each with how many tokens and cells it has; cells are numbered on through all
        grids."""
        token = cell = 0
        tokens, cells = [], []
        for part, count, size in parts:
            tokens.append(part.tokens + token)
            cells.append(part.cells + cell)
            token, cell = token + count, cell + size
        return cls(
            np.concatenate(tokens), np.concatenate(cells), np.concatenate([part.weights for part, _, _ in parts])
        )

    def __add__(self, other: Placement) -> Placement:
        return Placement(
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.cells, other.cells]),
            np.concatenate([self.weights, other.weights]),
        )


def _overlaps(parts: int, cells: int) -> list[tuple[int, int, float]]:
    """``(part, cell, share of the part in the cell)`` of a line cut into ``parts`` and, by another, into ``cells``."""
    found = []
    for part in range(parts):
        start, end = part * cells / parts, (part + 1) * cells / parts
        for cell in range(int(start), min(cells, int(np.ceil(end)))):
            share = (min(end, cell + 1) - max(start, cell)) / (end - start)
            if share > 1e-9:
                found.append((part, cell, share))
    return found


def tiled(tile_rows: int, tile_columns: int, rows: int, columns: int) -> NDArray[np.int64]:
    """The cell of each token, ``[tile_rows * tile_columns * rows * columns]``, of tiles that stand one after the other,
    each of ``rows`` x ``columns`` tokens row by row; the tiles cover the image row by row."""
    cells = np.arange(tile_rows * rows * tile_columns * columns)
    return cells.reshape(tile_rows, rows, tile_columns, columns).transpose(0, 2, 1, 3).reshape(-1)


@dataclass(frozen=True, slots=True)
class Expansion:
    """What stands in the prompt for one image: ``text`` with one image token a feature (it ends with
    `ImageTokens.after`); and how these tokens lie on the grid."""

    text: str
    placement: Placement


class ImageTokens(ABC):
    """The images of one checkpoint. ``preprocess`` runs in the service's parent, everything else beside the model."""

    preprocess: Preprocess
    normalization: Normalization
    rows: int
    columns: int
    template: str | None = None
    """The chat template of folders that have none."""
    after: str = ""
    """What an image's text in the prompt has behind its last token."""
    describe: str = "Describe this image."
    """What is asked for a caption."""
    prefix_sees_question: bool = False
    """Whether image tokens attend to the question (PaliGemma): then only features can be kept."""

    def __init__(self, net: Any, folder: Path, image_token: str) -> None:
        """Read what the folder says of images. Raises ValueError where that makes no sense."""
        self.net, self.image_token = net, image_token
        self.device: torch.device = net.device
        self.dtype: torch.dtype = net.dtype

    @property
    def placeholder(self) -> str:
        """What the chat template writes for an image."""
        return self.image_token

    @abstractmethod
    def inputs(self, pixels: Pixels) -> dict[str, Any]:
        """What the library's ``get_image_features`` takes for one image."""

    @abstractmethod
    def expand(self, pixels: Pixels) -> Expansion:
        """The tokens of one image."""

    def context(self, ids: Tensor, pixels: Sequence[Pixels]) -> dict[str, Any]:
        """What else the model takes with a prompt's ``ids`` ``[1, tokens]``."""
        return {}

    def next_position(self, tokens: int) -> int:
        """The position of what follows a prefix of so many ``tokens``, just after the model has read it."""
        return tokens

    def features(self, pixels: Pixels) -> Any:
        """The projected features of one image, as the library's model takes them (``mm_encoder_outputs``)."""
        found = self.net.model.get_image_features(**self.inputs(pixels), return_dict=True)
        return kept_features(found)

    def to_input(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 ``[height, width, 3]`` each, all of one size -> normalised ``[n, 3, height, width]``."""
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        mean = torch.tensor(self.normalization.mean, device=self.device)
        std = torch.tensor(self.normalization.std, device=self.device)
        values = (pixels.float() * self.normalization.scale - mean) / std
        return values.permute(0, 3, 1, 2).contiguous().to(self.dtype)


def kept_features(output: Any) -> SimpleNamespace:
    """Of what the library's vision tower gives, the part that the text model takes."""
    parts = {"pooler_output": output.pooler_output}
    deep = getattr(output, "deepstack_features", None)
    if deep is not None:
        parts["deepstack_features"] = deep
    return SimpleNamespace(**parts)


def joined(features: Sequence[SimpleNamespace]) -> SimpleNamespace:
    """`kept_features` of several images, in their order, as the library's model takes them."""
    if len(features) == 1:
        return features[0]
    parts = {"pooler_output": _joined([one.pooler_output for one in features])}
    if hasattr(features[0], "deepstack_features"):
        depths = zip(*(one.deepstack_features for one in features), strict=True)
        parts["deepstack_features"] = [_joined(depth) for depth in depths]
    return SimpleNamespace(**parts)


def _joined(parts: Sequence[Any]) -> Any:
    """One tensor of tensors, or all elements of sequences."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else [tensor for one in parts for tensor in one]


def tensors_of(features: Any) -> list[Tensor]:
    """All tensors of `kept_features`, each of its own shape."""
    found: list[Tensor] = []
    for part in vars(features).values():
        found += _flat(part)
    return found


def _flat(part: Any) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else [x for one in part for x in _flat(one)]
