"""What attention maps are worth, measured: behind ``crosslook-server eval --maps``.

Deletion and insertion (`model.evaluation.perturbation`) ask whether the answer hangs on the patches that a map ranks
first; pointing (`model.evaluation.pointing`) asks whether the map is highest where the answer can be seen. A map says
something only where it beats the controls (`model.evaluation.map_controls`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.evaluation.collages import COLLAGES
from model.evaluation.data import DataSet
from model.evaluation.judging import Interval, bootstrap, paired_bootstrap
from model.evaluation.map_controls import MapMaker, Variant, variants_of
from model.evaluation.perturbation import TEXTS, Curves, perturb
from model.evaluation.pointing import Pointing, collages_of, point, task_of
from model.evaluation.report import MapRow
from model.interface import MapKind, Model

ALL, MATTERS = "all", "image matters"


def measure_maps(
    model: Model,
    data: DataSet,
    split: str,
    *,
    images: int | None = None,
    texts: int = TEXTS,
    collages: int = COLLAGES,
    kinds: Sequence[MapKind] | None = None,
    layers: Sequence[tuple[int, ...] | None] = (None,),
    seed: int = 0,
) -> list[MapRow]:
    """Measure maps of ``kinds`` (None: all that the model offers) and ``layers``, and their controls.

    Deletion and insertion take at most ``texts`` texts about each image of the split (of ``images`` of them), for
    models that can mask patches; pointing takes ``collages`` collages made from the captions of the split, where it has
    some.

    Raises:
        ValueError: the model has no such kind or layer.
    """
    variants = variants_of(model.info, kinds, layers)
    if not variants:
        return []
    maker = MapMaker(model, task_of(model), variants)
    curves = perturb(maker, data, split, images=images, texts=texts, seed=seed)
    pointed = point(maker, data, collages_of(data, split, collages, seed), seed=seed)
    return rows_of(variants, curves, pointed)


def rows_of(variants: Sequence[Variant], curves: Curves, pointed: Mapping[str, Pointing]) -> list[MapRow]:
    """A row for every map over all questions, and one over those where the image matters."""
    variant_of = {variant.name: variant for variant in variants}
    rows = [
        _row(name, ALL, variant_of.get(name), curves, None, pointed.get(name)) for name in curves.deletion or pointed
    ]
    which = np.flatnonzero(curves.matters)
    if len(which):
        rows += [_row(name, MATTERS, variant_of.get(name), curves, which, None) for name in curves.deletion]
    return rows


def _row(
    name: str,
    about: str,
    variant: Variant | None,
    curves: Curves,
    which: NDArray[np.intp] | None,
    pointed: Pointing | None,
) -> MapRow:
    """The figures of one map over the questions ``which`` (None: all); ``variant`` is None for a control."""
    chosen = np.arange(len(curves.images)) if which is None else which
    images = [curves.images[i] for i in chosen]

    def interval(curve: dict[str, list[float]]) -> Interval | None:
        return bootstrap(np.asarray(curve[name])[chosen], images) if name in curve else None

    def gain(curve: dict[str, list[float]], low_is_good: bool) -> tuple[Interval | None, bool | None]:
        """The paired difference to the control that is hardest to beat, and whether even the two intervals (which do
        not know that the questions are the same) are apart for every control; None where one image has no interval."""
        if variant is None or name not in curve:
            return None, None
        own = np.asarray(curve[name])[chosen]
        against = {c: np.asarray(curve[c])[chosen] for c in variant.controls if c in curve}
        sign = -1.0 if low_is_good else 1.0
        hardest = max(against.values(), key=lambda values: sign * values.mean())
        mine, theirs = bootstrap(own, images), [bootstrap(values, images) for values in against.values()]
        apart = all(mine.high < t.low if low_is_good else mine.low > t.high for t in theirs)
        return paired_bootstrap(own, hardest, images), apart if mine.known else None

    deletion_gain, deletion_apart = gain(curves.deletion, True)
    insertion_gain, insertion_apart = gain(curves.insertion, False)
    return MapRow(
        name=name,
        about=about,
        deletion=interval(curves.deletion),
        insertion=interval(curves.insertion),
        pointing=None if pointed is None else pointed.peak,
        pointing_mass=None if pointed is None else pointed.mass,
        pointing_word=None if pointed is None else pointed.word,
        deletion_gain=deletion_gain,
        insertion_gain=insertion_gain,
        deletion_apart=deletion_apart,
        insertion_apart=insertion_apart,
        control=variant is None,
    )
