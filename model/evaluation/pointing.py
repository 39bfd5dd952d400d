"""Pointing: on collages of four images (`model.evaluation.collages`), does a map point at the one that is asked about?

The right quarter is known without boxes drawn by people. The pointing game is that of Zhang et al. 2018 ("Top-down
Neural Attention by Excitation Backprop"), on quarters of a collage in place of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.evaluation.collages import COLLAGES, Collage, make_collages, quadrant
from model.evaluation.data import DataSet
from model.evaluation.judging import Interval, bootstrap
from model.evaluation.map_controls import MapMaker, another, patch_order, variants_of
from model.interface import Geometry, MapKind, Model, Task, TextOutput

_COLLAGES_AT_ONCE = 8


class Pointing(NamedTuple):
    """How often a map points at the right one of four images (chance: 25%).

    * ``peak``: the highest cell of the answer's map lies in it (the one to quote);
    * ``mass``: the answer's map has its largest sum in that quarter;
    * ``word``: the highest cell of the map of the word that names the thing asked about lies in it. None for maps that
      have no words.
    """

    peak: Interval
    mass: Interval
    word: Interval | None


def pointing(
    model: Model,
    data: DataSet,
    split: str,
    *,
    collages: int = COLLAGES,
    kinds: Sequence[MapKind] | None = None,
    layers: Sequence[tuple[int, ...] | None] = (None,),
    seed: int = 0,
) -> dict[str, Pointing]:
    """By map (see `Variant.name`), how well it points on collages made from the captions of a split. Without controls:
    quick enough to choose by while training. Empty for models that only caption, or a split without captions.

    Raises:
        ValueError: the model has no such kind or layer.
    """
    task = task_of(model)
    maker = MapMaker(model, task, variants_of(model.info, kinds, layers), controls=False)
    return point(maker, data, collages_of(data, split, collages, seed), seed=seed)


def task_of(model: Model) -> Task:
    """What a model's maps are measured on: the first that it can do of answer, match and caption."""
    tasks: tuple[Task, ...] = ("answer", "match", "caption")
    return next(task for task in tasks if task in model.info.tasks)


def collages_of(data: DataSet, split: str, count: int, seed: int = 0) -> list[Collage]:
    """Up to ``count`` collages of the images that have captions in the split."""
    return make_collages([record for record in data.captions if record.split == split], count, seed=seed)


def point(maker: MapMaker, data: DataSet, collages: Sequence[Collage], *, seed: int = 0) -> dict[str, Pointing]:
    """`pointing` with the maps of ``maker``, its controls included."""
    if maker.task == "caption":  # nothing can be asked of it
        return {}
    rng = np.random.default_rng((seed, 1))  # its own stream: places are drawn from the seed alone
    texts = [collage.question if maker.task == "answer" else collage.caption for collage in collages]
    others = [another(texts, i) for i in range(len(texts))]
    with_words = {name for variant in maker.variants for name in (variant.name, variant.random_weights)}
    hits: dict[str, tuple[list[float], list[float], list[float]]] = {}
    with tqdm(total=len(collages), desc="pointing", unit="collage", disable=None) as bar:
        for start in range(0, len(collages), _COLLAGES_AT_ONCE):
            part = slice(start, start + _COLLAGES_AT_ONCE)
            images = [collage.compose(data.open_image) for collage in collages[part]]
            for collage, made in zip(collages[part], maker(images, texts[part], others[part]), strict=True):
                bar.update()
                if made is None:
                    continue
                places = quadrants(made.image.geometry)
                for name, values in made.maps.items():
                    peak, mass, word = hits.setdefault(name, ([], [], []))
                    peak.append(float(places.flat[patch_order(values, rng)[0]] == collage.place))
                    mass.append(float(_heaviest(values, places, rng) == collage.place))
                    own = _word_map(made.outputs[name], collage.word) if name in with_words else None
                    if own is not None:
                        word.append(float(places.flat[patch_order(own, rng)[0]] == collage.place))
    return {name: Pointing(*map(_interval, three)) for name, three in hits.items()}  # type: ignore[arg-type]


def quadrants(geometry: Geometry) -> NDArray[np.intp]:
    """The `quadrant` of every cell ``[rows, columns]``."""
    return np.array(
        [[quadrant(geometry, row, column) for column in range(geometry.columns)] for row in range(geometry.rows)]
    )


def _heaviest(values: NDArray[np.float32], places: NDArray[np.intp], rng: np.random.Generator) -> int:
    """The quarter of the largest sum; one of them at random where several are equal."""
    sums = np.bincount(places.ravel(), weights=values.ravel(), minlength=4)
    return int(rng.choice(np.flatnonzero(np.isclose(sums, sums.max(), rtol=1e-6, atol=0.0))))


def _word_map(output: TextOutput, word: str) -> NDArray[np.float32] | None:
    """The map of a word: the mean of its tokens'. None where the text has no such word, or words no maps."""
    for found in output.words:
        if found.text.lower() == word:
            maps = [m.values for m in (output.tokens[i].map for i in found.tokens) if m is not None]
            return None if not maps else np.mean(maps, axis=0)
    return None


def _interval(values: Sequence[float]) -> Interval | None:
    return bootstrap(values, range(len(values))) if values else None
