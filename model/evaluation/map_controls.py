"""The maps whose worth is measured, and beside each the controls: maps that cannot know what the model looked at.

* ``uniform``: none, so that patches are taken in random order; ``centre``: a Gaussian around the middle;
* ``KIND, other question``: the map of the same kind for another image's question about the same image;
* ``KIND, random weights``: the map of the same kind from the model with its cross-attention shuffled (Adebayo et al.
  2018, "Sanity Checks for Saliency Maps").
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from model.cross_attention import CrossAttention
from model.evaluation.ask import by_batch_key, encode_images
from model.interface import EncodedImage, Item, ItemError, MapKind, MapRequest, Model, ModelInfo, Task, TextOutput

Map = NDArray[np.float32]

UNIFORM, CENTRE = "uniform", "centre"
_CENTRE_SIGMA = 0.25  # of the grid's side


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make a model's maps: a kind, and the layers averaged (None: the model's default)."""

    kind: MapKind
    layers: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """As in the tables: ``gradient``, or ``gradient [0, 1]`` where layers are named."""
        return self.kind if self.layers is None else f"{self.kind} {list(self.layers)}"

    @property
    def other_question(self) -> str:
        """The name of the control that asks another question: ``gradient, other question``."""
        return f"{self.name}, other question"

    @property
    def random_weights(self) -> str:
        """The name of the control whose cross-attention is shuffled: ``gradient, random weights``."""
        return f"{self.name}, random weights"

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of what it has to beat."""
        return UNIFORM, CENTRE, self.other_question, self.random_weights


def variants_of(
    info: ModelInfo,
    kinds: Sequence[MapKind] | None = None,
    layers: Sequence[tuple[int, ...] | None] = (None,),
) -> list[Variant]:
    """All combinations of ``kinds`` (None: what the model offers) and ``layers``.

    Raises:
        ValueError: the model has no such kind or layer.
    """
    for kind in kinds or ():
        if kind not in info.map_kinds:
            raise ValueError(f"{info.id} makes maps of kind {', '.join(info.map_kinds) or 'none'}, not {kind}")
    for chosen in layers:
        if chosen is not None and not set(chosen) <= set(info.layers):
            raise ValueError(f"{info.id} has the layers {list(info.layers)}, not {list(chosen)}")
    return [Variant(kind, chosen) for chosen in layers for kind in kinds or info.map_kinds]


@dataclass(frozen=True, slots=True)
class Made:
    """The results for one image and text: the model's ``outputs`` by the map's name, and all ``maps``, including the
    fixed controls that no model made."""

    image: EncodedImage
    outputs: dict[str, TextOutput]
    maps: dict[str, Map]


class MapMaker:
    """Makes a model's maps and, unless ``controls`` is False, their controls."""

    def __init__(self, model: Model, task: Task, variants: Sequence[Variant], *, controls: bool = True) -> None:
        self.model, self.task, self.variants, self.controls = model, task, variants, controls
        self.shuffled = with_shuffled_attention(model) if controls and cross_attention_of(model) else None

    def __call__(
        self, images: Sequence[Image.Image], texts: Sequence[str], others: Sequence[str | None]
    ) -> list[Made | None]:
        """The maps of each text about its image; None for a text that the model refuses, or answers by reading.
        ``others`` are the texts of the control that asks another question, None where there is none."""
        encoded = encode_images(self.model, images)
        outputs: list[dict[str, TextOutput]] = [{} for _ in images]
        for variant in self.variants:
            asked = [(t, o) if self.controls and o is not None else (t,) for t, o in zip(texts, others, strict=True)]
            names = (variant.name, variant.other_question)
            _fill(outputs, names, self._run(self.model, encoded, asked, variant))
        if self.shuffled is not None:
            at_random = encode_images(self.shuffled, images)
            for variant in self.variants:
                found = self._run(self.shuffled, at_random, [(text,) for text in texts], variant)
                _fill(outputs, (variant.random_weights,), found)
        return [self._made(image, own) for image, own in zip(encoded, outputs, strict=True)]

    def _run(
        self, model: Model, images: Sequence[EncodedImage], texts: Sequence[tuple[str, ...]], variant: Variant
    ) -> list[tuple[TextOutput, ...]]:
        """One entry per image, empty where the model refuses one of its texts."""
        request = MapRequest(variant.kind, variant.layers)
        found: list[tuple[TextOutput, ...]] = [()] * len(images)
        for members in by_batch_key(images):
            outputs = model.run(self.task, [Item(images[i], texts[i], top_k=1, maps=request) for i in members])
            for i, output in zip(members, outputs, strict=True):
                found[i] = () if isinstance(output, ItemError) else tuple(output.texts)
        return found

    def _made(self, image: EncodedImage, outputs: dict[str, TextOutput]) -> Made | None:
        if any(output.score_over == "text" for output in outputs.values()):
            return None  # its map says where a text stands, not where the network looked
        needed = [variant.name for variant in self.variants]
        if self.shuffled is not None:
            needed += [variant.random_weights for variant in self.variants]
        found = {name: output.answer_map.values for name, output in outputs.items() if output.answer_map is not None}
        if not found.keys() >= set(needed):
            return None
        names = [name for v in self.variants for name in (v.name, v.other_question, v.random_weights)]
        maps = {name: found[name] for name in names if name in found}  # each beside its controls
        if self.controls:
            rows, columns = image.geometry.rows, image.geometry.columns
            fixed = {UNIFORM: np.zeros((rows, columns), dtype=np.float32), CENTRE: centre_map(rows, columns)}
            maps = fixed | maps
        return Made(image, outputs, maps)


def _fill(
    outputs: Sequence[dict[str, TextOutput]], names: Sequence[str], found: Sequence[tuple[TextOutput, ...]]
) -> None:
    for own, texts in zip(outputs, found, strict=True):
        own.update(zip(names, texts, strict=False))


def another(texts: Sequence[str], own: int) -> str | None:
    """The next text whose wording differs, for the control that asks something else; None where all are alike."""
    for step in range(1, len(texts)):
        if texts[(own + step) % len(texts)] != texts[own]:
            return texts[(own + step) % len(texts)]
    return None


def cross_attention_of(model: Model) -> list[CrossAttention]:
    """Every `CrossAttention` in an attribute of the model."""
    modules = [model] if isinstance(model, nn.Module) else [m for m in vars(model).values() if isinstance(m, nn.Module)]
    found = [layer for module in modules for layer in module.modules() if isinstance(layer, CrossAttention)]
    return list(dict.fromkeys(found))


def with_shuffled_attention(model: Model, seed: int = 0) -> Model:
    """A copy of the model whose cross-attention weights are shuffled, each matrix by itself: the sizes of the weights
    are kept, and what they learned about where to look is lost.

    Raises:
        ValueError: the model has no `CrossAttention` in any attribute of it.
    """
    shuffled = copy.deepcopy(model)
    layers = cross_attention_of(shuffled)
    if not layers:
        raise ValueError(f"the model {model.info.id} holds no CrossAttention whose weights could be shuffled")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            for linear in (layer.wq, layer.wk, layer.wv, layer.o):
                flat = linear.weight.flatten()
                order = torch.randperm(len(flat), generator=generator).to(flat.device)
                linear.weight.copy_(flat[order].view_as(linear.weight))
    return shuffled


def centre_map(rows: int, columns: int) -> Map:
    """A Gaussian around the middle of the grid."""
    y = (np.arange(rows) + 0.5) / rows - 0.5
    x = (np.arange(columns) + 0.5) / columns - 0.5
    squared = y[:, None] ** 2 + x[None, :] ** 2
    return np.exp(-squared / (2 * _CENTRE_SIGMA**2)).astype(np.float32)


def patch_order(values: Map, rng: np.random.Generator) -> NDArray[np.intp]:
    """Flat indices ``[rows * columns]`` of the cells of a map ``[rows, columns]``, highest first, ties in random
    order."""
    flat = values.ravel()
    return np.lexsort((rng.permutation(len(flat)), -flat))
