"""Deletion and insertion: does the answer hang on the patches that a map ranks first?

* **Deletion**: patches are taken from the model (masked as keys of its cross-attention) in the map's order, highest
  first. The sooner the probability of the model's own answer falls, the better: the area under the curve, low is good.
* **Insertion**: the same from nothing: patches are given in the map's order, high is good.

The null key of the default model and BLIP's class token are never masked: no map ranks them. Masking keys instead of
pixels needs no second vision pass and shows the model no unnatural image.
Source: Petsiuk et al. 2018, "RISE".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.evaluation.data import DataSet, ImageRef
from model.evaluation.map_controls import MapMaker, another, patch_order
from model.interface import EncodedImage, Task

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of the patches, taken or given; 0 and 1 are always there
IMAGE_MATTERS = 0.1  # the image must raise the answer's probability by so much over having no patch at all
TEXTS = 4  # about an image, at most
_IMAGES_AT_ONCE = 8


@runtime_checkable
class Maskable(Protocol):
    """What deletion and insertion ask of a model beyond `Model`."""

    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating]:
        """The probability ``[n]`` of ``answer`` to ``text`` where the cross-attention may look only at the patches
        that ``keep`` ``[n, rows, columns]`` has True.

        For a model that matches, ``answer`` is the text again, and the probability that it fits; for one that
        captions, the geometric mean of the caption's tokens (whole captions are too improbable to compare).
        """
        ...


@dataclass(slots=True)
class Curves:
    """One entry per question: the areas under its two curves by map, whether the image matters to it, its image."""

    deletion: dict[str, list[float]] = field(default_factory=dict)
    insertion: dict[str, list[float]] = field(default_factory=dict)
    matters: list[bool] = field(default_factory=list)
    images: list[ImageRef] = field(default_factory=list)


def perturb(
    maker: MapMaker, data: DataSet, split: str, *, images: int | None = None, texts: int = TEXTS, seed: int = 0
) -> Curves:
    """The curves of at most ``texts`` texts about each image of the split (of ``images`` of them); empty for models
    that cannot mask."""
    curves = Curves()
    model = maker.model
    if not isinstance(model, Maskable):
        return curves
    rng = np.random.default_rng(seed)
    of_image = texts_of(data, split, maker.task)
    chosen = [list(of_image)[i] for i in rng.permutation(len(of_image))[:images]]
    drawn = {ref: rng.permutation(of_image[ref])[:texts].tolist() for ref in chosen}
    # Image by image, then each again: so the text behind one is about another image.
    pairs = [(ref, drawn[ref][i]) for i in range(texts) for ref in chosen if i < len(drawn[ref])]
    refs, asked = [ref for ref, _ in pairs], [text for _, text in pairs]
    others = [another(asked, i) for i in range(len(asked))]
    grid = (0.0, *FRACTIONS, 1.0)
    with tqdm(total=len(pairs), desc="deletion and insertion", unit="text", disable=None) as bar:
        for start in range(0, len(pairs), _IMAGES_AT_ONCE):
            part = slice(start, start + _IMAGES_AT_ONCE)
            opened = [data.open_image(ref) for ref in refs[part]]
            for ref, text, made in zip(refs[part], asked[part], maker(opened, asked[part], others[part]), strict=True):
                bar.update()
                if made is None:
                    continue
                shape = (made.image.geometry.rows, made.image.geometry.columns)
                masks = [np.ones((1, *shape), np.bool_), np.zeros((1, *shape), np.bool_)]
                masks += [keep_masks(patch_order(values, rng), shape) for values in made.maps.values()]
                answer = made.outputs[maker.variants[0].name].ranking[0].answer
                scores = model.score_masked(made.image, text, np.concatenate(masks), answer)
                full, none = float(scores[0]), float(scores[1])
                steps = scores[2:].reshape(len(made.maps), 2, len(FRACTIONS))
                for name, (deleted, inserted) in zip(made.maps, steps, strict=True):
                    curves.deletion.setdefault(name, []).append(area(grid, np.array([full, *deleted, none])))
                    curves.insertion.setdefault(name, []).append(area(grid, np.array([none, *inserted, full])))
                curves.matters.append(full - none >= IMAGE_MATTERS)
                curves.images.append(ref)
    return curves


def texts_of(data: DataSet, split: str, task: Task) -> dict[ImageRef, list[str]]:
    """The texts that a model of the task is given about each image of a split: questions, captions to match, or one
    empty prompt to caption."""
    found: dict[ImageRef, list[str]] = {}
    if task != "match":
        for question in data.questions:
            if question.split == split:
                found.setdefault(question.image_ref, []).append(question.question)
    if task != "answer":
        for record in data.captions:
            if record.split == split:
                found.setdefault(record.image_ref, []).extend(record.captions)
    return {ref: [""] for ref in found} if task == "caption" else found


def keep_masks(order: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches stay ``[2 * len(FRACTIONS), rows, columns]``: first for deletion, then for insertion."""
    masks = np.zeros((2 * len(FRACTIONS), len(order)), dtype=np.bool_)
    for i, fraction in enumerate(FRACTIONS):
        count = max(1, round(fraction * len(order)))
        masks[i, order[count:]] = True
        masks[len(FRACTIONS) + i, order[:count]] = True
    return masks.reshape(-1, *shape)


def area(fractions: Sequence[float], values: NDArray[np.floating]) -> float:
    """The area under a curve ``values`` ``[points]`` over ``fractions`` (0 to 1) of the patches."""
    return float(np.trapezoid(values, fractions))
