"""What attention maps are worth, measured: behind ``crosslook-server eval --maps``.

* **Deletion**: patches are taken from the model (masked as keys of its cross-attention) in the map's order, highest
  first. The sooner the probability of the model's own answer falls, the better: the area under the curve, low is good.
* **Insertion**: the same from nothing: patches are given in the map's order, high is good.
* **Pointing**: on boards of four images (`model.training.boards`), how often the map's highest cell lies in the one
  that the question asks about.

A map says something only where it beats the controls: patches in random order (``uniform``), from the centre outwards
(``centre``), the map of the same kind for another image's question about the same image (``other question``), and the
map of the same kind from the model with the weights of its cross-attention shuffled (``random weights``).
Source: Petsiuk et al. 2018 (RISE) for deletion and insertion, Zhang et al. 2018 for pointing, Adebayo et al. 2018 for
the randomised model; masking keys instead of pixels needs no second vision pass and shows the model no unnatural image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from model.cross_attention import CrossAttention
from model.interface import EncodedImage, Geometry, Item, ItemError, MapKind, MapRequest, Model, TextOutput
from model.training.ask import encode_images
from model.training.boards import make_boards, quadrant
from model.training.data import DataSet, ImageRef
from model.training.metrics import Interval, bootstrap, paired_bootstrap
from model.training.report import MapRow

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of the patches, taken or given; 0 and 1 are always there
BOARDS = 400
_IMAGES_AT_ONCE = 8
_CENTRE_SIGMA = 0.25  # of the grid's side
_IMAGE_MATTERS = 0.1  # the image must raise the answer's probability by so much over having no patch at all

Map = NDArray[np.float32]


@runtime_checkable
class Maskable(Protocol):
    """What deletion and insertion ask of a model beyond `Model`."""

    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating]:
        """The probability ``[n]`` of ``answer`` to ``text`` where the cross-attention may look only at the patches
        that ``keep`` ``[n, rows, columns]`` has True."""
        ...


def measure_maps(
    model: Model, data: DataSet, split: str, *, images: int | None = None, seed: int = 0, boards: int = BOARDS
) -> list[MapRow]:
    """Measure every kind of map that the model offers, and the controls.

    Deletion and insertion use one question of each image of the split (of ``images`` of them), for models that can mask
    patches; pointing uses boards made from the captions of the split, where it has some.
    """
    random_model = with_shuffled_attention(model)
    kinds = model.info.map_kinds
    curves, matters, groups = _perturb(model, random_model, data, split, images, seed)
    pointing = _point(model, random_model, data, split, min(boards, images or boards), seed)
    rows: list[MapRow] = []
    for about, which in (("all", None), ("image matters", matters)):
        chosen = [i for i in range(len(groups)) if which is None or which[i]]
        if not chosen and (which is not None or not pointing):
            continue
        for name in curves or pointing:
            rows.append(_row(name, about, kinds, curves, pointing if which is None else {}, groups, chosen))
    return rows


def with_shuffled_attention(model: Model, seed: int = 0) -> Model:
    """A copy of the model with the entries of each weight of its cross-attention shuffled: as sharp as before, and no
    longer trained to look anywhere.

    Raises:
        ValueError: the model has no `CrossAttention` in any attribute of it.
    """
    shuffled = copy.deepcopy(model)
    modules = [shuffled] if isinstance(shuffled, nn.Module) else vars(shuffled).values()
    layers = [
        layer
        for module in modules
        if isinstance(module, nn.Module)
        for layer in module.modules()
        if isinstance(layer, CrossAttention)
    ]
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


def area(fractions: Sequence[float], values: NDArray[np.floating]) -> float:
    """The area under a curve over the fraction of patches, from 0 to 1."""
    return float(np.trapezoid(values, fractions))


def patch_order(values: Map, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indexes of a map's cells, highest first, ties in random order."""
    flat = values.ravel()
    return np.lexsort((rng.permutation(len(flat)), -flat))


def keep_masks(order: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches stay ``[2 * len(FRACTIONS), rows, columns]``: first for deletion, then for insertion."""
    masks = np.zeros((2 * len(FRACTIONS), len(order)), dtype=np.bool_)
    for i, fraction in enumerate(FRACTIONS):
        count = max(1, round(fraction * len(order)))
        masks[i, order[count:]] = True
        masks[len(FRACTIONS) + i, order[:count]] = True
    return masks.reshape(-1, *shape)


def centre_map(rows: int, columns: int) -> Map:
    """A Gaussian around the middle of the grid."""
    y = (np.arange(rows) + 0.5) / rows - 0.5
    x = (np.arange(columns) + 0.5) / columns - 0.5
    squared = y[:, None] ** 2 + x[None, :] ** 2
    return np.exp(-squared / (2 * _CENTRE_SIGMA**2)).astype(np.float32)


def _maps(
    model: Model, random_model: Model, encoded: EncodedImage, at_random: EncodedImage, text: str, other: str
) -> tuple[TextOutput, dict[str, Map]] | None:
    """The answer to ``text`` and every map to rank patches by; None where the model refuses one of the texts."""
    geometry: Geometry = encoded.geometry
    maps = {
        "uniform": np.zeros((geometry.rows, geometry.columns), dtype=np.float32),
        "centre": centre_map(geometry.rows, geometry.columns),
    }
    answer: TextOutput | None = None
    for kind in model.info.map_kinds:
        own = _run(model, encoded, (text, other), kind)
        randomly = _run(random_model, at_random, (text,), kind)
        if own is None or randomly is None:
            return None
        answer = own[0]
        for name, output in ((kind, own[0]), (_other(kind), own[1]), (_random(kind), randomly[0])):
            if output.answer_map is None:
                return None
            maps[name] = output.answer_map.values
    return None if answer is None else (answer, maps)


def _other(kind: MapKind) -> str:
    return f"{kind}, other question"


def _random(kind: MapKind) -> str:
    return f"{kind}, random weights"


def _run(model: Model, image: EncodedImage, texts: tuple[str, ...], kind: MapKind) -> tuple[TextOutput, ...] | None:
    (output,) = model.run("answer", [Item(image, texts, top_k=1, maps=MapRequest(kind))])
    return None if isinstance(output, ItemError) else output.texts


Curves = dict[str, tuple[list[float], list[float]]]


def _perturb(
    model: Model, random_model: Model, data: DataSet, split: str, images: int | None, seed: int
) -> tuple[Curves, list[bool], list[ImageRef]]:
    """Areas of deletion and insertion by map, one a question; whether the image matters to it; its image."""
    curves: Curves = {}
    matters: list[bool] = []
    groups: list[ImageRef] = []
    if not isinstance(model, Maskable):
        return curves, matters, groups
    rng = np.random.default_rng(seed)
    of_image: dict[ImageRef, list[str]] = {}
    for question in data.questions:
        if question.split == split:
            of_image.setdefault(question.image_ref, []).append(question.question)
    refs = [list(of_image)[i] for i in rng.permutation(len(of_image))[:images]]
    asked = [str(rng.choice(of_image[ref])) for ref in refs]
    grid = (0.0, *FRACTIONS, 1.0)
    with tqdm(total=len(refs), desc="deletion and insertion", unit="question", disable=None) as bar:
        for start in range(0, len(refs), _IMAGES_AT_ONCE):
            part = range(start, min(start + _IMAGES_AT_ONCE, len(refs)))
            opened = [data.open_image(refs[i]) for i in part]
            both = zip(encode_images(model, opened), encode_images(random_model, opened), strict=True)
            for i, (encoded, at_random) in zip(part, both, strict=True):
                bar.update()
                found = _maps(model, random_model, encoded, at_random, asked[i], _another(asked, i))
                if found is None:
                    continue
                output, maps = found
                shape = (encoded.geometry.rows, encoded.geometry.columns)
                masks = [np.ones((1, *shape), np.bool_), np.zeros((1, *shape), np.bool_)]
                masks += [keep_masks(patch_order(values, rng), shape) for values in maps.values()]
                scores = model.score_masked(encoded, asked[i], np.concatenate(masks), output.ranking[0].answer)
                full, none = float(scores[0]), float(scores[1])
                parts = scores[2:].reshape(len(maps), 2, len(FRACTIONS))
                for name, (deleted, inserted) in zip(maps, parts, strict=True):
                    deletion, insertion = curves.setdefault(name, ([], []))
                    deletion.append(area(grid, np.array([full, *deleted, none])))
                    insertion.append(area(grid, np.array([none, *inserted, full])))
                matters.append(full - none >= _IMAGE_MATTERS)
                groups.append(refs[i])
    return curves, matters, groups


def _another(asked: Sequence[str], own: int) -> str:
    """The next question in the (random) order whose wording differs."""
    for step in range(1, len(asked)):
        if asked[(own + step) % len(asked)] != asked[own]:
            return asked[(own + step) % len(asked)]
    return asked[own]


def _point(model: Model, random_model: Model, data: DataSet, split: str, count: int, seed: int) -> dict[str, Interval]:
    """By map, how often its highest cell lies in the image that the question asks about."""
    rng = np.random.default_rng((seed, 1))  # its own stream: places are drawn from the seed alone
    boards = make_boards([record for record in data.captions if record.split == split], count, seed=seed)
    asked = [board.question for board in boards]
    hits: dict[str, list[float]] = {}
    for i, board in enumerate(tqdm(boards, desc="pointing", unit="board", disable=None)):
        image = board.compose(data.open_image)
        (encoded,), (at_random,) = encode_images(model, [image]), encode_images(random_model, [image])
        found = _maps(model, random_model, encoded, at_random, board.question, _another(asked, i))
        if found is None:
            continue
        for name, values in found[1].items():
            row, column = divmod(int(patch_order(values, rng)[0]), values.shape[1])
            hits.setdefault(name, []).append(float(quadrant(encoded.geometry, row, column) == board.place))
    return {name: bootstrap(values, range(len(values))) for name, values in hits.items()}


def _row(
    name: str,
    about: str,
    kinds: Sequence[MapKind],
    curves: Curves,
    pointing: dict[str, Interval],
    groups: Sequence[ImageRef],
    chosen: Sequence[int],
) -> MapRow:
    images = [groups[i] for i in chosen]

    def values(of: str, test: int) -> NDArray[np.float64]:
        return np.asarray(curves[of][test])[list(chosen)]

    def interval(test: int) -> Interval | None:
        return bootstrap(values(name, test), images) if curves else None

    def over_best_control(test: int, best: int) -> Interval | None:
        """The paired difference to the control that is hardest to beat."""
        if not curves or name not in kinds:
            return None
        controls = [
            other for other in curves if other not in kinds and other.partition(",")[0] in ("uniform", "centre", name)
        ]
        hardest = max(controls, key=lambda other: best * values(other, test).mean())
        return paired_bootstrap(values(name, test), values(hardest, test), images)

    return MapRow(
        name=name,
        about=about,
        deletion=interval(0),
        insertion=interval(1),
        pointing=pointing.get(name),
        deletion_gain=over_best_control(0, -1),
        insertion_gain=over_best_control(1, 1),
    )
